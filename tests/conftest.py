"""The servers every test shares, and a clean system for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from daemon.devstack import stack as embedded
from daemon.devstack.stack import StackInfo
from tests.kit.system import System

# How long an example takes says more about the machine than about the code.
settings.register_profile("tallyd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tallyd")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackInfo]:
    """Redis 7, MongoDB and MariaDB for the whole session. A missing server fails the run."""
    data = tmp_path_factory.mktemp("stack")
    info = embedded.up(data)
    try:
        if not info.mysql:
            pytest.exit("The tests need MariaDB: run ./justw test, or apt-get install mariadb-server.", returncode=1)
        yield info
    finally:
        embedded.down(data)


@pytest.fixture(scope="module")
def shared_system(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Stores that every test of the module shares."""
    system = System(stack, tmp_path_factory.mktemp("shared"))
    yield system
    system.close()


@pytest.fixture
def system(request: pytest.FixtureRequest, stack: StackInfo, tmp_path: Path) -> Iterator[System]:
    """Clean stores on the session's servers. The tests of a module with `ONE_SYSTEM = True` share one, emptied before
    each: MongoDB makes its indexes once. They may not change tables."""
    if getattr(request.module, "ONE_SYSTEM", False):
        shared: System = request.getfixturevalue("shared_system")
        shared.empty(tmp_path)
        yield shared
    else:
        clean = System(stack, tmp_path)
        yield clean
        clean.close()
