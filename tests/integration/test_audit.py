"""The audit finds what is wrong, and nothing where nothing is: each law is broken by hand, and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import msgpack

from daemon.buffer.connection import Connection
from daemon.buffer.counters import Claim, Counters, Limits
from daemon.buffer.layout import Layout
from daemon.cli.options import run
from daemon.domain.rollup import KINDS, TOTALS
from daemon.rollups.build import Builder
from daemon.rollups.floors import read_floor
from daemon.rollups.mongo import MongoSink
from tests.kit.system import BATCH, System, event

ONE_SYSTEM = True


@pytest.fixture
def counted(system: System) -> System:
    """Three movies counted, flushed and synced; one of them has live counts on top, and one is only live."""
    system.add_movies("a", "b", "c")
    first = [event(entity_id=id_, value=n) for n, id_ in enumerate("abc", start=1)]
    system.count(*first, first[0], event(entity_id="a", action="download"))
    system.flush()
    system.count(event(entity_id="a", value=10), event(entity_id="d", value=5))
    return system


def audit(system: System, *options: str) -> dict[str, Any]:
    return system.audit(*options, check=False)


def broken(system: System, *options: str) -> set[tuple[str, str, int]]:
    report = audit(system, *options)
    assert report["exact"]
    return {(found["law"], found["counter"], found["difference"]) for found in report["broken"]}


def views(report: dict[str, Any], *names: str) -> tuple[int, ...]:
    (line,) = [line for line in report["lines"] if line["counter"] == "view"]
    return tuple(line[name] for name in names)


def test_the_law_holds_with_live_flushed_and_duplicate_events(counted: System) -> None:
    report = audit(counted, "--deep")
    assert report["exact"]
    assert report["holds"]
    assert views(report, "accepted", "live", "in_flight", "applied") == (21, 15, 0, 6)


def test_it_holds_on_an_empty_system(system: System) -> None:
    system.flush()
    assert audit(system, "--deep")["holds"]


def test_it_holds_with_a_batch_in_flight_that_is_half_applied(counted: System) -> None:
    claim_and_write_totals_only(counted)
    report = audit(counted, "--deep")
    assert report["exact"]
    assert report["broken"] == []
    assert views(report, "live", "in_flight", "applied") == (0, 15, 6)


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda s: s.redis.delete("anl:{0}:counters:jav:movie:d"), {("conservation", -5), ("ledger", -5)}),
        (lambda s: s.redis.hincrby("anl:{0}:ledger", "accepted:view"), {("conservation", -1), ("ledger", -1)}),
        (lambda s: s.mongo["analytics_entity_weekly"].delete_one({"entity_id": "c"}), {("rollups", -3)}),
    ],
    ids=["a deleted Redis hash", "an edited ledger", "a deleted rollup document"],
)
def test_harm_is_found(counted: System, harm: Callable[[System], object], named: set[tuple[str, int]]) -> None:
    harm(counted)
    assert broken(counted) == {(law, "view", difference) for law, difference in named}


def test_an_edited_totals_document_is_found(counted: System) -> None:
    counted.mongo["analytics_entity_totals"].update_one({"_id": "jav:movie:b"}, {"$inc": {"view": 7}})
    found = broken(counted, "--deep")
    assert ("conservation", "view", 7) in found
    assert ("rollups", "view", -7) in found
    assert ("deep", "view", -7) in found
    assert ("replica", "view", -7) in found


def test_edits_that_cancel_out_are_found_by_deep_only(counted: System) -> None:
    daily = counted.mongo["analytics_entity_daily"]
    daily.update_one({"entity_id": "a"}, {"$inc": {"view": 1}})
    daily.update_one({"entity_id": "b"}, {"$inc": {"view": -1}})
    assert broken(counted) == set()
    assert broken(counted, "--deep") == {("deep", "view", 1), ("deep", "view", -1)}


def test_a_changed_replica_column_is_found_and_mended(counted: System) -> None:
    counted.sql("UPDATE jav SET views = views + 100 WHERE uuid = 'b'")
    assert broken(counted) == {("replica", "view", 100)}
    done = counted.tallyd("audit", "--repair-replica", "--json")
    assert json.loads(done.stdout)["repaired"] == 1
    assert counted.replica()["b"] == (2, 0)
    assert broken(counted) == set()


def test_a_row_that_is_due_is_pending_and_no_difference(counted: System) -> None:
    counted.sql("UPDATE jav SET views = 0 WHERE uuid = 'b'")
    counted.redis.zadd("anl:{0}:replica", {"jav:movie:b": 1})
    report = audit(counted)
    assert report["holds"]
    assert report["rows_pending"] == 1


def test_a_redis_that_lost_its_memory_starts_from_what_was_flushed(counted: System) -> None:
    counted.redis.flushall()
    assert audit(counted)["holds"]
    counted.count(event(entity_id="a", value=4))
    assert audit(counted)["holds"]
    counted.flush()
    report = audit(counted, "--deep")
    assert report["holds"]
    assert views(report, "accepted", "baseline", "applied") == (4, 6, 10)


def test_foreign_values_in_redis_are_counted_and_break_nothing(counted: System) -> None:
    counted.redis.hset("anl:{0}:ledger", "accepted:nonsense", "many")
    counted.redis.hset("anl:{0}:counters:jav:movie:d", "view:yesterday", "3")
    counted.redis.set("anl:{0}:counters:jav:movie:e", "no hash")
    counted.redis.sadd("anl:{0}:dirty", "jav:movie:e")
    report = audit(counted)
    assert report["broken"] == []
    assert report["malformed"] == 2
    claim_and_write_totals_only(counted)  # the same in flight, with bytes that are no text
    payload = msgpack.encode(["jav:movie:a", 1, "view:2026-02-19", "10", "jav:movie:d", 2, "view:2026-02-19", "5"])
    payload += msgpack.encode("?:x") + msgpack.encode("1")
    [part] = [field for field in counted.redis.hkeys("anl:{0}:claim") if field.startswith(b"payload:")]
    counted.redis.hset("anl:{0}:claim", part, b"\x9a" + payload[1:].replace(b"?", b"\xff"))
    report = audit(counted)
    assert report["broken"] == []
    assert report["malformed"] == 1
    assert "accepted" in counted.tallyd("status").stdout


def test_it_holds_under_traffic(counted: System) -> None:
    with counted.ingest() as ingest, counted.flusher(FLUSH__INTERVAL_S="0.05", FLUSH__POLL_MS="10"):
        for _ in range(3):
            ingest.post([event(entity_id=f"m{n}") for n in range(300)], BATCH)
            assert audit(counted)["holds"]


def claim_and_write_totals_only(system: System) -> None:
    """Leaves a claim in flight of which MongoDB has the totals and nothing else."""
    config = system.config()

    async def work() -> None:
        connection, mongo = Connection(config.redis, Layout(config)), MongoSink(config.mongo)
        counters = Counters(connection, 0, Limits.of(config))
        floor = (await read_floor(mongo, 0)).name
        claim = await counters.claim(
            Builder, owner="test", floor=floor, lease_ms=60_000, entities_max=100, fields_max=1000, us_max=10_000
        )
        assert isinstance(claim, Claim)
        rollup = claim.content.rollup()
        only = {kind: rollup.documents[kind] if kind is TOTALS else [] for kind in KINDS}
        await mongo.write(rollup._replace(documents=only), claim.seq, {})
        await mongo.close()
        await connection.close()

    run(work())
