"""GET status and GET dead: for operators, of every store as it is, and in the same sentences as `tallyd status`."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pytest

from daemon.read.api import Api
from daemon.read.endpoint import PREFIX
from daemon.read.gate import Kind
from daemon.rollups.collections import DEAD_LETTERS
from tests.kit.reads import free
from tests.kit.system import Ingest, System, event, wait_until
from tests.kit.wait import WAIT_TIMEOUT_S

OPERATOR, READER = "an-operator-s-key-of-today", "a-reader-s-key-of-today"
STATUS, DEAD = f"{PREFIX}status", f"{PREFIX}dead"
CONFIG = {"DASHBOARD__ENABLED": "true", "DASHBOARD__STATUS_TTL_MS": "100"}
AWAY = {
    "MONGO__URL": "mongodb://127.0.0.1:9/away",
    "MYSQL__URL": "mysql://root@127.0.0.1:9/away",
    "READ__TIMEOUT_MS": "500",
}


def read(system: System, *paths: str, **env: str) -> list[Any]:
    """The answers of a worker to an operator, without HTTP: status and body of each."""

    async def work() -> list[Any]:
        api = Api(system.config(**CONFIG, **env))
        try:
            found = []
            for path in paths:
                name, _, query = path.partition("?")
                answer = await api.answer("GET", name, query, [], free, operator=True)
                found.append((answer.status, json.loads(answer.body)))
            return found
        finally:
            await api.close()

    return asyncio.run(work())


def status(system: System, **env: str) -> dict[str, Any]:
    ((code, found),) = read(system, STATUS, **env)
    assert code == 200
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module", params=["rsgi", "asgi"])
def keyed(shared_system: System, request: pytest.FixtureRequest) -> Iterator[Ingest]:
    env = {"DASHBOARD__KEY": OPERATOR, "READ__KEY": READER, "READ__CORS_ORIGINS": '["*"]'}
    with shared_system.ingest(**CONFIG, **env, HTTP__INTERFACE=request.param) as ingest:
        yield ingest


@pytest.mark.parametrize("path", [STATUS, DEAD])
def test_only_an_operator_s_key_opens_it(keyed: Ingest, path: str) -> None:
    get = keyed.client.get
    assert get(path, headers={"x-tallyd-key": OPERATOR}).status_code == 200
    assert get(path, auth=("me", OPERATOR)).status_code == 200
    for headers in ({}, {"x-tallyd-key": READER}, {"authorization": f"Bearer {READER}"}):
        answer = get(path, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="tallyd"')
        assert "cache-control" in answer.headers


@pytest.mark.parametrize("path", [STATUS, DEAD])
def test_no_other_page_reads_it_and_no_cache_keeps_it(keyed: Ingest, path: str) -> None:
    """Although `read.cors_origins` lets any page read counts."""
    headers = {"x-tallyd-key": OPERATOR, "origin": "https://evil.example"}
    answer = keyed.client.get(path, headers=headers)
    assert not any(name.startswith("access-control") for name in answer.headers)
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-headers" not in keyed.client.options(path, headers=headers).headers
    again = keyed.client.get(path, headers={**headers, "if-none-match": answer.headers["etag"]})
    assert "cross-origin-resource-policy" in again.headers


def test_without_a_dashboard_and_a_key_nobody_sees_it(system: System) -> None:
    with system.ingest() as ingest:
        assert ingest.client.get(STATUS).status_code == ingest.client.get(DEAD).status_code == 401


def test_it_says_what_the_stores_hold(system: System) -> None:
    same = event()
    with system.ingest(**CONFIG, HTTP__WORKERS="2") as ingest:
        for body in (event(), same, same, event(action="download")):
            assert ingest.post(body).status_code == 202
        assert ingest.post(event(domain="none")).status_code == 422
        assert ingest.post("no json").status_code in (400, 422)
        system.flush()
        assert ingest.post(event(entity_id="new")).status_code == 202

        def settled() -> bool:
            found = ingest.client.get(STATUS).json()
            return found["events"]["rejected"].keys() == {"domain", "event"} and found["shards"][0]["dirty"] == 1

        wait_until(settled, "both workers have said what they rejected")
        found = ingest.client.get(STATUS).json()
    assert found["events"] == {
        "accepted": {"download": 1, "view": 3},
        "duplicate": {"view": 1},
        "flushed": {"download": 1, "view": 2},
        "dead": {},
        "rejected": {"domain": 1, "event": 1},
    }
    (shard,) = found["shards"]
    assert (shard["shard"], shard["dirty"], shard["in_flight"], shard["owner"]) == (0, 1, 0, None)
    assert shard["last_flush_age_s"] >= 0
    assert found["flush"]["lag_s"] >= 0
    assert found["counters"] == ["download", "view"]
    assert (found["workers"], found["enabled"], found["dead_letters"]) == (2, True, 0)
    assert found["uptime_s"] > 0
    assert found["stores"] == {name: {"ok": True, "error": None} for name in ("redis", "mongo", "mysql")}
    assert found["spool"]["spooling"] is False
    assert found["trouble"] == []
    assert list(found)[-1] == "as_of"


def test_a_claim_in_flight_names_its_owner(system: System) -> None:
    system.redis.hset("anl:{0}:claim", mapping={"seq": 5, "entities": 2, "since": 1, "owner": b"host:1:\xff"})
    shard = status(system)["shards"][0]
    assert (shard["in_flight"], shard["owner"]) == (2, "host:1:\\xff")
    assert shard["in_flight_age_s"] > 1e9


def test_no_store_that_is_away_fails_it(system: System) -> None:
    found = status(system, REDIS__URL="redis://127.0.0.1:9/0", REDIS__TIMEOUT_MS="500", **AWAY)
    assert (found["shards"], found["dead_letters"], found["jobs"]) == ([], None, [])
    stores = found["stores"]
    assert [stores[name]["ok"] for name in ("redis", "mongo", "mysql")] == [False] * 3
    assert all("127.0.0.1:9" in stores[name]["error"] for name in stores)
    assert [trouble["text"].partition(".")[0] for trouble in found["trouble"]] == [
        "Redis does not answer", "MongoDB does not answer", "MySQL does not answer",
    ]  # fmt: skip


def test_without_mysql_there_is_none_in_it(system: System) -> None:
    assert status(system, MYSQL__URL="")["stores"]["mysql"] is None


def test_one_that_is_switched_off_says_so(system: System) -> None:
    found = status(system, ENABLED="false")
    assert found["enabled"] is False
    assert found["trouble"][0]["text"].startswith("tallyd is switched off")


def test_while_mongodb_does_not_answer_it_is_asked_no_more_often_than_for_reads(system: System) -> None:
    answers = read(system, *[STATUS, f"{PREFIX}totals/jav/movie/a", DEAD] * 2, **AWAY)
    assert [code for code, _ in answers] == [200, 503, 503] * 2
    assert answers[3][1]["stores"]["mongo"]["ok"] is False


def test_one_that_cannot_be_asked_now_is_not_answered_with_an_old_one(system: System) -> None:
    """All was well a moment ago."""

    async def work() -> None:
        config = system.config(**CONFIG, READ__WAIT_MS="100")
        api = Api(config)
        try:
            assert (await api.answer("GET", STATUS, "", [], free, operator=True)).status == 200
            await asyncio.sleep(config.dashboard.status_ttl_ms / 1000)
            gate = api._gates[Kind.STATUS]
            async with gate, gate:
                assert (await api.answer("GET", STATUS, "", [], free, operator=True)).status == 503
        finally:
            await api.close()

    asyncio.run(work())


def test_a_mongodb_that_comes_back_is_seen_although_nobody_reads(system: System) -> None:
    """The breaker asks for a trial, and the status is one."""

    async def work() -> None:
        api = Api(system.config(**CONFIG))
        assert api._stores is not None
        breaker = api._stores.breaker
        try:
            while not breaker.open:
                breaker.failed()
            async with asyncio.timeout(WAIT_TIMEOUT_S):
                while breaker.open:
                    await asyncio.sleep(0.05)
                    answer = await api.answer("GET", STATUS, "", [], free, operator=True)
            assert json.loads(answer.body)["stores"]["mongo"]["ok"]
        finally:
            await api.close()

    asyncio.run(work())


def test_the_command_prints_the_same_sentences(system: System) -> None:
    assert system.tallyd_here("status")[1].startswith("All is well.\n")
    letter(system, 0)
    system.redis.hset("anl:{0}:refused", "jav:movie:x", "no")
    env = {"ENABLED": "false"}
    shown, told = system.tallyd_here("status", **env)[1], status(system, **env)["trouble"]
    assert len(told) == 3
    assert [line for line in shown.splitlines() if not line.startswith("  ")][:3] == [each["text"] for each in told]
    assert all(each["do"] in shown for each in told)
    assert json.loads(system.tallyd_here("status", "--json", **env)[1])["trouble"] == told


def letter(system: System, number: int, **fields: Any) -> None:
    system.mongo[DEAD_LETTERS].insert_one(
        {
            "_id": f"0:{number}:c:jav:movie:x",
            "shard": 0,
            "seq": number,
            "collection": "c",
            "document": "jav:movie:x",
            "deltas": {"view": 3},
            "first": {"domain": "jav"},
            "reason": "the counter's field holds no number",
            "at": dt.datetime.now(dt.UTC) + dt.timedelta(milliseconds=number),
            "dropped_at": None,
            **fields,
        }
    )


def test_dead_letters_are_listed_with_their_reasons_the_oldest_first(system: System) -> None:
    for number in range(30):
        letter(system, number)
    letter(system, 99, dropped_at=dt.datetime.now(dt.UTC))
    (_, found), (_, one), (code, wrong) = read(system, DEAD, f"{DEAD}?limit=1", f"{DEAD}?limit=101")
    assert (found["waiting"], len(found["letters"]), len(one["letters"])) == (30, 20, 1)
    assert [each["seq"] for each in found["letters"]] == [*range(20)]
    first = found["letters"][0]
    assert {**first, "at": ""} == {
        "id": "0:0:c:jav:movie:x", "at": "", "shard": 0, "seq": 0, "collection": "c", "document": "jav:movie:x",
        "amounts": {"view": 3}, "reason": "the counter's field holds no number",
    }  # fmt: skip
    assert first["at"].endswith("Z")
    assert (code, list(wrong["errors"])) == (422, ["limit"])
    listed = json.loads(system.tallyd_here("dead", "list", "--json", "--limit", "20")[1])
    assert [each["id"] for each in listed] == [each["id"] for each in found["letters"]]


def test_a_hostile_letter_costs_little(system: System) -> None:
    """A foreign value may have megabytes, and a document any number of fields."""
    letter(system, 0, collection="", deltas={"amount": "é" * 3_000_000}, reason="r" * 5_000)
    letter(system, 1, deltas={f"c{number}": 2**62 for number in range(1_000)})
    letter(system, 2, collection="", deltas={"amount": 7})
    ((_, found),) = read(system, DEAD)
    foreign, wide, number = (each["amounts"] for each in found["letters"])
    assert set(foreign["amount"]) == {"é"}
    assert len(foreign["amount"]) == 300
    assert len(wide) == 20
    assert number == {"amount": "7"}
    assert len(json.dumps(found)) < 10_000


def test_a_status_is_read_once_for_all_who_ask_at_a_time(system: System) -> None:
    async def work() -> int:
        api = Api(system.config(DASHBOARD__STATUS_TTL_MS="60000"))
        try:
            answers = await asyncio.gather(
                *(api.answer("GET", STATUS, "&" * number, [], free, operator=True) for number in range(50))
            )
            return len({answer.body for answer in answers})
        finally:
            await api.close()

    assert asyncio.run(work()) == 1


def test_reads_that_crowd_do_not_keep_an_operator_out(system: System) -> None:
    async def work() -> int:
        api = Api(system.config(READ__READS_IN_FLIGHT_MAX="1"))
        api._reading = 1
        try:
            assert (await api.answer("GET", f"{PREFIX}totals/jav/movie/a", "", [], free)).status == 503
            return (await api.answer("GET", STATUS, "", [], free, operator=True)).status
        finally:
            await api.close()

    assert asyncio.run(work()) == 200
