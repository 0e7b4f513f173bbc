"""Parts of the hot paths, one benchmark each. Not collected by `just test`; `python -m bench --only parts` runs it.

The first need no server. The others find the stores in the environment, as a daemon does, and forget what is there.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import redis
import uvloop
from pymongo.asynchronous.database import AsyncDatabase

from bench import events
from bench.pipeline import Pipeline
from bench.replica import ROWS, create_table
from daemon import config as configuration
from daemon import response
from daemon.buffer import scripts
from daemon.buffer.connection import Connection
from daemon.buffer.counters import Ahead, Claim, Counters, Limits
from daemon.buffer.keys import Keys
from daemon.buffer.layout import Layout
from daemon.buffer.outcome import Counted, Limited
from daemon.buffer.wire import Request, unlimited
from daemon.config import Config, Ingest, MongoSection, replica_tables
from daemon.domain.claim import NO_CLAIM, ClaimName
from daemon.domain.event import Event
from daemon.domain.rejection import Rejection
from daemon.domain.rollup import COMPLETE, Rollup
from daemon.flush.flusher import GC_THRESHOLD_OBJECTS
from daemon.ingest.batcher import Batcher
from daemon.ingest.decode import Batch
from daemon.metrics import IngestTally
from daemon.replica.mysql import MysqlSink
from daemon.rollups.build import build
from daemon.rollups.mongo import MongoSink

BATCH = 200
CLAIMED = 1_000
ROUNDS = 20

Amounts = list[tuple[str, list[tuple[str, str]]]]


@pytest.fixture(scope="module")
def config() -> Config:
    """The defaults, and the stores of the environment."""
    return configuration.load()


@pytest.fixture(scope="module", autouse=True)
def collector() -> Iterator[None]:
    """The collector as the daemons set it: at Python's default it doubles the time to build a rollup."""
    before = gc.get_threshold()
    gc.set_threshold(GC_THRESHOLD_OBJECTS)
    yield
    gc.set_threshold(*before)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture(scope="module")
def counters(config: Config, runner: asyncio.Runner) -> Iterator[Counters]:
    """The one shard, in an emptied Redis."""
    with redis.Redis.from_url(config.redis.url) as store:
        store.flushall()
    connection = runner.run(_connected(config))
    yield Counters(connection, 0, Limits.of(config))
    runner.run(connection.close())


async def _connected(config: Config) -> Connection:
    connection = Connection(config.redis, Layout(config))
    await connection.connect()
    return connection


@pytest.fixture(scope="module")
def amounts(config: Config) -> Amounts:
    """What a claim of 5,000 entities hands over."""
    return [
        (event.entity, [(field, amount) for _, field, amount in event.effect.increments])
        for event in events.admitted(config, events.ENTITIES)
    ]


def told(benchmark: Any, what: str, items: int = 1) -> Any:
    """The benchmark, with the words for the table and the number of things one call handles."""
    benchmark.extra_info.update(what=what, items=items)
    return benchmark


def test_decode_single(benchmark: Any, config: Config) -> None:
    decoder = events.decoder(config)
    bodies = [msgspec.json.encode(events.on_the_wire(n, events.unique_id("00000000", n))) for n in range(1000)]
    told(benchmark, "decode and admit a single event", len(bodies))
    assert isinstance(benchmark(lambda: [decoder.single(body) for body in bodies])[0], Event)


def test_decode_batch(benchmark: Any, config: Config) -> None:
    decoder = events.decoder(config)
    wire = [events.on_the_wire(n, events.unique_id("00000000", n)) for n in range(BATCH)]
    batch = told(benchmark, f"decode and admit a batch of {BATCH}, an event", BATCH)(
        decoder.batch, msgspec.json.encode(wire)
    )
    assert isinstance(batch, Batch)
    assert len(batch.events) == BATCH


def test_refuse(benchmark: Any, config: Config) -> None:
    decoder = events.decoder(config)
    wrong = {**events.on_the_wire(0, ""), "value": 0, "entity_type": "film", "occurred_at": "yesterday"}
    body = msgspec.json.encode(wrong)

    def refuse() -> response.Response:
        refused = decoder.single(body)
        assert isinstance(refused, Rejection)
        return response.invalid(refused)

    assert told(benchmark, "refuse an event with 4 wrong fields: 422")(refuse).status == 422


def test_encode(benchmark: Any, config: Config) -> None:
    admitted = list(events.admitted(config, 4 * BATCH))
    assert told(benchmark, "encode a call of 800 events, an event", len(admitted))(
        events.calls, config, admitted, len(admitted)
    )


def test_rollup(benchmark: Any, amounts: Amounts) -> None:
    rollup = told(benchmark, "roll up a claim of 5,000, an entity", len(amounts))(build, amounts)
    assert [len(rollup.documents[kind]) for kind in COMPLETE] == [events.ENTITIES] * 5


def test_statements(benchmark: Any, amounts: Amounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """From documents to what pymongo is handed; what pymongo would do with it is cut off."""
    rollup = build(amounts)
    handed: list[int] = []

    async def command(_self: object, command: Any) -> dict[str, Any]:
        handed.append(sum(len(each["q"]["_id"]["$in"]) for each in command["updates"]) if command != "hello" else 0)
        return {"ok": 1, "n": handed[-1]}

    monkeypatch.setattr(AsyncDatabase, "command", command)

    def statements(rollup: Rollup) -> None:
        handed.clear()

        async def write() -> None:
            sink = MongoSink(MongoSection(url="mongodb://127.0.0.1:1/x"))  # never connects
            await sink.write(rollup, 1, {"jav": ("download", "view")})
            await sink.close()

        asyncio.run(write())

    told(benchmark, "build the five bulk writes of 5,000 entities, an entity", events.ENTITIES)(statements, rollup)
    assert sum(handed) == events.ENTITIES * len(COMPLETE)


def test_batcher(benchmark: Any, config: Config) -> None:
    """Submit, coalesce, and hand out the outcomes; the store answers at once."""
    (event,) = events.admitted(config, 1)
    counted: Counted | Limited = Counted(1)

    async def at_once(requests: Sequence[Request]) -> list[Counted | Limited]:
        return [counted] * len(requests)

    async def submit() -> list[Any]:
        limits = Ingest(queue_events_max=20_000, call_events_max=2_000, calls_in_flight_max=2)
        batcher = Batcher(at_once, IngestTally(), limits)
        return await asyncio.gather(*(batcher.ask(unlimited((event,))) for _ in range(CLAIMED)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcomes = told(benchmark, "coalesce a request", CLAIMED)(lambda: runner.run(submit()))
    assert outcomes == [counted] * CLAIMED


@pytest.mark.usefixtures("counters")
def test_ingest_script(benchmark: Any, config: Config) -> None:
    parts = urlsplit(config.redis.url)
    assert parts.hostname
    assert parts.port

    def new_events() -> tuple[tuple[list[bytes]], dict[str, Any]]:
        return (events.calls(config, events.admitted(config, BATCH), BATCH),), {}

    with Pipeline(parts.hostname, parts.port) as pipeline:
        _, counted = told(
            benchmark, f"ingest.lua and its round trip, a call of {BATCH} new events, an event", BATCH
        ).pedantic(pipeline.run, setup=new_events, rounds=5 * ROUNDS)
    assert counted == BATCH


def test_claim_script(benchmark: Any, config: Config, counters: Counters, runner: asyncio.Runner) -> None:
    claim = told(benchmark, f"claim.lua and its round trip, {CLAIMED:,} entities, an entity", CLAIMED).pedantic(
        lambda: runner.run(_claim(counters)), setup=lambda: _make_dirty(config, counters, runner), rounds=ROUNDS
    )
    assert len(claim.content) == CLAIMED


def test_unfold_script(benchmark: Any, config: Config, counters: Counters, runner: asyncio.Runner) -> None:
    _make_dirty(config, counters, runner)
    claim = runner.run(_claim(counters))
    with redis.Redis.from_url(config.redis.url) as store:
        unfold = store.register_script(scripts.UNFOLD.source)
        flat = told(benchmark, f"unfold.lua and its round trip, {CLAIMED:,} entities, an entity", CLAIMED)(
            lambda: unfold(keys=[Keys("anl").shard(0).claim], args=[claim.seq])
        )
    assert len(flat) >= 4 * CLAIMED


def test_ack_script(benchmark: Any, config: Config, counters: Counters, runner: asyncio.Runner) -> None:
    def in_flight() -> tuple[tuple[Any, list[str]], dict[str, Any]]:
        _make_dirty(config, counters, runner)
        claim = runner.run(_claim(counters))
        return (claim, [entity for entity, _ in claim.content]), {}

    assert told(benchmark, f"ack.lua and its round trip, {CLAIMED:,} due entities, an entity", CLAIMED).pedantic(
        lambda claim, due: runner.run(counters.ack(claim.name, claim.acked, [("flushed:view", CLAIMED)], due)),
        setup=in_flight, rounds=ROUNDS,
    )  # fmt: skip


def test_settle_script(benchmark: Any, config: Config, counters: Counters, runner: asyncio.Runner) -> None:
    def due() -> tuple[tuple[list[tuple[str, str]]], dict[str, Any]]:
        _make_dirty(config, counters, runner)
        claim = runner.run(_claim(counters))
        runner.run(counters.ack(claim.name, claim.acked, [], [entity for entity, _ in claim.content]))
        return (runner.run(counters.due(CLAIMED)),), {}

    settled = told(benchmark, f"settle.lua and its round trip, {CLAIMED:,} entities, an entity", CLAIMED).pedantic(
        lambda pairs: runner.run(counters.settle(pairs)), setup=due, rounds=ROUNDS
    )
    assert settled == CLAIMED


def test_layout_script(benchmark: Any, config: Config, runner: asyncio.Runner) -> None:
    async def connect_once() -> None:
        await (await _connected(config)).close()

    told(benchmark, "connect, and layout.lua")(lambda: runner.run(connect_once()))


def test_mongo_write(benchmark: Any, config: Config, runner: asyncio.Runner, amounts: Amounts) -> None:
    rollup, seqs = build(amounts), itertools.count(1)

    async def opened() -> MongoSink:
        sink = MongoSink(config.mongo)
        await sink.database.client.drop_database(sink.database)
        await sink.ensure_indexes()
        await sink.ensure_ranking(("download", "view"))
        return sink

    sink = runner.run(opened())
    result = told(benchmark, "write 5,000 entities to the five collections, an entity", events.ENTITIES).pedantic(
        lambda: runner.run(sink.write(rollup, next(seqs), {"jav": ("download", "view")})), rounds=5, warmup_rounds=1
    )
    runner.run(sink.close())
    assert result.applied == events.ENTITIES * len(COMPLETE)


def test_replica_statement(benchmark: Any, config: Config, runner: asyncio.Runner) -> None:
    table, rounds = replica_tables(config)["jav", "movie"], itertools.count(1)
    ids = runner.run(create_table(config.mysql.url))
    sink = MysqlSink(config.mysql)

    def totals() -> tuple[tuple[dict[str, dict[str, int]]], dict[str, Any]]:
        number = next(rounds)
        return ({id_: {"view": number, "download": number} for id_ in ids},), {}

    written = told(benchmark, f"set {ROWS:,} rows in MySQL, a row", ROWS).pedantic(
        lambda wanted: runner.run(sink.write(table, wanted)), setup=totals, rounds=ROUNDS
    )
    runner.run(sink.close())
    assert written.applied == ROWS


def _make_dirty(config: Config, counters: Counters, runner: asyncio.Runner) -> None:
    """An event for each of as many entities as a claim takes, and nothing else dirty or in flight."""
    while isinstance(claim := runner.run(_claim(counters)), Claim):
        runner.run(counters.ack(claim.name, claim.acked, [], []))
    runner.run(counters.ingest([unlimited(list(events.admitted(config, CLAIMED)))]))


class _Claimed(Amounts):
    """What was claimed, not rolled up."""

    add = list.extend


async def _claim(counters: Counters) -> Any:
    floor = NO_CLAIM
    while True:
        claim = await counters.claim(
            _Claimed, owner="bench", floor=floor, lease_ms=60_000, entities_max=CLAIMED, fields_max=20_000,
            us_max=1_000_000,
        )  # fmt: skip
        if not isinstance(claim, Ahead):
            return claim
        floor = ClaimName(claim.acked, "")
