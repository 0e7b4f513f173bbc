"""The read API over HTTP, on what was really counted and flushed."""

from __future__ import annotations

import datetime as dt
import os
import secrets
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from daemon.devstack.process import free_port
from tests.kit.proxy import Gate
from tests.kit.system import BATCH, Ingest, System, event, wait_until

ROOT = "/api/v1/analytics"
TODAY = dt.datetime.now(dt.UTC).date()
STRANGE = "/präsentationen/x?y=1&z%20,#"
ORIGIN = "https://shop.example"
CONFIG = {
    "READ__CORS_ORIGINS": f'["{ORIGIN}"]',
    "READ__TOP_CACHE_TTL_MS": "0",
    "READ__CACHE_TTL_MS": "300",
    "READ__IDS_MAX": "4",
    "READ__SERIES_POINTS_MAX": "40",
    "REPLICA": '{"jav": {"movie": {"table": "jav", "key": "uuid", "columns": {"view": "views"},'
    ' "enrich": ["code", "id"]}}}',
}
TTL_S = 0.3
MYSQL_AWAY = "mysql://root@127.0.0.1:9/away"


def at(days_ago: int) -> str:
    return f"{TODAY - dt.timedelta(days_ago)}T00:00:00Z"


METRICS_PORT = free_port()
METRICS = f"http://127.0.0.1:{METRICS_PORT}/metrics"


@pytest.fixture(scope="module")
def shared_ingest(shared_system: System) -> Iterator[Ingest]:
    """By one interface only: these tests build on each other's counts. The other one has a test of its own."""
    with shared_system.ingest(**CONFIG, HTTP__METRICS_PORT=str(METRICS_PORT)) as ingest:
        yield ingest


def test_the_asgi_interface_hands_on_query_and_headers(system: System) -> None:
    with system.ingest(HTTP__INTERFACE="asgi") as ingest:
        assert ingest.post(event(entity_id="a b/c", value=3)).status_code == 202
        system.flush()
        path = f"{ROOT}/totals/jav/movie/a%20b%2Fc"
        answer = ingest.client.get(path)
        assert answer.json()["counters"]["view"] == 3
        again = ingest.client.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert "content-type" not in again.headers
        assert ingest.client.get(path, params={"nonsense": "1"}).status_code == 422


@pytest.fixture(scope="module")
def api(shared_ingest: Ingest, shared_system: System) -> httpx.Client:
    """A daemon in front of: a, 5 views today and 2 ten days ago; b, 4 views today; a strange name, 1 download."""
    counted = [
        event(entity_id="a", value=5, occurred_at=at(0)),
        event(entity_id="a", value=2, occurred_at=at(10)),
        event(entity_id="b", value=4, occurred_at=at(0)),
        event(entity_id="b", action="download", occurred_at=at(1)),
        event(entity_id=STRANGE, action="download", occurred_at=at(0)),
        event(entity_type="tag", entity_id="7", occurred_at=at(40)),
    ]
    assert shared_ingest.post(counted, BATCH).json()["accepted"] == len(counted)
    shared_system.sql("INSERT INTO jav (uuid, code) VALUES ('a', 'A-1')")
    shared_system.flush()
    shared_system.mongo.analytics_entity_totals.update_one(
        {"entity_id": "b"}, {"$set": {"base": {"view": 100, "download": 10}}}
    )
    return shared_ingest.client


def get(api: httpx.Client, path: str, status: int = 200, **options: Any) -> Any:
    answer = api.get(ROOT + path, **options)
    assert answer.status_code == status, answer.text
    return answer.json()


# Totals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", "?fresh=1", "?fresh=0"])
def test_a_total_is_what_was_counted_and_its_base(api: httpx.Client, query: str) -> None:
    found = get(api, f"/totals/jav/movie/b{query}")
    assert abs(dt.datetime.fromisoformat(found.pop("as_of")) - dt.datetime.now(dt.UTC)) < dt.timedelta(seconds=30)
    assert found == {
        "domain": "jav", "entity_type": "movie", "entity_id": "b", "fresh": query == "?fresh=1",
        "counters": {"download": 11, "view": 104},
    }  # fmt: skip


def test_an_id_may_hold_any_character_percent_encoded(api: httpx.Client) -> None:
    found = get(api, f"/totals/jav/movie/{quote(STRANGE, safe='')}")
    assert (found["entity_id"], found["counters"]) == (STRANGE, {"download": 1, "view": 0})


def test_an_entity_nothing_was_counted_of_has_zeros(api: httpx.Client) -> None:
    assert get(api, "/totals/jav/movie/unknown")["counters"] == {"download": 0, "view": 0}


def test_many_totals_come_in_the_order_asked_for(api: httpx.Client) -> None:
    found = get(api, "/totals/jav/movie", params={"ids": "b,unknown,a", "id": STRANGE})
    assert [(each["entity_id"], *each["counters"].values()) for each in found["totals"]] == [
        ("b", 11, 104), ("unknown", 0, 0), ("a", 0, 7), (STRANGE, 1, 0)
    ]  # fmt: skip


def test_five_hundred_uuids_fit_into_a_request(system: System) -> None:
    with system.ingest() as ingest:
        ids = [str(uuid.uuid4()) for _ in range(500)]
        found = get(ingest.client, "/totals/jav/movie", params={"ids": ",".join(ids)})
        assert [each["entity_id"] for each in found["totals"]] == ids
        assert list(get(ingest.client, "/totals/jav/movie", 422, params={"id": [*ids, "x"]})["errors"]) == ["ids"]


def test_who_names_nobody_gets_nobody(api: httpx.Client) -> None:
    assert get(api, "/totals/jav/movie")["totals"] == []


def test_fresh_shows_at_once_what_a_cached_total_shows_later(shared_ingest: Ingest, api: httpx.Client) -> None:
    path = "/totals/jav/actor/now"
    assert get(api, path)["counters"]["view"] == 0
    shared_ingest.post(event(entity_type="actor", entity_id="now"))
    assert get(api, f"{path}?fresh=1")["counters"]["view"] == 1
    assert get(api, path)["counters"]["view"] == 0


# Top lists -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("", [("b", 104), ("a", 7)]),
        ("?limit=1", [("b", 104)]),
        ("?counter=download", [("b", 11), (STRANGE, 1)]),
        ("?window=day", [("a", 5), ("b", 4)]),
        ("?window=7d", [("a", 5), ("b", 4)]),
        ("?window=30d", [("a", 7), ("b", 4)]),
        ("?window=7d&counter=download", [(STRANGE, 1), ("b", 1)]),
    ],
)
def test_a_top_list_is_of_its_counter_and_window(api: httpx.Client, query: str, rows: list[tuple[str, int]]) -> None:
    found = get(api, f"/top/jav/movie{query}")
    assert [(row["entity_id"], row["amount"]) for row in found["rows"]] == rows


def test_enriched_rows_carry_the_configured_columns(api: httpx.Client) -> None:
    found = get(api, "/top/jav/movie?enrich=1")
    assert found["enriched"] is True
    assert [row["row"] for row in found["rows"]] == [None, {"code": "A-1", "id": 1}]
    assert get(api, "/top/jav/tag?enrich=1")["enriched"] is False


# Series and summaries ------------------------------------------------------------------------------------------------


def test_a_series_is_filled_with_zeros(api: httpx.Client) -> None:
    first = (TODAY - dt.timedelta(11)).isoformat()
    found = get(api, f"/series/jav/movie/a?from={first}")
    assert [point["view"] for point in found["points"]] == [0, 2, *[0] * 9, 5]
    assert (found["from"], found["to"], found["points"][0]["date"]) == (first, TODAY.isoformat(), first)


def test_a_series_has_the_base_of_its_buckets(api: httpx.Client, shared_system: System) -> None:
    shared_system.mongo.analytics_entity_yearly.insert_one(
        {"_id": "jav:movie:old:2001", "domain": "jav", "entity_type": "movie", "entity_id": "old", "year": "2001",
         "base": {"view": 9}}
    )  # fmt: skip
    found = get(api, "/series/jav/movie/old?bucket=yearly&from=2000-12-31&to=2002-01-01")
    assert [(point["year"], point["view"]) for point in found["points"]] == [("2000", 0), ("2001", 9), ("2002", 0)]


@pytest.mark.parametrize(
    ("bucket", "first", "last", "names"),
    [
        ("weekly", "2024-12-29", "2025-01-06", ["2024-W52", "2025-W01", "2025-W02"]),
        ("monthly", "2024-01-31", "2024-03-01", ["2024-01", "2024-02", "2024-03"]),
        ("yearly", "2023-12-31", "2025-01-01", ["2023", "2024", "2025"]),
        ("daily", "2024-02-28", "2024-03-01", ["2024-02-28", "2024-02-29", "2024-03-01"]),
    ],
)
def test_a_series_leaves_no_bucket_out(api: httpx.Client, bucket: str, first: str, last: str, names: list[str]) -> None:
    found = get(api, f"/series/jav/movie/a?bucket={bucket}&from={first}&to={last}")
    field = {"daily": "date", "weekly": "week", "monthly": "month", "yearly": "year"}[bucket]
    assert [point[field] for point in found["points"]] == names


def test_a_summary_has_the_domains_sums_and_lists(api: httpx.Client) -> None:
    found = get(api, "/summary/jav?days=14")
    assert found["labels"] == [(TODAY - dt.timedelta(days)).isoformat() for days in range(13, -1, -1)]
    assert found["counters"]["view"] == [*[0] * 3, 2, *[0] * 9, 9]
    assert found["counters"]["download"] == [*[0] * 12, 1, 1]
    assert found["top_window"] == "14d"
    assert found["top"]["movie"]["view"] == [{"entity_id": "a", "amount": 7}, {"entity_id": "b", "amount": 4}]
    assert found["top"]["tag"] == {"download": [], "view": []}
    assert sum(get(api, "/summary/jav?days=90")["counters"]["view"]) == 12


@pytest.mark.parametrize(
    ("stored", "total"),
    [
        ({"view": "seven", "base": {"view": 3}}, 3),
        ({"view": 4, "base": {"view": "many"}}, 4),
        ({"view": 4, "base": "many"}, 4),
    ],
)
def test_a_stored_counter_that_is_no_number_is_0(
    api: httpx.Client, shared_system: System, stored: dict[str, Any], total: int
) -> None:
    """Somebody edited a document: it and all others are still to be read."""
    edited = {"domain": "jav", "entity_type": "actor", "entity_id": secrets.token_hex(4), **stored}
    key, today = f"jav:actor:{edited['entity_id']}", TODAY.isoformat()
    totals, daily = shared_system.mongo.analytics_entity_totals, shared_system.mongo.analytics_entity_daily
    totals.insert_one({"_id": key, **edited})
    daily.insert_one({"_id": f"{key}:{today}", "date": today, **edited})
    try:
        for fresh in "01":
            found = get(api, f"/totals/jav/actor/{edited['entity_id']}?fresh={fresh}")
            assert found["counters"] == {"download": 0, "view": total}
        points = get(api, f"/series/jav/actor/{edited['entity_id']}?from={today}&to={today}")["points"]
        assert points == [{"date": today, "download": 0, "view": total}]
        for window in ("total", "day", "7d"):
            rows = get(api, f"/top/jav/actor?window={window}&limit={10 + total}")["rows"]
            assert rows == [{"entity_id": edited["entity_id"], "amount": total}]
        assert get(api, "/summary/jav?days=7")["top"]["actor"]["view"] == rows
    finally:
        totals.delete_one({"_id": key})
        daily.delete_one({"_id": f"{key}:{today}"})


# Wrong questions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/totals/jav/movie/a?fresh=yes&x=1", ["fresh", "x"]),
        ("/totals/jav/movie/", ["id"]),
        ("/totals/jav/movie/%00", ["id"]),
        ("/totals/jav/movie/" + "x" * 256, ["id"]),
        ("/totals/jav/movie?ids=", ["ids"]),
        ("/totals/jav/movie?ids=a,b,c,d,e", ["ids"]),
        ("/totals/jav/movie?ids=a&fresh=1", ["fresh"]),
        ("/top/jav/movie?counter=x&limit=101&window=8d&enrich=2", ["counter", "limit", "window", "enrich"]),
        ("/series/jav/movie/a?bucket=fortnightly&to=2026-13-01", ["bucket", "to"]),
        ("/series/jav/movie/a?from=2026-02-02&to=2026-02-01", ["from"]),
        ("/series/jav/movie/a?from=0001-01-01&to=9999-12-31", ["from"]),
        ("/summary/jav?days=31", ["days"]),
    ],
)
def test_every_wrong_parameter_is_named_in_laravels_shape(api: httpx.Client, path: str, wrong: list[str]) -> None:
    found = get(api, path, 422)
    assert list(found["errors"]) == wrong
    assert found["message"].startswith(found["errors"][wrong[0]][0])


def test_only_the_document_itself_is_under_its_path(api: httpx.Client) -> None:
    assert api.get("/openapi.json").headers["cache-control"] == "public, max-age=60"
    assert api.get("/openapi.json.map").status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/totals/x/movie/a", "/totals/jav/x/a", "/top/jav/x", "/top/jav/movie/a", "/top/jav",
     "/series/x", "/summary/x", "/summary/jav/movie", "/totals/jav"],
)  # fmt: skip
def test_what_is_not_there_is_404(api: httpx.Client, path: str) -> None:
    assert list(get(api, path, 404)) == ["message"]


# HTTP ----------------------------------------------------------------------------------------------------------------


def test_an_answer_is_cached_for_its_time(shared_ingest: Ingest, shared_system: System, api: httpx.Client) -> None:
    path = "/totals/jav/actor/cached"
    first = get(api, path)
    shared_ingest.post(event(entity_type="actor", entity_id="cached"))
    shared_system.flush()
    wait_until(lambda: get(api, path)["counters"]["view"] == 1, "the cache has forgotten it")
    assert first["counters"]["view"] == 0


def test_a_tag_stays_while_the_counts_do(api: httpx.Client, shared_ingest: Ingest, shared_system: System) -> None:
    path = f"{ROOT}/totals/jav/actor/tagged"
    tag = api.get(path).headers["etag"]
    time.sleep(TTL_S)
    unchanged = api.get(path, headers={"if-none-match": f'"other", {tag}'})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)
    assert "content-length" not in unchanged.headers
    shared_ingest.post(event(entity_type="actor", entity_id="tagged"))
    shared_system.flush()
    wait_until(lambda: api.get(path, headers={"if-none-match": tag}).status_code == 200, "the tag is another")
    assert api.get(path, headers={"if-none-match": tag}).headers["etag"] != tag


def test_how_long_an_answer_may_be_kept_is_said(api: httpx.Client) -> None:
    def kept(path: str) -> str:
        return api.get(ROOT + path).headers["cache-control"]

    assert kept("/totals/jav/movie/a") == "public, max-age=0"
    assert kept("/totals/jav/movie/a?fresh=1") == "no-store"
    assert kept("/top/jav/movie") == "no-store"  # as configured here


def test_head_is_get_without_the_body(api: httpx.Client) -> None:
    path = f"{ROOT}/totals/jav/movie/a"
    head = api.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(api.get(path).content))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_other_methods_are_405(api: httpx.Client, method: str) -> None:
    answer = api.request(method, f"{ROOT}/totals/jav/movie/a")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


def test_pages_of_the_configured_origin_may_read_and_no_others(api: httpx.Client) -> None:
    path = f"{ROOT}/totals/jav/movie/a"
    for method in ("GET", "OPTIONS"):
        ours = api.request(method, path, headers={"origin": ORIGIN})
        assert ours.headers["access-control-allow-origin"] == ORIGIN
        assert ours.headers["vary"] == "origin"
        other = api.request(method, path, headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        assert other.headers["vary"] == "origin"
    preflight = api.options(path, headers={"origin": ORIGIN, "access-control-request-method": "GET"})
    assert preflight.status_code == 204
    assert "x-tallyd-key" in preflight.headers["access-control-allow-headers"]
    assert api.get(f"{ROOT}/totals/x/y/z", headers={"origin": ORIGIN}).headers["access-control-allow-origin"] == ORIGIN


def test_reads_are_counted_in_the_metrics(api: httpx.Client) -> None:
    for _ in range(3):
        api.get(f"{ROOT}/series/jav/movie/measured")

    def shown(line: str) -> bool:
        return any(text.startswith(line) for text in httpx.get(METRICS).text.splitlines())

    wait_until(lambda: shown('tallyd_reads_total{route="series",status="200"}'), "published")
    for line in ('tallyd_read_cache_total{outcome="hit"}', 'tallyd_read_seconds_count{route="series"}'):
        assert shown(line)


# Keys, switches, stores that are away --------------------------------------------------------------------------------


def test_without_mongodb_reads_are_503_and_events_still_counted(system: System) -> None:
    limits = {"READ__TIMEOUT_MS": "300", "READ__SUM_TIMEOUT_MS": "300", "READ__RETRY_AFTER_S": "7"}
    with system.ingest(MONGO__URL="mongodb://127.0.0.1:9/away", MYSQL__URL=MYSQL_AWAY, **limits) as ingest:
        for path in ("/totals/jav/movie/a", "/totals/jav/movie/a?fresh=1", "/top/jav/movie", "/series/jav/movie/a",
                     "/summary/jav"):  # fmt: skip
            answer = ingest.client.get(ROOT + path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
            assert answer.json() == {"message": "Counts cannot be read at the moment."}
        assert ingest.post(event()).status_code == 202


def test_without_mysql_rows_come_without_its_columns(system: System) -> None:
    system.count(event(entity_id="a"))
    system.flush()
    with system.ingest(MYSQL__URL=MYSQL_AWAY, READ__TIMEOUT_MS="2000", REPLICA=CONFIG["REPLICA"]) as ingest:
        found = get(ingest.client, "/top/jav/movie?enrich=1")
    assert (found["enriched"], found["rows"]) == (False, [{"entity_id": "a", "amount": 1, "row": None}])


def test_a_key_is_asked_of_readers_and_not_of_producers(system: System) -> None:
    key = "a-key-for-the-readers"
    with system.ingest(READ__KEY=key) as ingest:
        path = f"{ROOT}/totals/jav/movie/a"
        for headers in ({}, {"x-tallyd-key": "wrong"}, {"authorization": f"Basic {key}"}):
            answer = ingest.client.get(path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
        for headers in ({"x-tallyd-key": key}, {"authorization": f"Bearer {key}"}):
            answer = ingest.client.get(path, headers=headers)
            assert answer.status_code == 200
            assert answer.headers["cache-control"].startswith("private")
        assert ingest.client.get("/openapi.json").status_code == 401
        assert ingest.post(event()).status_code == 202


def test_a_reload_asks_for_the_key_from_then_on(system: System) -> None:
    file = system.scratch / "tallyd.toml"
    file.write_text("")
    path = f"{ROOT}/totals/jav/movie/a"
    with system.ingest(CONFIG=str(file)) as ingest:
        assert ingest.client.get(path).status_code == 200
        file.write_text('[read]\nkey = "a-key-for-the-readers"\n')
        os.kill(ingest.pid, signal.SIGHUP)
        wait_until(lambda: ingest.client.get(path).status_code == 401, "reloaded")
        file.write_text("[read]\nenabled = false\n")
        os.kill(ingest.pid, signal.SIGHUP)
        wait_until(lambda: ingest.client.get(path).status_code == 404, "reloaded again")


@pytest.mark.parametrize("env", [{"READ__ENABLED": "false"}, {"MONGO__URL": ""}])
def test_switched_off_or_without_a_mongodb_there_is_nothing_to_read(system: System, env: dict[str, str]) -> None:
    with system.ingest(**env) as ingest:
        for path in (f"{ROOT}/totals/jav/movie/a", f"{ROOT}/summary/jav", "/openapi.json"):
            assert ingest.client.get(path).status_code == 404
        assert ingest.post(event()).status_code == 202


def test_more_reads_than_the_limit_are_turned_away(system: System) -> None:
    mongo = Gate(system.env["TALLYD_MONGO__URL"], b"analytics_entity_totals")
    limits = {"READ__READS_IN_FLIGHT_MAX": "1", "READ__TIMEOUT_MS": "20000"}
    with mongo.running(), system.ingest(MONGO__URL=mongo.url(), **limits) as ingest:
        found: list[int] = []
        path = f"{ingest.url}{ROOT}/totals/jav/movie/"
        waits = threading.Thread(target=lambda: found.append(httpx.get(f"{path}a", timeout=30).status_code))
        waits.start()
        assert mongo.tripped.wait(10)
        assert httpx.get(f"{path}b").status_code == 503
        assert ingest.post(event()).status_code == 202
        mongo.release()
        waits.join()
    assert found == [200]
