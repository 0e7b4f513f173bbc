"""Exact totals (`fresh=1`): at every step of a flush, and beside producers and flushers that don't stop for them."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest

from daemon.buffer import pending
from daemon.buffer.connection import Connection
from daemon.buffer.layout import Layout
from daemon.buffer.pending import Pending
from daemon.domain.entity import Entity
from daemon.errors import StoreError
from daemon.flush.flusher import Flusher as FlushDaemon
from daemon.read.api import Api
from daemon.read.exact import TRIES_MAX, Exact
from daemon.read.gate import RefusedReadError
from daemon.read.totals import TotalsReader, ask_totals
from daemon.rollups.mongo import Json, MongoSink
from tests.chaos.steps import Actor, Flusher
from tests.kit.loop import in_loop
from tests.kit.proxy import Gate
from tests.kit.reads import free
from tests.kit.system import BATCH, Ingest, System, event, wait_until

M = Entity("jav", "movie", "m")
COUNTERS = ("download", "view")
FIELDS_MAX = 100


class Interrupted(TotalsReader):
    """Something happens between the look into Redis and the one into MongoDB."""

    def __init__(self, mongo: MongoSink) -> None:
        super().__init__(partial(ask_totals, mongo))
        self.times = 0
        self.happens: Any = None

    async def documents(self, keys: Sequence[str]) -> dict[str, Json]:
        if self.times:
            self.times -= 1
            await asyncio.to_thread(self.happens)
        return await super().documents(keys)


@asynccontextmanager
async def reading(system: System) -> AsyncIterator[tuple[Exact, Interrupted]]:
    config = system.config()
    connection, mongo = Connection(config.redis, Layout(config)), MongoSink(config.mongo)
    totals = Interrupted(mongo)
    try:
        yield Exact([Pending(connection, 0, FIELDS_MAX)], totals), totals
    finally:
        await connection.close()
        await mongo.close()


@asynccontextmanager
async def flushing(system: System) -> AsyncIterator[Actor]:
    """A flusher that has begun to apply a claim, and stops at every step."""
    config, flusher = system.config(), Flusher(system, 0)
    daemon = FlushDaemon(config)
    await daemon.domains.build()
    await daemon.close()
    connection = Connection(config.redis, Layout(config))
    flusher.restart(connection)
    await flusher.actor.begin(flusher.drain.apply_next())
    yield flusher.actor
    await connection.close()
    await flusher.mongo.close()


def read(system: System) -> dict[str, int]:
    async def work() -> dict[str, int]:
        async with reading(system) as (exact, _):
            return await exact.read(M, COUNTERS)

    return asyncio.run(work())


def views(*ids: str, **fields: Any) -> list[dict[str, Any]]:
    return [event(entity_id="m", event_id=id_, **fields) for id_ in ids]


def test_an_entity_nobody_counted_has_zeros(system: System) -> None:
    assert read(system) == {"download": 0, "view": 0}


def test_it_is_exact_at_every_step_of_a_claim(system: System) -> None:
    """Whoever dies at such a step leaves just that behind. The batch is frozen in several parts."""
    system.env["TALLYD_FLUSH__CLAIM_US_MAX"] = "1"
    system.count(*views("1", "2"), event(entity_id="m", action="download"))
    system.flush()
    system.count(*views("3", value=5), *(event(entity_id=str(n)) for n in range(5)))

    async def work() -> int:
        steps, accepted = 0, 7
        async with reading(system) as (exact, _), flushing(system) as actor:
            while actor.running:
                if steps % 4 == 2:
                    await asyncio.to_thread(system.count, *views(f"step {steps}"))
                    accepted += 1
                assert await exact.read(M, COUNTERS) == {"download": 1, "view": accepted}, f"after {steps} steps"
                await actor.step(0)
                steps += 1
            assert await exact.read(M, COUNTERS) == {"download": 1, "view": accepted}
        return steps

    assert asyncio.run(work()) > 20


def test_a_batch_that_grows_between_the_two_looks_is_seen_once(system: System) -> None:
    """What is added to it was live in the snapshot, and is in the document together with the rest."""
    system.env["TALLYD_FLUSH__CLAIM_US_MAX"] = "1"
    system.count(*views("1", value=5), *(event(entity_id=str(n)) for n in range(5)))
    flusher_claims(system, whole=False)
    system.count(*views("2", value=7))

    def finish() -> None:
        assert system.redis.hget("anl:{0}:claim", "open") == b"1"
        system.redis.hset("anl:{0}:claim", "until", 0)
        system.flush()

    async def work() -> None:
        async with reading(system) as (exact, totals):
            assert (await exact.read(M, COUNTERS))["view"] == 12
            totals.times, totals.happens = 1, finish
            assert (await exact.read(M, COUNTERS))["view"] == 12
            assert (await exact.read(M, COUNTERS))["view"] == 12

    asyncio.run(work())


def test_who_asks_at_the_same_time_shares_what_is_decoded(system: System) -> None:
    decoded: list[bytes] = []

    class Listening(Pending):
        async def _amounts(self, part: bytes, payload: bytes) -> Any:
            decoded.append(part)
            return await super()._amounts(part, payload)

    system.env["TALLYD_FLUSH__CLAIM_US_MAX"] = "1"
    system.count(*(event(entity_id=str(n), value=n + 1) for n in range(20)))
    flusher_claims(system)

    async def work() -> None:
        connection = Connection(system.config().redis, Layout(system.config()))
        pending = Listening(connection, 0, FIELDS_MAX)
        found = await asyncio.gather(*(pending.of(f"jav:movie:{n}") for n in range(20)))
        assert [snapshot.claimed for snapshot in found] == [{"view": n + 1} for n in range(20)]
        await connection.close()

    asyncio.run(work())
    assert len(decoded) == len(set(decoded)) > 1


def test_a_claim_that_is_larger_than_one_reply_is_fetched_in_several(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "CALL_BYTES_MAX", 1)
    test_who_asks_at_the_same_time_shares_what_is_decoded(system)


def hgetalls(system: System) -> int:
    """How many whole hashes Redis has read, for scripts, too."""
    stats: Any = system.redis.info("commandstats")
    return int(stats.get("cmdstat_hgetall", {"calls": 0})["calls"])


def test_an_entity_of_a_hundred_thousand_days_is_refused_and_not_read(system: System) -> None:
    """Every such read would keep Redis, and so every event, for 150 ms."""
    first = dt.date(1600, 1, 1).toordinal()
    days = {f"view:{dt.date.fromordinal(first + n)}": 1 for n in range(120_000)}
    system.count(event(entity_id="m"))
    system.redis.hset("anl:{0}:counters:jav:movie:m", mapping=days)
    path = "/api/v1/analytics/totals/jav/movie/"
    with system.ingest() as ingest:
        assert ingest.client.get(f"{path}other?fresh=1").status_code == 200
        before = hgetalls(system)
        for _ in range(50):
            answer = ingest.client.get(f"{path}m?fresh=1")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "waits to be flushed" in answer.json()["message"]
        assert hgetalls(system) < before + 50  # a connection that opens reads one, too: the layout
        assert ingest.client.get(f"{path}m").status_code == 200
        system.redis.delete("anl:{0}:counters:jav:movie:m")
        assert ingest.client.get(f"{path}m?fresh=1").status_code == 200


def test_an_entity_that_a_claim_holds_too_much_of_is_refused_too(system: System) -> None:
    first = dt.date(2020, 1, 1).toordinal()
    days = (dt.date.fromordinal(first + n).isoformat() for n in range(FIELDS_MAX + 1))
    system.count(*(event(entity_id="m", occurred_at=f"{day}T00:00:00Z") for day in days))
    flusher_claims(system)
    with pytest.raises(RefusedReadError):
        read(system)
    system.redis.hset("anl:{0}:claim", "until", 0)
    system.flush()
    assert read(system)["view"] == FIELDS_MAX + 1


def test_reads_that_wait_for_their_turn_share_one_and_a_later_one_sees_what_came_between(system: System) -> None:
    mongo = Gate(system.env["TALLYD_MONGO__URL"], b"analytics_entity_totals")
    path = "/api/v1/analytics/totals/jav/movie/m"

    @in_loop
    async def work() -> None:
        api = Api(system.config(MONGO__URL=mongo.url(), READ__FRESH_AT_ONCE_MAX="1", READ__TIMEOUT_MS="20000"))
        first = asyncio.create_task(api.answer("GET", path, "fresh=1", (), free))
        assert await asyncio.to_thread(mongo.tripped.wait, 10)
        await asyncio.to_thread(system.count, *views("2"))
        evals = system.redis.info("commandstats")["cmdstat_evalsha"]["calls"]
        others = [asyncio.create_task(api.answer("GET", path, "fresh=1", (), free)) for _ in range(20)]
        await asyncio.sleep(0.01)
        mongo.release()
        found = [json.loads((await each).body)["counters"]["view"] for each in (first, *others)]
        assert found == [1] + [2] * 20
        assert system.redis.info("commandstats")["cmdstat_evalsha"]["calls"] - evals == 1
        await api.close()

    system.count(*views("1"))
    with mongo.running():
        work()


def test_a_flush_between_the_two_looks_is_seen_once(system: System) -> None:
    """Without a second look at Redis its amounts would count twice: live in the snapshot, and in the document."""
    system.count(*views("1", "2"))

    async def work() -> None:
        async with reading(system) as (exact, totals):
            totals.times, totals.happens = 1, system.flush
            assert (await exact.read(M, COUNTERS))["view"] == 2

            def count_and_flush() -> None:
                system.count(*views(secrets.token_hex(8)))
                system.flush()

            totals.times, totals.happens = 3, count_and_flush
            assert (await exact.read(M, COUNTERS))["view"] == 5
            totals.times = TRIES_MAX
            with pytest.raises(StoreError, match="No moment between two flushes"):
                await exact.read(M, COUNTERS)

    asyncio.run(work())


def test_a_base_is_part_of_the_total(system: System) -> None:
    system.count(*views("1"))
    system.flush()
    system.mongo.analytics_entity_totals.update_one({}, {"$set": {"base": {"view": 1_000, "download": 3}}})
    system.count(*views("2"))
    assert read(system) == {"download": 3, "view": 1_002}


def test_a_redis_that_lost_its_memory_adds_to_what_was_flushed(system: System) -> None:
    system.count(*views("1", "2"))
    system.flush()
    system.redis.flushall()
    assert read(system)["view"] == 2
    system.count(*views("3"))
    assert read(system)["view"] == 3
    system.flush()
    assert read(system)["view"] == 3


def test_a_redis_that_came_back_older_is_not_read_exactly_until_it_is_amended(system: System) -> None:
    system.count(*views("1", "2"))
    saved = {key: system.redis.dump(key) for key in system.redis.scan_iter()}
    system.flush()
    system.redis.flushall()
    for key, value in saved.items():
        system.redis.restore(key, 0, value)
    with pytest.raises(StoreError, match="came back older"):
        read(system)
    system.flush()
    assert read(system)["view"] == 2


def test_foreign_values_change_no_total(system: System) -> None:
    system.count(*views("1"))
    system.redis.hset(
        "anl:{0}:counters:jav:movie:m", mapping={"view:yesterday": 7, "view:2026-02-20": "many", b"\xff": 1}
    )
    assert read(system)["view"] == 1
    flusher_claims(system)
    assert read(system)["view"] == 1


def flusher_claims(system: System, *, whole: bool = True) -> None:
    """A batch in flight whose flusher is gone, after its last or its first part."""

    async def work() -> None:
        async with flushing(system) as actor:
            await actor.step_until("advance" if whole else "claim")
            if not whole:
                await actor.step(0)
            assert actor.running
            await actor.crash()

    asyncio.run(work())


def test_reads_beside_ingest_and_flush_never_go_back_and_never_lie(system: System) -> None:
    """Each read lies between what was acknowledged before it began and what was sent when it ended."""
    hot = quote("/hot?a,b", safe="")
    path = f"/api/v1/analytics/totals/jav/movie/{hot}?fresh=1"
    sent = acknowledged = 0
    over = threading.Event()
    found: list[tuple[int, int, int]] = []
    failures: list[str] = []

    def produce(ingest: Ingest) -> None:
        nonlocal sent, acknowledged
        while not over.is_set():
            events = [event(entity_id="/hot?a,b") for _ in range(3)] + [event(entity_id=str(n)) for n in range(20)]
            sent += 3
            answer = ingest.post(events, BATCH)
            assert answer.json()["accepted"] == 23
            acknowledged += 3

    def ask(ingest: Ingest) -> None:
        last = 0
        while not over.is_set():
            least = acknowledged
            answer = ingest.client.get(path)
            if answer.status_code != 200:
                failures.append(answer.text)
                continue
            view = answer.json()["counters"]["view"]
            found.append((least, view, sent))
            if view < last:
                failures.append(f"{view} after {last}")
            last = view

    flush = {"FLUSH__INTERVAL_S": "0.02", "FLUSH__POLL_MS": "5", "FLUSH__THRESHOLD": "1"}
    with system.ingest() as ingest, system.flusher(**flush), system.flusher(**flush):
        threads = [threading.Thread(target=run, args=(ingest,)) for run in (produce, ask, ask)]
        for thread in threads:
            thread.start()
        time.sleep(4)
        over.set()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(found) > 50
        assert [each for each in found if not each[0] <= each[1] <= each[2]] == []
        key = "jav:movie:/hot?a,b"
        assert ingest.client.get(path).json()["counters"]["view"] == acknowledged
        wait_until(lambda: system.rollup("totals").get(key, {}).get("view") == acknowledged, "all is flushed")
        assert ingest.client.get(path).json()["counters"]["view"] == acknowledged
