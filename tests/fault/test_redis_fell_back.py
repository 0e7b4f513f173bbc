"""A Redis that is killed with `appendfsync everysec` can come back without its last seconds.

What it forgot is not counted twice: the journal in MongoDB has the claims.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.servers import RedisServer
from tests.kit.system import System, event

AOF = "appendonlydir"


class FallingBack:
    """A Redis of the test's own, and the state it had when `remember` was called."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._log, self._earlier = server.data / AOF, server.data / "earlier"

    def remember(self) -> None:
        shutil.copytree(self._log, self._earlier)

    def fall_back(self) -> None:
        self._server.kill()
        shutil.rmtree(self._log)
        self._earlier.rename(self._log)
        self._server.start()


@pytest.fixture
def redis(system: System, tmp_path: Path) -> Iterator[FallingBack]:
    with RedisServer(7, tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        system.use_redis(server)
        yield FallingBack(server)


def total(system: System) -> int:
    return sum(counters["view"] for counters in system.rollup("totals").values())


def test_a_claim_that_redis_forgot_is_not_counted_again(system: System, redis: FallingBack) -> None:
    system.count(*(event(entity_id=f"m{n % 7}") for n in range(40)))
    redis.remember()
    system.flush()
    assert total(system) == 40
    redis.fall_back()
    system.flush()
    assert total(system) == 40
    assert system.tallyd("audit", "--deep").returncode == 0


def test_an_event_that_redis_forgot_is_lost_and_the_audit_cannot_know_it(system: System, redis: FallingBack) -> None:
    system.count(event())
    redis.remember()
    system.count(event())
    redis.fall_back()
    system.flush()
    assert total(system) == 1
    assert system.tallyd("audit").returncode == 0
