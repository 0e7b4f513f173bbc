"""The servers every test shares, and a clean system for each test that asks for one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from hypothesis import HealthCheck, settings

from daemon.errors import StackError
from tests.kit.cluster import Cluster
from tests.kit.servers import RedisServer, Stack
from tests.kit.system import System

MEMORY = Path("/dev/shm")
MEMORY_FREE_MIN = 2**31
"""Bytes. The servers of four processes take a third of it."""

# How long an example takes says more about the machine than about the code.
settings.register_profile("tallyd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tallyd")


AS_ROOT = ["fault/test_hosts_apart.py"]
"""They make networks. tests/systemd says so itself."""
collect_ignore = AS_ROOT if os.geteuid() != 0 else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.geteuid() != 0:
        terminalreporter.write_line("tests/systemd was left out: it boots a machine, which only root may.")
        terminalreporter.write_line(f"{', '.join(AS_ROOT)} was left out: it makes networks, which only root may.")


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the servers keep their data: in memory if there is room. A disk makes them wait at every new collection and
    table. That is for the loss of power, which no test brings about; a server that is killed finds its files."""
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < MEMORY_FREE_MIN:
        yield tmp_path_factory.mktemp("stack")
        return
    prefix = "tallyd-tests-"
    for left in MEMORY.glob(f"{prefix}*-*"):  # by a session that was killed
        if not psutil.pid_exists(int(left.name.removeprefix(prefix).partition("-")[0])):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-", dir=MEMORY) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def stack(server_folder: Path) -> Iterator[Stack]:
    """Redis 7, MongoDB and MariaDB for the whole session. A missing server fails the run."""
    try:
        servers = Stack(server_folder)
    except StackError as error:
        pytest.exit(f"A server is missing: {error}", returncode=1)
    with servers:
        yield servers


@pytest.fixture(scope="session")
def cluster_nodes(server_folder: Path) -> Iterator[Cluster]:
    """A Redis Cluster of six nodes for the whole session: for `cluster` below, and for tests without daemons."""
    with Cluster(server_folder / "cluster") as nodes:
        yield nodes


@pytest.fixture
def cluster(cluster_nodes: Cluster, system: System) -> Cluster:
    """The cluster, whole and empty, as the Redis of `system`. It has 8 shards, on all three primaries."""
    cluster_nodes.restore()
    system.env |= {"TALLYD_REDIS__URL": cluster_nodes.url, "TALLYD_REDIS__SHARDS": "8"}
    return cluster_nodes


@pytest.fixture(scope="session", params=[6, 7], ids=["redis6", "redis7"])
def each_redis(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """A client of each Redis that tallyd runs on: 6.2 (the wheel's) and 7 (the system's)."""
    with RedisServer(request.param, tmp_path_factory.mktemp("redis")) as server, server.client() as client:
        assert client.info("server")["redis_version"].startswith(f"{request.param}.")
        yield client


@pytest.fixture(scope="module")
def shared_system(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Stores that every test of the module shares."""
    system = System(stack, tmp_path_factory.mktemp("shared"))
    yield system
    system.close()


@pytest.fixture
def system(request: pytest.FixtureRequest, stack: Stack, tmp_path: Path) -> Iterator[System]:
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
