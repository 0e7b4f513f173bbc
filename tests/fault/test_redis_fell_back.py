"""A Redis that is killed with `appendfsync everysec` can come back without its last seconds.

What it forgot is not counted twice: the journal in MongoDB has the claims.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.errors import HeldError
from daemon.rollups.collections import JOURNAL
from tests.kit.pair import Pair
from tests.kit.servers import RedisServer
from tests.kit.system import System, event, wait_until

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
    return sum(counters.get("view", 0) for counters in system.rollup("totals").values())


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


def test_a_replica_that_took_over_without_a_claim_counts_it_once(system: System, tmp_path: Path) -> None:
    """It lagged: the claim and its ack were still on the line when the primary was killed."""
    with Pair(tmp_path).running() as pair:
        system.env["TALLYD_REDIS__URL"] = pair.url
        system.count(*(event(entity_id=f"m{n % 7}") for n in range(20)))
        wait_until(lambda: not pair.lag(), "the replica has them")
        pair.stream.hold()
        system.flush()
        assert total(system) == 20
        pair.fail_over()
        system.flush()
        assert total(system) == 20
        assert system.tallyd("audit", "--deep").returncode == 0


def history(pair: Pair) -> str:
    with pair.client() as client:
        return str(client.info("replication")["master_replid"])


def test_a_claim_waits_for_the_replica_but_not_for_ever(system: System, tmp_path: Path) -> None:
    with Pair(tmp_path).running() as pair:
        system.env |= {"TALLYD_REDIS__URL": pair.url, "TALLYD_FLUSH__REPLICATED_MS": "100"}
        system.flush()  # it is connected, and laid out
        system.count(event())
        system.flush()
        pair.stream.hold()
        system.count(event())
        system.flush()
        assert [entry["history"] for entry in system.mongo[JOURNAL].find().sort("seq", 1)] == [history(pair), ""]
        assert total(system) == 2


def test_a_replica_that_took_over_without_what_the_others_held_is_held(system: System, tmp_path: Path) -> None:
    """No crash explains that. An operator promoted the wrong one."""
    with Pair(tmp_path).running() as pair:
        system.env |= {"TALLYD_REDIS__URL": pair.url, "TALLYD_FLUSH__REPLICATED_MS": "1"}
        system.flush()
        pair.stream.hold()
        system.count(*(event() for _ in range(10)))
        system.flush()
        system.mongo[JOURNAL].update_many({}, {"$set": {"history": history(pair)}})  # as if another one had held it
        pair.fail_over()
        with pytest.raises(HeldError, match=r"at most this is lost: view 10"):
            system.flush()
        assert system.tallyd_here("shards", "accept", "0", "--reason", "a test")[0] == 0
        system.flush()
        assert total(system) == 0
