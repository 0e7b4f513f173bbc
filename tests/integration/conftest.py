"""One ingest daemon for all tests of a module: starting one takes longer than most tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.kit.stock import STOCK
from tests.kit.system import Ingest, System

SERVERS = {
    "rsgi": {"HTTP__INTERFACE": "rsgi"},
    "asgi": {"HTTP__INTERFACE": "asgi"},
    "stock": {"command": STOCK},
}
RUN = ["stock"] if os.environ.get("TEST_SERVER") == "stock" else ["rsgi", "asgi"]
"""`./justw stock` runs the tests on the ASGI application alone, without our main process."""


@pytest.fixture(scope="module", params=RUN)
def shared_ingest(shared_system: System, request: pytest.FixtureRequest) -> Iterator[Ingest]:
    """A daemon with what the module's `CONFIG` says (keys as TALLYD_… without the prefix), by either interface: a
    request's answer must not depend on it."""
    with shared_system.ingest(**SERVERS[request.param], **getattr(request.module, "CONFIG", {})) as ingest:
        yield ingest


@pytest.fixture
def ingest(shared_ingest: Ingest, shared_system: System) -> Ingest:
    """The module's daemon, with an empty Redis behind it."""
    shared_system.redis.flushall()
    return shared_ingest
