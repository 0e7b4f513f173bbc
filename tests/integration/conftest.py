"""One ingest daemon for all tests of a module: starting one takes longer than most tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kit.system import Ingest, System


@pytest.fixture(scope="module", params=["rsgi", "asgi"])
def shared_ingest(shared_system: System, request: pytest.FixtureRequest) -> Iterator[Ingest]:
    """A daemon with what the module's `CONFIG` says (keys as TALLYD_… without the prefix), by either interface: a
    request's answer must not depend on it."""
    with shared_system.ingest(HTTP__INTERFACE=request.param, **getattr(request.module, "CONFIG", {})) as ingest:
        yield ingest


@pytest.fixture
def ingest(shared_ingest: Ingest, shared_system: System) -> Ingest:
    """The module's daemon, with an empty Redis behind it."""
    shared_system.redis.flushall()
    return shared_ingest
