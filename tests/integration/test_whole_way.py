"""The whole way: HTTP → Redis → MongoDB → MySQL, over real sockets, with the real commands."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from daemon.domain.entity import Entity
from daemon.domain.rollup import BUCKETED, COMPLETE
from daemon.export.rows import Selection, rows
from daemon.read.series import Stretch, series
from daemon.rollups.mongo import MongoSink
from daemon.verify.audit.audit import auditor
from tests.kit.system import BATCH, System, event, expected_rollups, wait_until

ONE_SYSTEM = True

MOVIE = "0f8fad5b-d9cb-469f-a165-70867728950e"
ANY_FUTURE = {"TALLYD_INGEST__FUTURE_MAX_S": "2000000000"}
"""Lets a test count under days that are still to come."""


def test_an_event_reaches_the_five_rollups_and_the_replica_column(system: System) -> None:
    system.add_movies(MOVIE, "not-touched")
    with system.ingest() as ingest, system.flusher(FLUSH__INTERVAL_S="0.2"):
        assert ingest.post(event(occurred_at="2026-02-19T10:00:00Z", value=3)).status_code == 202
        wait_until(lambda: system.replica()[MOVIE] == (3, 0), "the replica column is set")
    assert system.rollups() == expected_rollups([(f"jav:movie:{MOVIE}", "view", dt.date(2026, 2, 19), 3)])
    assert system.replica()["not-touched"] == (0, 0)
    assert system.redis.zcard("anl:{0}:replica") == 0


def test_documents_have_the_documented_fields(system: System) -> None:
    system.env |= ANY_FUTURE
    with system.ingest() as ingest:
        ingest.post(event(entity_id="a:b/c", occurred_at="2027-01-01T00:00:00Z"))
    system.tallyd("flush", "--once")
    key = "jav:movie:a:b/c"
    buckets = {"totals": {}, "daily": {"date": "2027-01-01"}, "weekly": {"week": "2026-W53"}}
    buckets |= {"monthly": {"month": "2027-01"}, "yearly": {"year": "2027"}}
    for name, bucket in buckets.items():
        (document,) = system.mongo[f"analytics_entity_{name}"].find()
        seq, updated_at = document.pop("flush_seq"), document.pop("updated_at")
        assert document == {
            "_id": ":".join([key, *bucket.values()]),
            "domain": "jav", "entity_type": "movie", "entity_id": "a:b/c", "view": 1, "download": 0, **bucket,
        }  # fmt: skip
        assert isinstance(seq, int)
        assert abs(updated_at - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)


@pytest.mark.parametrize(
    ("occurred_at", "day"),
    [
        ("2026-02-19T23:30:00-02:00", dt.date(2026, 2, 20)),
        ("2026-02-20T00:30:00.25+07:00", dt.date(2026, 2, 19)),
        ("2024-02-29T12:00:00Z", dt.date(2024, 2, 29)),
        ("2024-12-30T00:00:00Z", dt.date(2024, 12, 30)),
        ("2027-01-01T23:59:59.9999999Z", dt.date(2027, 1, 1)),
    ],
)
def test_the_utc_date_decides_the_bucket(system: System, occurred_at: str, day: dt.date) -> None:
    system.env |= ANY_FUTURE
    with system.ingest() as ingest:
        assert ingest.post(event(entity_id="m", occurred_at=occurred_at)).status_code == 202
    system.tallyd("flush", "--once")
    assert system.rollups() == expected_rollups([("jav:movie:m", "view", day, 1)])


def test_an_event_from_the_future_is_counted_under_the_servers_time(system: System) -> None:
    now = dt.datetime.now(dt.UTC)
    with system.ingest() as ingest:
        far = event(entity_id="far", occurred_at=(now + dt.timedelta(days=400)).isoformat())
        near = event(entity_id="near", occurred_at=(now + dt.timedelta(minutes=4)).isoformat())
        assert ingest.post([far, near], BATCH).json()["accepted"] == 2
    system.tallyd("flush", "--once")
    days = {id_.rpartition(":")[0]: id_.rpartition(":")[2] for id_ in system.rollup("daily")}
    assert days["jav:movie:far"] in {now.date().isoformat(), dt.datetime.now(dt.UTC).date().isoformat()}
    assert days["jav:movie:near"] == (now + dt.timedelta(minutes=4)).date().isoformat()


def test_several_days_of_one_entity_in_one_claim(system: System) -> None:
    first = dt.date(2024, 12, 27)
    days = [first + dt.timedelta(n) for n in range(10)]
    with system.ingest() as ingest:
        events = [event(entity_id="m", occurred_at=f"{day}T12:00:00Z", value=n + 1) for n, day in enumerate(days)]
        assert ingest.post(events, BATCH).json() == {
            "status": "accepted", "accepted": 10, "duplicates": 0, "rejected": []
        }  # fmt: skip
    system.tallyd("flush", "--once")
    assert system.rollups() == expected_rollups([("jav:movie:m", "view", day, n + 1) for n, day in enumerate(days)])


def test_configured_actions_move_their_counters(system: System) -> None:
    system.env["TALLYD_ACTIONS"] = (
        '{"favorite": {"value_max": 1},'
        ' "rating": {"value_max": 5, "counters": {"rating_count": "one", "rating_sum": "value"}}}'
    )
    system.env["TALLYD_DOMAINS"] = '{"jav": {"entity_types": ["movie"]}}'
    with system.ingest() as ingest:
        for stars in (5, 3):
            assert ingest.post(event(entity_id="m", action="rating", value=stars)).status_code == 202
        assert ingest.post(event(entity_id="m", action="favorite", value=None)).status_code == 202
        assert ingest.post(event(entity_id="m", action="favorite", value=2)).status_code == 422
        assert ingest.post(event(entity_id="m", action="rating", value=6)).status_code == 422
    system.tallyd("flush", "--once")
    assert system.rollup("totals") == {"jav:movie:m": {"rating_count": 2, "rating_sum": 8, "favorite": 1}}


def test_flush_once_prints_what_it_did(system: System) -> None:
    system.add_movies("a")
    with system.ingest() as ingest:
        ingest.post([event(entity_id="a"), event(entity_id="b"), event(entity_type="actor", entity_id="c")], BATCH)
    text = system.tallyd("flush", "--once").stdout
    assert f"3 entities in 1 claims: {3 * len(COMPLETE)} documents written, 0 skipped" in text
    assert "1 replica rows set, 1 entities without a row" in text
    again = system.tallyd("flush", "--once", "--json").stdout
    assert '"entities": 0' in again


def test_status_top_and_series_show_what_was_counted(system: System) -> None:
    with system.ingest() as ingest:
        ingest.post([event(entity_id="a", value=2), event(entity_id="b", value=5), event(entity_id="a")], BATCH)
        before = system.tallyd("status").stdout
        assert "never" in before
        system.tallyd("flush", "--once")
    assert system.tallyd("status", "--json").stdout.count('"dirty": 0') == 1
    top = system.tallyd("top", "--json", "--limit", "1").stdout
    assert '"entity_id": "b"' in top
    assert '"view": 5' in top
    assert '"entity_id": "a"' not in top
    series = system.tallyd("series", "a", "--from", "2026-02-18", "--to", "2026-02-20", "--json").stdout
    assert [line.strip() for line in series.splitlines() if "view" in line] == ['"view": 0', '"view": 3', '"view": 0']
    assert (
        "2026-W08"
        in system.tallyd("series", "a", "--bucket", "weekly", "--from", "2026-02-18", "--to", "2026-02-20").stdout
    )


def test_every_rollup_in_the_list_can_be_read_exported_and_audited(system: System) -> None:
    at = dt.datetime(2026, 2, 19, 10, tzinfo=dt.UTC)
    system.env["TALLYD_DOMAINS"] = '{"jav": {"entity_types": ["movie"], "hourly": true}}'
    system.env["TALLYD_RETENTION__HOURLY_DAYS"] = "0"
    system.count(event(entity_id="a", value=3, occurred_at=at.isoformat()))
    system.flush()
    entity, day = Entity("jav", "movie", "a"), at.date()

    async def read() -> None:
        async with MongoSink(system.config().mongo) as mongo:
            for kind in BUCKETED:
                stretch = Stretch.of_days(kind.name, day - dt.timedelta(days=400), day)
                points = await series(mongo, entity, ["view"], stretch)
                bucket = kind.bucket_of(at)
                assert {point[kind.bucket_field]: point["view"] for point in points if point["view"]} == {bucket: 3}
                assert min(point[kind.bucket_field] for point in points) < bucket
                selection = Selection(kind, ("view",), ("jav", "movie"), day, day)
                found = [row async for chunk in rows(mongo, selection) for row in chunk]
                assert found == [(*entity, bucket, 3, 0)]
        async with auditor(system.config()) as by:
            report = await by.audit(thorough=True)
        assert (report.broken, report.exact, report.deep) == ([], True, True)

    asyncio.run(read())


def test_two_shards_count_like_one(system: System) -> None:
    system.env["TALLYD_REDIS__SHARDS"] = "2"
    ids = [f"m{n}" for n in range(20)]
    with system.ingest() as ingest:
        answer = ingest.post([event(entity_id=id_) for id_ in ids], BATCH)
        assert answer.json()["accepted"] == 20
    assert system.redis.scard("anl:{0}:dirty") > 0
    assert system.redis.scard("anl:{1}:dirty") > 0
    system.tallyd("flush", "--once")
    assert system.rollups() == expected_rollups([(f"jav:movie:{i}", "view", dt.date(2026, 2, 19), 1) for i in ids])
