"""A domain that counts by hours: what is stored, what is not, what expires, and what the audit says of it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from daemon.domain.rollup import DAILY, HOURLY
from daemon.retention.expire import QUIET_DAYS
from daemon.rollups.collections import EXPIRY
from tests.kit.system import System, event
from tests.kit.takeover import add_rows, audited, backfill

ONE_SYSTEM = True
HOURS = {
    "TALLYD_DOMAINS": json.dumps(
        {"jav": {"entity_types": ["movie"], "hourly": True}, "web": {"entity_types": ["page"]}}
    )
}
MOVIES = json.dumps({"table": "jav", "key": "uuid", "columns": {"view": "views", "download": "downloads"}})
NOW = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0)
"""The first instant of the hour in which the tests began."""
HOUR = dt.timedelta(hours=1)
Read = Callable[..., dict[str, Any]]
EXPIRED = HOURLY.expired_collection


@pytest.fixture
def hours(system: System) -> System:
    system.env |= HOURS
    return system


def at(back: dt.timedelta = dt.timedelta(), **fields: Any) -> dict[str, Any]:
    """An event of an hour before this one."""
    return event(**{"entity_id": "a", "occurred_at": (NOW - back).isoformat(), **fields})


def name(back: dt.timedelta = dt.timedelta()) -> str:
    return HOURLY.bucket_of(NOW - back)


def test_an_event_adds_to_its_hour_and_to_all_that_it_added_to_before(hours: System) -> None:
    hours.count(at(value=2), at(HOUR, value=3), at(HOUR, action="download"), at(entity_id="b", value=5))
    hours.flush()
    assert hours.rollup("hourly") == {
        f"jav:movie:a:{name()}": {"view": 2}, f"jav:movie:a:{name(HOUR)}": {"view": 3, "download": 1},
        f"jav:movie:b:{name()}": {"view": 5},
    }  # fmt: skip
    assert hours.rollup("totals") == {"jav:movie:a": {"view": 5, "download": 1}, "jav:movie:b": {"view": 5}}
    document = hours.mongo[HOURLY.collection].find_one({"_id": f"jav:movie:b:{name()}"})
    assert {*document} == {
        "_id", "domain", "entity_type", "entity_id", "hour", "view", "download", "flush_seq", "updated_at"
    }  # fmt: skip
    assert (document["hour"], document["download"]) == (name(), 0)
    assert audited(hours) == set()


def test_nothing_of_an_hour_is_stored_without_the_switch(hours: System) -> None:
    hours.count(event(domain="web", entity_type="page", entity_id="p", occurred_at=NOW.isoformat()))
    assert hours.redis.hkeys("anl:{0}:counters:web:page:p") == [f"view:{NOW.date()}".encode()]
    hours.flush()
    assert hours.rollup("hourly") == {}
    assert set(hours.rollup("daily")) == {f"web:page:p:{NOW.date()}"}


def test_an_event_older_than_the_hours_that_are_kept_makes_none(hours: System) -> None:
    hours.env["TALLYD_RETENTION__HOURLY_DAYS"] = "2"
    hours.count(at(49 * HOUR), at(46 * HOUR, value=3))
    hours.flush()
    assert hours.rollup("hourly") == {f"jav:movie:a:{name(46 * HOUR)}": {"view": 3}}
    assert hours.rollup("totals") == {"jav:movie:a": {"view": 4}}
    assert audited(hours) == set()


def test_days_and_hours_of_one_entity_are_in_one_claim_while_workers_reload(hours: System) -> None:
    hours.count(at(value=2))
    del hours.env["TALLYD_DOMAINS"]
    hours.count(at(value=3))
    hours.flush()  # a flusher that knows of no hours
    assert hours.rollup("hourly") == {f"jav:movie:a:{name()}": {"view": 2}}
    assert hours.rollup("daily") == {f"jav:movie:a:{NOW.date()}": {"view": 5}}
    assert audited(hours) == set()


def test_an_exact_total_adds_what_waits_under_hours(hours: System) -> None:
    hours.count(at(value=2), at(HOUR, value=3))
    with hours.ingest() as ingest:
        answer = ingest.client.get("/api/v1/analytics/totals/jav/movie/a", params={"fresh": "1"})
    assert answer.json()["counters"]["view"] == 5


def test_hours_expire_and_their_amounts_are_kept_as_a_sum(hours: System) -> None:
    """The sums of hours and of what expired of them stay what the days say."""
    hours.env["TALLYD_RETENTION__HOURLY_DAYS"] = "0"
    old = dt.timedelta(days=9)
    hours.count(at(old, value=2), at(old + HOUR, value=3), at(value=7), at(old, entity_id="quiet", value=1))
    hours.flush()
    collection, quiet_us = hours.mongo[HOURLY.collection], (QUIET_DAYS + 1) * 86_400 * 1_000_000
    collection.update_many({"entity_id": "a"}, {"$inc": {"flush_seq": -quiet_us}})
    hours.env["TALLYD_RETENTION__HOURLY_DAYS"] = "8"
    hours.tallyd_here("expire")
    assert hours.rollup("hourly") == {
        f"jav:movie:a:{name()}": {"view": 7}, f"jav:movie:quiet:{name(old)}": {"view": 1}
    }  # fmt: skip
    assert hours.mongo[EXPIRED].find_one({"_id": "jav:movie:a"}, {"view": 1, "_id": 0}) == {"view": 5}
    assert hours.rollup("daily")[f"jav:movie:a:{(NOW - old).date()}"]["view"] in (2, 5)
    assert audited(hours) == set()
    hours.tallyd_here("expire")
    assert hours.mongo[EXPIRED].find_one({"_id": "jav:movie:a"}, {"view": 1, "_id": 0}) == {"view": 5}


def test_a_history_may_be_taken_over_of_an_entity_whose_hours_expired(hours: System) -> None:
    add_rows(hours, {"a": (1_000, 2)})
    hours.env["TALLYD_REPLICA__JAV__MOVIE"] = MOVIES
    hours.count(at())
    hours.flush()
    backfill(hours)
    hours.mongo[EXPIRED].insert_one({"_id": "jav:movie:a", "domain": "jav", "entity_type": "movie", "entity_id": "a"})
    days = hours.scratch / "days.csv"
    days.write_text(f"entity,date,counter,amount\njav:movie:a,{NOW.date()},view,100\n")
    backfill(hours, daily=days)
    assert hours.mongo[DAILY.collection].find_one()["base"] == {"view": 100}
    assert "base" not in hours.mongo[HOURLY.collection].find_one()
    assert audited(hours) == set()


def test_the_audit_finds_hours_that_hold_more_than_their_day(hours: System) -> None:
    hours.count(at(value=2), at(entity_id="b"))
    hours.flush()
    hours.mongo[HOURLY.collection].update_one({"entity_id": "a"}, {"$inc": {"view": 4}})
    report = hours.audit("--deep", check=False)
    found = [each["detail"] for each in report["broken"] if each["law"] == "deep"]
    assert f"jav:movie:a:{NOW.date()}: the hours of the day sum to 6, the day says 2" in found
    assert not any("jav:movie:b" in each for each in found)
    _, explained = hours.tallyd_here("explain", "jav", "movie", "a")
    assert f"view: the hours of {NOW.date()} sum to 6, and the day says 2." in explained


def test_a_report_names_hours_that_hold_more_than_their_day(hours: System) -> None:
    hours.env["TALLYD_REPLICA__JAV__MOVIE"] = MOVIES
    hours.count(at(value=2), at(entity_id="b"))
    hours.flush()
    hours.mongo[HOURLY.collection].update_one({"entity_id": "a"}, {"$inc": {"view": 4}})
    hours.tallyd_here("report", "generate", "--days", "2", "--dir", str(hours.scratch / "reports"))
    artifact = json.loads((hours.scratch / f"reports/parity/parity-{NOW.date()}.json").read_text())
    [found] = artifact["day"]["agreement"]["some"]
    assert found == {
        "entity": "jav:movie:a", "counter": "view", "inner": f"hourly {NOW.date()}", "inner_amount": 6,
        "outer": f"daily {NOW.date()}", "outer_amount": 2,
    }  # fmt: skip


def test_hours_of_a_day_that_expired_before_them_are_accounted_for(hours: System) -> None:
    hours.count(at(value=2))
    hours.flush()
    day = hours.mongo[DAILY.collection].find_one_and_delete({})
    gone = {field: day[field] for field in ("domain", "entity_type", "entity_id", "view", "download")}
    hours.mongo[DAILY.expired_collection].insert_one({"_id": "jav:movie:a", **gone})
    batch = {"n": 1, "state": "idle", "documents": [], "through": day["date"]}
    hours.mongo[EXPIRY].insert_one({"_id": DAILY.name, **batch})
    assert audited(hours) == set()


def test_a_dead_letter_of_an_hour_is_retried(hours: System) -> None:
    hours.count(at(value=2))
    hours.flush()
    hours.mongo[HOURLY.collection].update_one({}, {"$set": {"view": "many"}})
    hours.count(at(value=3))
    hours.flush()
    [letter] = hours.mongo["analytics_dead_letters"].find()
    assert (letter["collection"], letter["document"]) == (HOURLY.collection, f"jav:movie:a:{name()}")
    hours.mongo[HOURLY.collection].update_one({}, {"$set": {"view": 2}})
    hours.tallyd_here("dead", "retry", "--all")
    assert hours.rollup("hourly") == {f"jav:movie:a:{name()}": {"view": 5}}
    assert audited(hours) == set()


def test_hours_are_exported(hours: System) -> None:
    hours.count(at(value=2), at(24 * HOUR, value=3))
    hours.flush()
    _, text = hours.tallyd_here("export", "hourly", "--format", "ndjson", "--type", "jav.movie")
    assert [(row["entity_id"], row["hour"], row["view"]) for row in map(json.loads, text.splitlines())] == [
        ("a", name(24 * HOUR), 3), ("a", name(), 2)
    ]  # fmt: skip
    _, text = hours.tallyd_here("export", "hourly", "--format", "ndjson", "--from", str(NOW.date()))
    assert [json.loads(row)["view"] for row in text.splitlines()] == [2]


def test_a_file_of_events_makes_hours_of_the_recent_ones_only(hours: System) -> None:
    file = hours.scratch / "events.ndjson"
    old, new = at(dt.timedelta(days=30), event_id="e1"), at(HOUR, event_id="e2")
    file.write_text("".join(f"{json.dumps(each)}\n" for each in (old, new)))
    hours.tallyd_here("import", str(file))
    hours.flush()
    assert hours.rollup("hourly") == {f"jav:movie:a:{name(HOUR)}": {"view": 1}}
    assert hours.rollup("totals") == {"jav:movie:a": {"view": 2}}


def test_hours_that_were_spooled_count_as_hours(hours: System) -> None:
    with hours.ingest(SPOOL__PROBE_MS="60000") as ingest:
        hours.redis.config_set("maxmemory", 1)
        try:
            assert ingest.post(at(value=2)).status_code == 202
        finally:
            hours.redis.config_set("maxmemory", 0)
    assert not hours.redis.exists("anl:{0}:dirty")
    hours.tallyd_here("replay")
    hours.flush()
    assert hours.rollup("hourly") == {f"jav:movie:a:{name()}": {"view": 2}}


def test_indexes_of_hours_are_there_while_a_domain_has_hours(hours: System) -> None:
    hours.flush()
    assert "natural_key" in hours.mongo[HOURLY.collection].index_information()
    _, found = hours.tallyd_here("doctor", "--json")
    (check,) = [each for each in json.loads(found) if each["check"] == "mongo.indexes"]
    assert check["severity"] == "ok"


@pytest.fixture
def read(hours: System) -> Iterator[Read]:
    """What a path of the read API answers, of an entity with counts in several hours."""
    hours.count(
        at(value=2), at(23 * HOUR, value=3), at(24 * HOUR, value=5), at(HOUR, entity_id="b", value=6),
        at(24 * HOUR, entity_id="c", value=9),
    )  # fmt: skip
    hours.flush()
    with hours.ingest() as ingest:

        def ask(path: str, **parameters: str) -> dict[str, Any]:
            answer: dict[str, Any] = ingest.client.get(f"/api/v1/analytics/{path}", params=parameters).json()
            return answer

        yield ask


def test_a_series_of_hours_is_the_last_24_or_whole_days(read: Read) -> None:
    for found in (
        read("series/jav/movie/a", bucket="hourly"),
        read("series/jav/movie/a", bucket="hourly", window="24h"),
    ):
        points = found["points"]
        assert len(points) == 24
        assert [point["hour"] for point in points] == sorted({point["hour"] for point in points})
        counts = {point["hour"]: point["view"] for point in points if point["view"]}
        assert counts == {name(): 2, name(23 * HOUR): 3} or (counts == {name(): 2} and turned())
        assert (found["from"], found["to"]) == (points[0]["hour"][:10], points[-1]["hour"][:10])
    first, last = (NOW - 24 * HOUR).date(), NOW.date()
    found = read("series/jav/movie/a", bucket="hourly", **{"from": str(first), "to": str(last)})
    assert [point["hour"] for point in found["points"]] == [
        f"{day}T{n:02d}" for day in (first, last) for n in range(24)
    ]
    assert sum(point["view"] for point in found["points"]) == 10


def test_the_last_24_hours_are_exact_to_the_hour(read: Read) -> None:
    found = read("top/jav/movie", window="24h")
    amounts = {row["entity_id"]: row["amount"] for row in found["rows"]}
    assert amounts == {"a": 5, "b": 6} or (amounts == {"a": 2, "b": 6} and turned())
    of_three = read("top/jav/movie", window="24h", compare="1", ids="a,b,c")["rows"]
    assert {row["entity_id"] for row in of_three} == {"a", "b"}, "c was counted in the hour before"
    assert {row["previous"] for row in of_three if row["entity_id"] == "a"} <= ({5, 8} if turned() else {5})
    [counted] = read("totals/jav/movie", window="24h", ids="a")["totals"]
    assert counted["counters"]["view"] in ((5, 2) if turned() else (5,))


def turned() -> bool:
    """Whether the hour has turned since the tests began: what was 23 hours ago is out of the window."""
    return dt.datetime.now(dt.UTC) >= NOW + HOUR


def test_a_domain_without_hours_has_no_window_and_no_series_of_them(read: Read) -> None:
    assert list(read("top/web/page", window="24h")["errors"]) == ["window"]
    assert list(read("totals/web/page", ids="a", window="24h")["errors"]) == ["window"]
    assert list(read("series/web/page/a", bucket="hourly")["errors"]) == ["bucket"]
    assert list(read("series/jav/movie/a", window="24h")["errors"]) == ["window"]
    both = read("series/jav/movie/a", bucket="hourly", window="24h", to=str(NOW.date()))
    assert list(both["errors"]) == ["window"]
    domains = read("domains")
    assert {each["name"]: each["hourly"] for each in domains["domains"]} == {"jav": True, "web": False}
    assert "24h" in domains["windows"]


def test_commands_show_hours(hours: System) -> None:
    hours.count(at(value=2))
    hours.flush()
    _, text = hours.tallyd_here("top", "--domain", "jav", "--window", "24h", "--json")
    assert [(row["entity_id"], row["view"]) for row in json.loads(text)] == [("a", 2)]
    _, text = hours.tallyd_here("series", "a", "--domain", "jav", "--bucket", "hourly", "--json")
    assert {"hour": name(), "view": 2, "download": 0} in json.loads(text)
    assert hours.tallyd_here("top", "--domain", "web", "--window", "24h")[0] == 2
    assert hours.tallyd_here("series", "a", "--domain", "web", "--bucket", "hourly")[0] == 2
