"""A single Redis with `appendfsync everysec` that loses its power, and with it its last seconds: every event counts
once, as long as the machine that took it lives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.pair import CutBack
from tests.kit.proxy import Proxy
from tests.kit.system import BATCH, Ingest, System, event, wait_until

QUICK = {"FLUSH__INTERVAL_S": "0.1", "FLUSH__RETRY_MS": "50", "FLUSH__RETRY_MAX_MS": "100", "REDIS__RECONNECT_MS": "50"}
CLAIM = "anl:{0}:claim"


@pytest.fixture
def redis(system: System, tmp_path: Path) -> Iterator[CutBack]:
    with CutBack(tmp_path) as server:
        system.use_redis(server)
        yield server


def send(ingest: Ingest, events: int) -> None:
    for start in range(0, events, 100):
        batch = [event(entity_id=f"m{n % 7}") for n in range(start, min(start + 100, events))]
        assert ingest.post(batch, BATCH).status_code == 202


def total(system: System) -> int:
    return sum(counters["view"] for counters in system.rollup("totals").values())


def is_drained(system: System) -> bool:
    return not (system.redis.scard("anl:{0}:dirty") or system.redis.hexists(CLAIM, "seq"))


def test_what_was_flushed_in_the_lost_seconds_is_not_flushed_again(system: System, redis: CutBack) -> None:
    """1,000 counts wait for MongoDB. They are flushed in the second that is lost."""
    mongo = Proxy(system.env["TALLYD_MONGO__URL"])
    with mongo.running(), system.ingest(**QUICK) as ingest, system.flusher(**QUICK, MONGO__URL=mongo.url()):
        mongo.cut()
        send(ingest, 1_000)
        wait_until(lambda: system.views() == 1_000, "Redis has them")
        length = redis.remember()
        mongo.restore()
        wait_until(lambda: total(system) == 1_000 and is_drained(system), "they are flushed")
        redis.fall_back(length)
        send(ingest, 10)
        wait_until(lambda: total(system) >= 1_010 and is_drained(system), "all is flushed")
    assert total(system) == 1_010
