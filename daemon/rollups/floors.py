"""What MongoDB remembers of each Redis: the highest seq written for a shard, and what was there when a Redis began.

A Redis may lose its memory. Its next claim must still get a seq that no document holds, and an audit must still know
which part of the totals that Redis never counted. Called by the flusher before it writes, and by `audit`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

from daemon.domain.rollup import TOTALS
from daemon.rollups.collections import EPOCHS, FLOORS
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import MongoSink


async def read_floor(mongo: MongoSink, shard: int) -> int:
    """The highest seq that may have been written to this shard's documents; 0 if none. Raises StoreError."""
    with store_error(mongo.address):
        document = await mongo.database[FLOORS].find_one({"_id": shard})
    return int(document["seq"]) if document else 0


async def raise_floor(mongo: MongoSink, shard: int, seq: int) -> None:
    """Must precede the first write of `seq`: Redis then never gives out again a seq that a document may hold. Raises
    StoreError."""
    with store_error(mongo.address):
        await mongo.database[FLOORS].update_one({"_id": shard}, {"$max": {"seq": seq}}, upsert=True)


async def open_epoch(mongo: MongoSink, epoch: int, counters: Collection[str]) -> None:
    """Records, once, what the totals held when a Redis began to count. Must precede the first write of what that Redis
    counted. Raises StoreError."""
    with store_error(mongo.address):
        if await mongo.database[EPOCHS].find_one({"_id": epoch}) is not None:
            return
        letters = (await mongo.dead_letters.sums()).get(TOTALS.collection, {})
        totals = await mongo.sums(TOTALS, counters)
        baseline = {counter: totals.get(counter, 0) + letters.get(counter, 0) for counter in counters}
        await mongo.database[EPOCHS].update_one(
            {"_id": epoch}, {"$setOnInsert": {"baseline": baseline, "at": dt.datetime.now(dt.UTC)}}, upsert=True
        )


async def read_baseline(mongo: MongoSink, epoch: int) -> dict[str, int] | None:
    """What `open_epoch` recorded, or None if nothing of that epoch was flushed yet. Raises StoreError."""
    with store_error(mongo.address):
        found = await mongo.database[EPOCHS].find_one({"_id": epoch})
    return None if found is None else {counter: int(n) for counter, n in found["baseline"].items()}
