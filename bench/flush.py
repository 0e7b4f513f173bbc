"""A flush of 5,000 dirty entities into five rollups: claim, roll up, five guarded bulk writes, ack.

Against the same upserts without the guard: the same documents and indexes, five bulk writes at once, no Redis, nothing
to roll up. Once into documents that exist, once into new ones.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import random
import time
from collections.abc import Callable, Coroutine
from itertools import chain
from typing import Any

import uvloop
from pymongo import AsyncMongoClient, UpdateOne

from bench import events
from bench.ground import Ground, GroundError
from bench.measure import Bar, Rounds, Row, in_turn
from bench.settings import Settings
from daemon.config import Config, domain_counters
from daemon.domain.rollup import COMPLETE, Document, Kind, Rollup
from daemon.flush.drain import Applied
from daemon.flush.flusher import Flusher
from daemon.rollups.build import build
from daemon.rollups.mongo import MongoSink
from tests.kit.system import with_database

BARS = (Bar("ratio", "at least", 0.6),)
WHAT = "flush of 5,000 dirty entities, five rollups"
OURS, PEER = "bench_ours", "bench_peer"


def measure(ground: Ground, settings: Settings) -> list[Row]:
    """Two rows: documents that exist, which is the rule, and new ones."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        bench = FlushBench(ground, runner)
        try:
            bench.prepare()
            updates = in_turn(
                settings.flush_rounds,
                lambda _: bench.ours(0),
                lambda _: bench.peer(0),
                again_max=settings.again_max,
                warm_up=2,
            )
            inserts = settings.flush_new_rounds and in_turn(
                settings.flush_new_rounds, lambda n: bench.ours(1 + n), lambda n: bench.peer(1 + n), again_max=0
            )
            bench.verify()
        finally:
            bench.close()
    rows = [_row("flush", WHAT, updates, BARS)]
    return [*rows, _row("flush-new", f"{WHAT}, into documents that don't exist yet", inserts)] if inserts else rows


def _row(name: str, what: str, rounds: Rounds, bars: tuple[Bar, ...] = ()) -> Row:
    return Row(
        name=name,
        what=what,
        unit="entities/s",
        ours=rounds.values[0],
        peer=rounds.values[1],
        peer_name="the same upserts without guard, no Redis",
        bars=bars,
        others=rounds.others,
    )


class FlushBench:
    """The flusher in this process, and a client of its own for the plain upserts, each with its database."""

    def __init__(self, ground: Ground, runner: asyncio.Runner) -> None:
        self._ground = ground
        self._run = runner.run
        self._config = _config(ground, OURS)
        self._flushed = 0

        async def connect() -> None:
            self._flusher = Flusher(self._config)
            self._client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
                ground.stack.mongo, w="majority", journal=True, tz_aware=True
            )

        self._run(connect())

    def prepare(self) -> None:
        """Forgets everything, and makes the indexes of both databases."""
        self._ground.forget()

        async def indexes() -> None:
            for database in (OURS, PEER):
                await self._client.drop_database(database)
            await self._flusher.prepare()
            await self._flusher.domains.build()
            await self._flusher.rank()
            sink = MongoSink(_config(self._ground, PEER).mongo)
            await sink.ensure_indexes()
            await sink.ensure_ranking(domain_counters(self._config, "jav"))
            await sink.close()

        self._run(indexes())

    def close(self) -> None:
        async def close() -> None:
            await self._flusher.close()
            await self._client.close()

        self._run(close())

    def ours(self, generation: int) -> float:
        """Entities a second through the flusher's own drain, until it finds nothing left."""
        self.make_dirty(events.ENTITIES, generation)
        return self.drain(events.ENTITIES)

    def peer(self, generation: int) -> float:
        """Entities a second through plain upserts of the same documents."""
        return self.write_plain(self.rolled_up(generation))

    def make_dirty(self, entities: int, generation: int = 0) -> None:
        """An event for each of so many entities; beyond 5,000 those of the generations that follow."""
        admitted = (
            events.admitted(self._config, min(events.ENTITIES, entities - first), generation=generation + number)
            for number, first in enumerate(range(0, entities, events.ENTITIES))
        )
        with self._ground.pipeline() as pipeline:
            pipeline.run(events.calls(self._config, chain.from_iterable(admitted), 1000))

    def drain(self, expected: int | None = None) -> float:
        """Entities a second until nothing is left. Raises GroundError if it is another number than expected."""
        drain = self._flusher.shards[0].drain

        async def work() -> int:
            entities = 0
            while isinstance(step := await drain.apply_next(), Applied):
                entities += step.entities
                if step.dirty_left == 0:
                    break
            return entities

        entities, seconds = self._timed(work)
        if expected is not None and entities != expected:
            raise GroundError(f"{expected} entities were dirty, and {entities} were flushed.")
        self._flushed += entities
        return entities / seconds

    def rolled_up(self, generation: int) -> Rollup:
        """The documents of a generation, in an order as random as a claim's."""
        amounts = [
            (event.entity, [(field, amount) for _, field, amount in event.effect.increments])
            for event in events.admitted(self._config, events.ENTITIES, generation=generation)
        ]
        random.shuffle(amounts)
        return build(amounts)

    def write_plain(self, rollup: Rollup) -> float:
        """Entities a second through upserts without the guard."""

        async def work() -> int:
            await _write_plain(self._client, rollup, domain_counters(self._config, "jav"))
            return events.ENTITIES

        entities, seconds = self._timed(work)
        return entities / seconds

    def verify(self) -> None:
        """Raises GroundError unless both databases hold the same counts."""

        async def sums() -> list[dict[str, Any]]:
            found = []
            for database in (OURS, PEER):
                group = {"_id": None, **{c: {"$sum": f"${c}"} for c in domain_counters(self._config, "jav")}}
                cursor = await self._client[database]["analytics_entity_daily"].aggregate([{"$group": group}])
                found.append((await cursor.to_list())[0])
            return found

        ours, peer = self._run(sums())
        if ours != peer or ours["view"] + ours["download"] != self._flushed:
            raise GroundError(f"{self._flushed} events were flushed; ours holds {ours}, the peer {peer}.")

    def _timed(self, work: Callable[[], Coroutine[Any, Any, int]]) -> tuple[int, float]:
        gc.collect()
        started = time.perf_counter()
        entities = self._run(work())
        return entities, time.perf_counter() - started


async def _write_plain(client: AsyncMongoClient[dict[str, Any]], rollup: Rollup, counters: tuple[str, ...]) -> None:
    now = dt.datetime.now(dt.UTC)

    async def one(kind: Kind, documents: list[Document]) -> None:
        operations = [_plain(kind, document, now, counters) for document in documents]
        await client[PEER][kind.collection].bulk_write(operations, ordered=False)

    await asyncio.gather(*(one(kind, rollup.documents[kind]) for kind in COMPLETE))


def _plain(kind: Kind, document: Document, now: dt.datetime, counters: tuple[str, ...]) -> UpdateOne:
    domain, type_, id_ = document.entity
    first: dict[str, object] = {"domain": domain, "entity_type": type_, "entity_id": id_}
    if kind.bucket_field is not None:
        first[kind.bucket_field] = document.bucket
    first.update({counter: 0 for counter in counters if counter not in document.amounts})
    update = {"$inc": document.amounts, "$set": {"updated_at": now}, "$setOnInsert": first}
    return UpdateOne({"_id": document.id}, update, upsert=True)


def _config(ground: Ground, database: str) -> Config:
    return ground.config(MONGO__URL=with_database(ground.stack.mongo, database))
