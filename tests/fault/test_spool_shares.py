"""Redis away and senders that flood: the limit holds, and nobody fills the spool for the others."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.kit.servers import RedisServer
from tests.kit.system import BATCH, EVENTS, Ingest, System, event, wait_until

KEY = "a-shop-s-key-0123"
SMALL = {
    "SPOOL__BYTES_MAX": str(1_048_576),
    "SPOOL__SEGMENT_BYTES": "65536",
    "PRODUCERS__KEYS": json.dumps({"shop": KEY}),
    "REDIS__TIMEOUT_MS": "500",
    "SPOOL__PROBE_MS": "50",
    "REDIS__RECONNECT_MS": "50",
}
OWN = {"x-tallyd-key": KEY}
_addresses = (f"127.0.{10 + n // 250}.{1 + n % 250}" for n in itertools.count())


@pytest.fixture
def own_redis(system: System, tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(7, tmp_path / "redis") as server:
        system.use_redis(server)
        yield server


def visitor(ingest: Ingest) -> httpx.Client:
    transport = httpx.HTTPTransport(local_address=next(_addresses))
    return httpx.Client(base_url=ingest.url, transport=transport, timeout=10)


def batch(count: int = 500) -> list[dict[str, Any]]:
    return [event() for _ in range(count)]


def flood(client: httpx.Client, batches: int) -> int:
    """Sends batches until one is refused. Returns how many events were taken."""
    taken = 0
    for _ in range(batches):
        answer = client.post(BATCH, json=batch())
        if answer.status_code != 202:
            break
        taken += answer.json()["accepted"]
    return taken


def test_the_limit_holds_while_redis_is_away(system: System, own_redis: RedisServer) -> None:
    with system.ingest(**SMALL, RATE_LIMIT__PER_MINUTE="6") as ingest, visitor(ingest) as attacker:
        own_redis.freeze()
        answer = attacker.post(BATCH, json=batch())
        assert (answer.status_code, answer.json()["accepted"], answer.json()["limited"]) == (202, 6, 494)
        assert attacker.post(BATCH, json=batch()).status_code == 429
        assert attacker.post(EVENTS, json=event()).status_code == 429
        with visitor(ingest) as other:
            same = event()
            for left in ("5", "4"):  # whether it is a duplicate the replay will find out
                spooled = other.post(EVENTS, json=same)
                assert (spooled.status_code, spooled.headers["x-ratelimit-remaining"]) == (202, left)
                assert "x-tallyd-duplicate" not in spooled.headers
        assert ingest.post(batch(), BATCH, headers=OWN).json()["accepted"] == 500
        own_redis.thaw()
        wait_until(lambda: system.views() == 507, "the spool is replayed")


def test_one_address_fills_its_share_many_fill_theirs_and_producers_with_a_key_have_the_rest(
    system: System, own_redis: RedisServer
) -> None:
    taken = 0
    with system.ingest(**SMALL, RATE_LIMIT__PER_MINUTE="0") as ingest:
        own_redis.freeze()
        with visitor(ingest) as attacker:
            taken += (alone := flood(attacker, 100))
            assert 0 < alone * 90 < 1_048_576 // 5, "about a tenth"
            assert attacker.post(BATCH, json=batch()).status_code == 503
        for _ in range(5):
            with visitor(ingest) as other:
                assert other.post(EVENTS, json=event()).status_code == 202
                taken += 1
        for _ in range(40):
            with visitor(ingest) as attacker:
                taken += (more := flood(attacker, 100))
            if not more:
                break
        assert not more, "together they fill what is not kept for producers"
        for _ in range(3):
            assert ingest.post(batch(), BATCH, headers=OWN).json()["accepted"] == 500
            taken += 500
        own_redis.thaw()
        wait_until(lambda: system.views() == taken, "the spool is replayed, and every answer was true")
        with visitor(ingest) as attacker:
            wait_until(lambda: attacker.post(EVENTS, json=event()).status_code == 202, "all are let in again")
    system.flush()
    assert "The law holds" in system.tallyd("audit").stdout
