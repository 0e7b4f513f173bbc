"""`python -m bench.capacity`: what an event and an entity take of memory and disk: see `daemon/doctor/capacity.py`.

It prints figures and keeps none. 10,000 entities with random ids are counted on three days, and flushed into MongoDB
with all of tallyd's indexes. Figures of bytes do not depend on how busy the machine is.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
import tempfile
import uuid
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from bench import events
from bench.ground import Ground, forget_configuration, raised
from daemon.config import domain_counters
from daemon.domain.event import Event
from daemon.domain.rollup import COMPLETE
from daemon.flush.flusher import Flusher
from daemon.ingest.decode import Batch
from daemon.rollups.mongo import MongoSink

ENTITIES = 10_000
DAYS = 3
CALL_EVENTS = 500
EVENT_COPIES = 20
"""Calls on one connection carry about so many single events under load."""


def day_events(ground: Ground, ids: list[str], day: dt.date, per_entity: int = 1) -> list[Event]:
    """`per_entity` views of each entity, on this day."""
    decoder = events.decoder(ground.config())
    made: list[Event] = []
    left = iter(ids)
    while part := list(islice(left, events.ENTITIES)):
        on_the_wire = [
            {**events.on_the_wire(1, secrets.token_hex(18)), "entity_id": id_, "occurred_at": f"{day}T12:00:00Z"}
            for id_ in part
            for _ in range(per_entity)
        ]
        for start in range(0, len(on_the_wire), events.ENTITIES):
            batch = decoder.batch(msgspec.json.encode(on_the_wire[start : start + events.ENTITIES]))
            assert isinstance(batch, Batch)
            assert not batch.rejected
            made += batch.events
    return made


def count(ground: Ground, counted: list[Event], call_events: int = CALL_EVENTS) -> None:
    with ground.pipeline() as pipeline:
        pipeline.run(events.calls(ground.config(), counted, call_events))


def aof_bytes(ground: Ground) -> int:
    info: dict[str, Any] = ground.redis.info("persistence")
    return int(info["aof_current_size"])


def used_bytes(ground: Ground, pattern: str) -> int:
    """Redis' memory for the keys of a pattern, by its own account of each."""
    with ground.redis.pipeline(transaction=False) as pipe:
        for name in ground.redis.scan_iter(pattern, count=1_000):
            pipe.memory_usage(name, 0)
        return sum(int(size) for size in pipe.execute())


def measure(ground: Ground) -> None:
    ids = [str(uuid.uuid4()) for _ in range(ENTITIES)]
    last = dt.datetime.now(dt.UTC).date()
    days = [last - dt.timedelta(days=number) for number in range(DAYS)][::-1]

    async def prepare() -> None:
        async with MongoSink(ground.config().mongo) as sink:
            await sink.ensure_indexes()
            await sink.ensure_ranking(domain_counters(ground.config(), "jav"))

    async def flush() -> None:
        flusher = Flusher(ground.config())
        try:
            await flusher.once()
        finally:
            await flusher.close()

    asyncio.run(prepare())
    for number, day in enumerate(days):
        before = aof_bytes(ground)
        memory_before: dict[str, Any] = ground.redis.info("memory")
        count(ground, day_events(ground, ids, day))
        if not number:
            memory: dict[str, Any] = ground.redis.info("memory")
            grown = int(memory["used_memory"]) - int(memory_before["used_memory"])
            seen = used_bytes(ground, "anl:{0}:seen:*")
            print(f"a dirty entity, Redis: {(grown - seen) / ENTITIES:.0f} bytes")
            print(f"an event, append-only file, calls of {CALL_EVENTS}: {(aof_bytes(ground) - before) / ENTITIES:.0f}")
            before = aof_bytes(ground)
            count(ground, day_events(ground, ids[: ENTITIES // 5], day), EVENT_COPIES)
            each = (aof_bytes(ground) - before) / (ENTITIES // 5)
            print(f"an event, append-only file, calls of {EVENT_COPIES}: {each:.0f}")
        before = aof_bytes(ground)
        asyncio.run(flush())
        print(f"a flushed entity, append-only file: {(aof_bytes(ground) - before) / ENTITIES:.0f}")
    ground.mongo_client.admin.command("fsync")
    for kind in COMPLETE:
        stats = ground.mongo.command("collStats", kind.collection)
        documents = stats["count"]
        print(
            f"{kind.collection}: {documents} documents, each {stats['size'] / documents:.0f} bytes,"
            f" {stats['storageSize'] / documents:.0f} on disk, indexes {stats['totalIndexSize'] / documents:.0f}"
        )


def main() -> None:
    forget_configuration()
    with tempfile.TemporaryDirectory(prefix="tallyd-capacity-") as folder, raised(Path(folder)) as ground:
        measure(ground)


if __name__ == "__main__":
    main()
