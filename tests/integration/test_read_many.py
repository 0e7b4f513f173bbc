"""Reads about a whole domain and about many entities, compared with the window before. Without HTTP."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pytest

from daemon.read.gate import Kind
from daemon.response import Response
from tests.kit.proxy import Gate, Proxy
from tests.kit.reads import reading
from tests.kit.system import WAIT_TIMEOUT_S, System, event
from tests.kit.wait import POLL_S

TODAY = dt.datetime.now(dt.UTC).date()
AWAY = "mongodb://127.0.0.1:9/away"
MYSQL_AWAY = "mysql://root@127.0.0.1:9/away"
CONFIG = {
    "DOMAINS": json.dumps(
        {
            "jav": {
                "entity_types": ["movie", "tag"],
                "actions": ["view", "download"],
                "urls": {"movie": "https://shop.example/movies/{id}"},
            }
        }
    ),
    "REPLICA": json.dumps(
        {"jav": {"movie": {"table": "jav", "key": "uuid", "columns": {"view": "views"}, "label": "code",
                           "enrich": ["code"]}}}
    ),
    "READ__TIMEOUT_MS": "20000",
    "READ__SUM_TIMEOUT_MS": "20000",
}  # fmt: skip


def at(days_ago: int) -> str:
    return f"{day(days_ago)}T00:00:00Z"


def day(days_ago: int) -> str:
    return (TODAY - dt.timedelta(days_ago)).isoformat()


@pytest.fixture(scope="module")
def filled(shared_system: System) -> Iterator[System]:
    """Views of movies and tags on days of this window and the one before."""
    shared_system.sql("INSERT INTO jav (uuid, code) VALUES ('a', 'A-1'), ('b', 'B-2')")
    shared_system.count(
        event(entity_id="a", value=5, occurred_at=at(0)),
        event(entity_id="a", value=3, occurred_at=at(1)),
        event(entity_id="a", value=2, occurred_at=at(8)),
        event(entity_id="b", value=4, occurred_at=at(0)),
        event(entity_id="b", action="download", occurred_at=at(13)),
        event(entity_id="b", value=7, occurred_at=at(14)),
        event(entity_type="tag", entity_id="7", value=9, occurred_at=at(0)),
        event(entity_type="tag", entity_id="8", value=1, occurred_at=at(9)),
    )
    shared_system.flush(**CONFIG)
    return shared_system


def asked(system: System, *paths: str, **env: str) -> list[Any]:
    """The answers of a worker to these paths, one after the other; those that are no 200 with their status."""

    async def work() -> list[Any]:
        async with reading(system, **{**CONFIG, **env}) as reader:
            answers = [await reader.get(path) for path in paths]
            return [json.loads(each.body) | ({} if each.status == 200 else {"status": each.status}) for each in answers]

    return asyncio.run(work())


# Summaries -----------------------------------------------------------------------------------------------------------


def test_a_summary_of_a_day_compares_today_with_yesterday(filled: System) -> None:
    (found,) = asked(filled, "summary/jav?days=1&compare=1&top=0")
    assert (found["labels"], found["counters"]["view"], found["sums"]) == (
        [day(0)], [18], {"download": 0, "view": 18}
    )  # fmt: skip
    assert found["previous"] == {
        "labels": [day(1)], "counters": {"download": [0], "view": [3]}, "sums": {"download": 0, "view": 3}
    }  # fmt: skip
    assert "top" not in found


def test_a_summary_compares_with_as_many_days_before(filled: System) -> None:
    plain, compared = asked(filled, "summary/jav?days=7", "summary/jav?days=7&compare=1")
    assert compared["counters"]["view"] == plain["counters"]["view"] == [0] * 5 + [3, 18]
    assert "previous" not in plain
    assert compared["previous"]["labels"] == [day(n) for n in range(13, 6, -1)]
    assert compared["previous"]["counters"]["view"] == [0, 0, 0, 0, 1, 2, 0]
    assert compared["previous"]["sums"] == {"download": 1, "view": 3}
    assert compared["top"] == {
        "movie": {
            "download": [],
            "view": [
                {"entity_id": "a", "amount": 8, "previous": 2}, {"entity_id": "b", "amount": 4, "previous": 0}
            ],
        },
        "tag": {"download": [], "view": [{"entity_id": "7", "amount": 9, "previous": 0}]},
    }  # fmt: skip


def test_a_summary_may_be_about_one_type(filled: System) -> None:
    (found,) = asked(filled, "summary/jav?days=7&type=tag")
    assert (found["entity_type"], found["sums"]) == ("tag", {"download": 0, "view": 9})
    assert list(found["top"]) == ["tag"]


def test_the_rows_of_a_summary_carry_the_configured_columns(filled: System) -> None:
    (found,) = asked(filled, "summary/jav?days=7&enrich=1")
    assert [row["row"] for row in found["top"]["movie"]["view"]] == [{"code": "A-1"}, {"code": "B-2"}]
    assert [row["row"] for row in found["top"]["tag"]["view"]] == [None]


def test_without_mysql_the_rows_of_a_summary_have_no_columns(filled: System) -> None:
    (found,) = asked(filled, "summary/jav?days=7&enrich=1", MYSQL__URL=MYSQL_AWAY)
    assert [row["row"] for row in found["top"]["movie"]["view"]] == [None, None]


def test_a_row_is_not_compared_with_days_that_may_have_expired(filled: System) -> None:
    kept, expired = asked(filled, "summary/jav?days=7&compare=1", RETENTION__DAILY_DAYS="14") + asked(
        filled, "summary/jav?days=7&compare=1", RETENTION__DAILY_DAYS="13"
    )
    assert "previous" in kept["top"]["movie"]["view"][0]
    assert "previous" not in expired["top"]["movie"]["view"][0]


# Windows of many entities --------------------------------------------------------------------------------------------


def test_totals_of_a_window_come_in_the_order_asked_for_with_those_before(filled: System) -> None:
    (found,) = asked(filled, "totals/jav/movie?ids=b,unknown,a&window=7d&compare=1")
    assert found["window"] == "7d"
    assert [(each["entity_id"], each["counters"], each["previous"]) for each in found["totals"]] == [
        ("b", {"download": 0, "view": 4}, {"download": 1, "view": 0}),
        ("unknown", {"download": 0, "view": 0}, {"download": 0, "view": 0}),
        ("a", {"download": 0, "view": 8}, {"download": 0, "view": 2}),
    ]


@pytest.mark.parametrize("window", ["day", "7d", "14d", "30d", "90d", "week", "month", "year", "total"])
def test_totals_of_a_window_are_the_amounts_of_its_top_list(filled: System, window: str) -> None:
    top, within, totals = asked(
        filled,
        f"top/jav/movie?window={window}",
        f"top/jav/movie?window={window}&ids=a,b,unknown",
        f"totals/jav/movie?window={window}&ids=a,b",
    )
    assert within == top | {"as_of": within["as_of"]}
    amounts = {each["entity_id"]: each["counters"]["view"] for each in totals["totals"]}
    assert {row["entity_id"]: row["amount"] for row in top["rows"]} == amounts


def test_a_top_list_within_a_set_ranks_this_set_only(filled: System) -> None:
    one, other, limited, compared = asked(
        filled,
        "top/jav/movie?window=7d&ids=a",
        "top/jav/movie?window=14d&counter=download&ids=a,b",
        "top/jav/movie?window=7d&ids=a,b&limit=1&enrich=1",
        "top/jav/movie?window=7d&ids=a,b&compare=1",
    )
    assert one["rows"] == [{"entity_id": "a", "amount": 8}]
    assert other["rows"] == [{"entity_id": "b", "amount": 1}]
    assert limited["rows"] == [{"entity_id": "a", "amount": 8, "row": {"code": "A-1"}}]
    assert compared["rows"] == [
        {"entity_id": "a", "amount": 8, "previous": 2}, {"entity_id": "b", "amount": 4, "previous": 0}
    ]  # fmt: skip


def test_what_was_taken_over_is_in_a_window(filled: System) -> None:
    daily, today = filled.mongo.analytics_entity_daily, {"_id": f"jav:movie:b:{day(0)}"}
    daily.update_one(today, {"$set": {"base": {"view": 100}}})
    try:
        totals, top, series = asked(
            filled,
            "totals/jav/movie?window=7d&ids=b",
            "top/jav/movie?window=7d&ids=a,b",
            f"series/jav/movie?from={day(0)}&ids=b",
        )
    finally:
        daily.update_one(today, {"$unset": {"base": 1}})
    assert totals["totals"][0]["counters"]["view"] == top["rows"][0]["amount"] == 104
    assert series["series"][0]["counters"]["view"] == [104]


def test_a_top_list_is_compared_with_the_window_before(filled: System) -> None:
    days, nobody = asked(
        filled,
        "top/jav/movie?window=day&compare=1",
        "top/jav/movie?window=day&counter=download&compare=1",
    )
    assert [(row["entity_id"], row["previous"]) for row in days["rows"]] == [("a", 3), ("b", 0)]
    assert nobody["rows"] == []


def test_a_question_of_thousands_of_documents_costs_as_much_as_a_top_list(filled: System) -> None:
    async def work() -> list[Kind | None]:
        async with reading(filled, **CONFIG) as reader:
            for ids in (50, 500):
                for window in ("total", "7d", "90d"):
                    named = ",".join(f"m{n}" for n in range(ids))
                    assert (await reader.get(f"totals/jav/movie?window={window}&ids={named}")).status == 200
            return reader.charged

    few, many = Kind.SERIES, Kind.MANY
    assert asyncio.run(work()) == [Kind.TOTALS, few, many, Kind.TOTALS, many, many]


@pytest.mark.parametrize("bucket", ["daily", "weekly", "monthly", "yearly"])
def test_a_domain_s_history_ends_with_the_calendar(filled: System, bucket: str) -> None:
    (found,) = asked(filled, f"series/jav?bucket={bucket}&from=9999-12-31&to=9999-12-31&compare=1")
    assert [len(found["points"]), len(found["previous"]["points"])] == [1, 1]


def test_a_domain_s_years_cost_as_much_as_a_top_list(filled: System) -> None:
    """They are sums of days, of each entity type."""

    async def work() -> list[Kind | None]:
        async with reading(filled, **CONFIG) as reader:
            for query in ("bucket=daily", "bucket=yearly", "bucket=monthly&type=movie", "bucket=yearly&type=movie"):
                await reader.get(f"series/jav?{query}")
            return reader.charged

    few, many = Kind.SERIES, Kind.MANY
    assert asyncio.run(work()) == [few, many, few, many]


def test_many_entities_are_read_by_the_index_of_the_natural_key(filled: System) -> None:
    """Of a day's million documents no other one is looked at."""
    filled.mongo.command("profile", 2)
    try:
        asked(filled, "totals/jav/movie?ids=a,b&window=14d&compare=1")
    finally:
        filled.mongo.command("profile", 0)
        lines = list(filled.mongo.system.profile.find({"command.aggregate": "analytics_entity_daily"}))
        filled.mongo.system.profile.drop()
    (line,) = lines
    assert "IXSCAN" in line["planSummary"]
    assert line["docsExamined"] == filled.mongo.analytics_entity_daily.count_documents({"entity_type": "movie"})


# Series --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bucket", "first", "points"), [("daily", 15, 16), ("weekly", 40, 6), ("yearly", 400, 2)])
def test_many_series_say_what_each_says_alone(filled: System, bucket: str, first: int, points: int) -> None:
    ids = ["b", "unknown", "a"]
    query = f"bucket={bucket}&from={day(first)}"
    many, *alone = asked(
        filled, f"series/jav/movie?{query}&ids={','.join(ids)}", *(f"series/jav/movie/{id_}?{query}" for id_ in ids)
    )
    assert (many["bucket"], many["from"], many["to"]) == (bucket, day(first), day(0))
    assert len(many["labels"]) >= points
    field = {"daily": "date", "weekly": "week", "yearly": "year"}[bucket]
    for own, one in zip(many["series"], alone, strict=True):
        assert own["entity_id"] == one["entity_id"]
        assert many["labels"] == [point[field] for point in one["points"]]
        for counter, amounts in own["counters"].items():
            assert amounts == [point[counter] for point in one["points"]]
    assert {sum(own["counters"]["view"]) for own in many["series"][::2]} == {11, 10}


def test_a_document_of_no_bucket_stops_no_series(filled: System) -> None:
    daily = filled.mongo.analytics_entity_daily
    edited = {"domain": "jav", "entity_type": "movie", "entity_id": "a", "date": f"{day(1)}x", "view": 1}
    daily.insert_one({"_id": "edited", **edited})
    try:
        many, one = asked(filled, f"series/jav/movie?ids=a&from={day(1)}", f"series/jav/movie/a?from={day(1)}")
    finally:
        daily.delete_one({"_id": "edited"})
    assert many["series"][0]["counters"]["view"] == [point["view"] for point in one["points"]] == [3, 5]


def test_a_series_is_compared_with_as_many_buckets_before(filled: System) -> None:
    days, weeks = asked(
        filled,
        f"series/jav/movie/a?from={day(6)}&compare=1",
        f"series/jav/movie/a?bucket=weekly&from={day(6)}&compare=1",
    )
    assert [point["view"] for point in days["points"]] == [0, 0, 0, 0, 0, 3, 5]
    before = days["previous"]
    assert (before["from"], before["to"]) == (day(13), day(7))
    assert [(point["date"], point["view"]) for point in before["points"]] == [
        (day(n), 2 if n == 8 else 0) for n in range(13, 6, -1)
    ]
    monday = dt.date.fromisoformat(weeks["previous"]["to"]) + dt.timedelta(1)
    assert monday.weekday() == 0
    assert monday <= TODAY - dt.timedelta(6) < monday + dt.timedelta(7)
    assert len(weeks["previous"]["points"]) == len(weeks["points"])


def test_a_series_is_not_compared_with_days_that_may_have_expired(filled: System) -> None:
    path = f"series/jav/movie/a?from={day(6)}&compare=1"
    kept, expired = asked(filled, path, RETENTION__DAILY_DAYS="14") + asked(filled, path, RETENTION__DAILY_DAYS="13")
    assert "previous" in kept
    assert "previous" not in expired


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled(filled: System) -> System:
    filled.sql("CREATE INDEX jav_code ON jav (code)")
    filled.sql("INSERT INTO jav (uuid, code) VALUES ('c', 'C'), ('c2', 'C'), ('small', 'a-1'), ('umlaut', 'Ä')")
    return filled


@pytest.mark.parametrize(
    ("label", "ids"),
    [
        ("A-1", ["a"]),
        ("a-1", ["small"]),  # the collation would take both for equal
        ("A-1 ", []),
        ("%C3%84", ["umlaut"]),
        ("A", []),
        ("C", ["c", "c2"]),
        ("nobody", []),
        ("' OR 1=1 -- ", []),
        ("%25", []),
        ("😀", []),
    ],
)
def test_an_entity_is_found_by_its_label_byte_for_byte(labelled: System, label: str, ids: list[str]) -> None:
    (found,) = asked(labelled, f"entities/jav/movie?label={label}")
    assert [each["entity_id"] for each in found["entities"]] == ids
    assert {each["row"]["code"] for each in found["entities"]} <= {found["label"]}


def test_a_search_finds_no_more_than_a_top_list_has(labelled: System) -> None:
    (found,) = asked(labelled, "entities/jav/movie?label=C", READ__TOP_LIMIT_MAX="1")
    assert [each["entity_id"] for each in found["entities"]] == ["c"]


@pytest.mark.parametrize("query", ["", "label=", "label=%00", "label=" + "x" * 256, "label=a&label=b", "label=a&x=1"])
def test_a_label_must_be_one_text(labelled: System, query: str) -> None:
    (found,) = asked(labelled, f"entities/jav/movie?{query}")
    assert (found["status"], *found["errors"]) in {(422, "label"), (422, "x")}


@pytest.mark.parametrize(("path", "env"), [("entities/jav/tag", {}), ("entities/jav/movie", {"MYSQL__URL": ""})])
def test_entities_without_labels_are_not_searched(labelled: System, path: str, env: dict[str, str]) -> None:
    (found,) = asked(labelled, f"{path}?label=a", **env)
    assert (found["status"], found["errors"]) == (422, {"label": ["Entities of this type have no label."]})


def test_without_mysql_a_search_is_503_and_says_so(labelled: System) -> None:
    (found,) = asked(labelled, "entities/jav/movie?label=A-1", MYSQL__URL=MYSQL_AWAY)
    assert (found["status"], found["message"]) == (
        503, "MySQL cannot be asked at the moment, and only MySQL has the labels."
    )  # fmt: skip


def test_without_mongodb_a_search_is_answered(labelled: System) -> None:
    (found,) = asked(labelled, "entities/jav/movie?label=A-1", MONGO__URL=AWAY)
    assert [each["entity_id"] for each in found["entities"]] == ["a"]


@pytest.mark.parametrize("column", ["downloads", "title", "published"])
def test_a_column_that_no_index_serves_is_not_searched(labelled: System, column: str) -> None:
    """Nobody makes MySQL read a whole table."""
    labelled.sql(
        "CREATE TABLE slow (uuid CHAR(36) UNIQUE, views INT, downloads INT, title VARCHAR(99), published DATE)"
    )
    labelled.sql("ALTER TABLE slow ADD INDEX (title(8)), ADD INDEX (published)")
    replica = {"table": "slow", "key": "uuid", "columns": {"view": "views"}, "label": column}
    try:
        (found,) = asked(labelled, "entities/jav/movie?label=1", REPLICA=json.dumps({"jav": {"movie": replica}}))
    finally:
        labelled.sql("DROP TABLE slow")
    assert found["status"] == 503
    assert "no index" in found["message"]


def test_a_number_is_found_as_it_is_written(labelled: System) -> None:
    labelled.sql("CREATE TABLE numbered (uuid CHAR(36) UNIQUE, views BIGINT, number INT, INDEX (number))")
    labelled.sql("INSERT INTO numbered (uuid, number) VALUES ('zero', 0), ('seven', 7)")
    replica = {"table": "numbered", "key": "uuid", "columns": {"view": "views"}, "label": "number"}
    paths = [f"entities/jav/movie?label={label}" for label in ("7", "07", "x", "0", "99999999999999999999")]
    try:
        found = asked(labelled, *paths, REPLICA=json.dumps({"jav": {"movie": replica}}))
    finally:
        labelled.sql("DROP TABLE numbered")
    assert [[each["entity_id"] for each in one["entities"]] for one in found] == [["seven"], [], [], ["zero"], []]


def test_a_frozen_mysql_is_asked_no_more_until_it_answers(labelled: System, caplog: pytest.LogCaptureFixture) -> None:
    mysql = Proxy(labelled.env["TALLYD_MYSQL__URL"], b"", every=True)

    async def work() -> None:
        env = {**CONFIG, "MYSQL__URL": mysql.url(), "READ__TIMEOUT_MS": "500", "READ__CACHE_TTL_MS": "0"}
        async with reading(labelled, **env) as reader:

            async def status() -> int:
                return (await reader.get("entities/jav/movie?label=A-1")).status

            assert [await status() for _ in range(2)] == [503, 503]
            assert "MySQL does not answer: no read asks it" in caplog.text
            connections = mysql.connections
            assert await status() == 503
            assert mysql.connections <= connections + 1  # one read may try
            mysql.restore()
            async with asyncio.timeout(WAIT_TIMEOUT_S):
                while await status() != 200:  # noqa: ASYNC110  (no event comes)
                    await asyncio.sleep(POLL_S)
            assert "MySQL answers again" in caplog.text

    with mysql.running():
        asyncio.run(work())


# How old an answer is ------------------------------------------------------------------------------------------------


def instant(answer: Response) -> dt.datetime:
    return dt.datetime.fromisoformat(json.loads(answer.body)["as_of"])


def test_as_of_is_when_the_store_was_asked_however_slow_it_was_or_long_ago(filled: System) -> None:
    mongo = Gate(filled.env["TALLYD_MONGO__URL"], b"analytics_entity_totals")

    async def work() -> None:
        env = {**CONFIG, "MONGO__URL": mongo.url(), "READ__CACHE_TTL_MS": "60000"}
        async with reading(filled, **env) as reader:
            asked = asyncio.create_task(reader.get("totals/jav/movie?ids=a"))
            await asyncio.to_thread(mongo.tripped.wait, WAIT_TIMEOUT_S)
            meanwhile = dt.datetime.now(dt.UTC)
            joined = asyncio.create_task(reader.get("totals/jav/movie?id=a"))
            mongo.release()
            slow, shared = await asked, await joined
            cached = await reader.get("totals/jav/movie?ids=a")
            assert instant(slow) == instant(shared) == instant(cached) < meanwhile

    with mongo.running():
        asyncio.run(work())


# What there is -------------------------------------------------------------------------------------------------------


def test_the_domains_are_told_with_types_counters_labels_and_pages(shared_system: System) -> None:
    (found,) = asked(shared_system, "domains")
    assert found["domains"] == [
        {
            "name": "jav", "hourly": False, "counters": ["download", "view"], "actions": ["view", "download"],
            "types": [
                {"name": "movie", "label": True, "enrich": ["code"], "url": "https://shop.example/movies/{id}"},
                {"name": "tag", "label": False, "enrich": [], "url": None},
            ],
        }
    ]  # fmt: skip
    assert (found["windows"][0], found["ids_max"], found["series_ids_max"]) == ("total", 500, 100)


def test_without_mongodb_the_domains_are_told_all_the_same(shared_system: System) -> None:
    env = {**CONFIG, "MONGO__URL": AWAY, "READ__TIMEOUT_MS": "200", "READ__SUM_TIMEOUT_MS": "200"}

    async def work() -> None:
        async with reading(shared_system, **env) as reader:
            for _ in range(4):  # of which two open the breaker
                assert (await reader.get("totals/jav/movie/a")).status == 503
                assert (await reader.get("domains")).status == 200
            assert reader.charged.count(Kind.CATALOGUE) == 1

    asyncio.run(work())


@pytest.mark.parametrize("path", ["domains/", "domains/jav", "domainsjav", "domain", "topics/jav/movie"])
def test_what_only_begins_like_a_read_is_not_there(shared_system: System, path: str) -> None:
    (found,) = asked(shared_system, path)
    assert found["status"] == 404
