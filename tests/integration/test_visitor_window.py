"""The visitor window: raw and filtered counts side by side, over HTTP and whichever worker answers."""

from __future__ import annotations

import datetime as dt
import json

import httpx
import pytest

from tests.kit.system import BATCH, EVENTS, Ingest, System, event

KEY = "a-shop-s-key-0123"
ANNE, BERT = {"user-agent": "Mozilla/5.0 Firefox/133.0"}, {"user-agent": "Mozilla/5.0 Safari/605.1"}
SETTINGS = {
    "ACTIONS": json.dumps({"view": {"visitor_window_s": 30}, "download": {}}),
    "PRODUCERS__KEYS": json.dumps({"shop": KEY}),
}


def views(system: System) -> dict[str, int]:
    found = system.ledger()
    return {name: found.get(f"accepted:{name}", 0) for name in ("view", "view_raw", "download")}


def send(ingest: Ingest, headers: dict[str, str], times: int = 1, **fields: object) -> None:
    for _ in range(times):  # each over a connection of its own: either worker may get it
        sent = httpx.post(ingest.url + EVENTS, json=event(**{"entity_id": "m", **fields}), headers=headers)
        assert (sent.status_code, sent.json()) == (202, {"status": "accepted"})


@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_what_a_visitor_repeats_counts_as_raw_only(system: System, interface: str) -> None:
    system.env |= system.environ(HTTP__INTERFACE=interface, HTTP__WORKERS="2", **SETTINGS)
    with system.ingest() as ingest:
        send(ingest, ANNE, times=6)
        assert views(system) == {"view": 1, "view_raw": 6, "download": 0}
        send(ingest, BERT, times=2)
        send(ingest, ANNE, entity_id="other")
        send(ingest, ANNE, action="download", times=2)
        assert views(system) == {"view": 3, "view_raw": 9, "download": 2}
        batch = [event(entity_id="m") for _ in range(3)]
        assert ingest.post(batch, BATCH, headers=ANNE).json()["accepted"] == 3
        assert views(system) == {"view": 3, "view_raw": 12, "download": 2}
        send(ingest, {**ANNE, "x-tallyd-key": KEY}, times=2)
        assert views(system) == {"view": 5, "view_raw": 14, "download": 2}, "a producer's events all count"
        system.flush()
        read = ingest.client.get("/api/v1/analytics/totals/jav/movie/m", params={"fresh": "1"})
        assert read.json()["counters"] == {"download": 2, "view": 4, "view_raw": 13}
    system.audit()


def test_the_secret_of_the_day_expires_and_lies_beside_no_count(system: System) -> None:
    with system.ingest(**SETTINGS) as ingest:
        send(ingest, ANNE)
    (key,) = system.redis.keys("anl:salt:*")
    assert key.decode() == f"anl:salt:{dt.datetime.now(dt.UTC).date()}"
    assert 0 < system.redis.ttl(key) <= 172_800
    (visit,) = system.redis.keys("anl:{0}:visit:*")
    assert 0 < system.redis.pttl(visit) <= 30_000
    assert b"127.0.0.1" not in visit


def test_without_a_window_nobody_is_hashed(system: System) -> None:
    with system.ingest() as ingest:
        send(ingest, ANNE, times=2)
    assert system.redis.keys("anl:salt:*") + system.redis.keys("anl:{0}:visit:*") == []
    assert system.ledger() == {"accepted:view": 2}
