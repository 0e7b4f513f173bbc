"""Chooses the documents that expire: their bucket is older than the configured age, and no claim can reach them.

Deleting a document deletes its record of applied seqs (see `rollups/mongo.py`). So it may go only if none of those
claims can be written again. The claim in flight can be, so only lower seqs expire. A flusher that was frozen in the
middle of a write can repeat an acknowledged claim, so only documents that are quiet for QUIET_DAYS expire. A seq is a
time in microseconds of Redis' clock, and that clock is asked here.

A late event makes a new document for its old day. A later run adds it to what expired.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Callable

import msgspec
from msgspec import Struct
from redis.asyncio import Redis

from daemon.buffer.keys import Keys
from daemon.config import Config
from daemon.domain.counter import add_up
from daemon.domain.rollup import EXPIRING, Bucketed
from daemon.retention.batch import Batches, amounts_of, can_go
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import Json, MongoSink

QUIET_DAYS = 7
BATCH_DOCUMENTS_MAX = 1_000
"""At about 300 bytes each, the record of a batch stays far below the 16 MiB limit of a document."""


class Expired(Struct):
    """What was deleted of a rollup, or would be. `kept_from`: its oldest bucket that is kept (None: all are)."""

    rollup: str
    kept_from: str | None
    documents: int = 0
    amounts: dict[str, int] = {}
    """In a dry run, the sums of what would be deleted, by field. `base.<counter>` is what was taken over."""


async def expire(
    config: Config,
    redis: Redis,
    mongo: MongoSink,
    *,
    dry_run: bool,
    progress: Callable[[Expired], None] = lambda _: None,
) -> list[Expired]:
    """Raises StoreError. It may always be repeated, also beside another run."""
    seconds, microseconds = await redis.time()
    now = dt.datetime.fromtimestamp(seconds, dt.UTC)
    quiet_us = seconds * 1_000_000 + microseconds - QUIET_DAYS * 86_400 * 1_000_000
    keys = Keys.of(config.redis)
    in_flight = [await redis.hget(keys.shard(shard).claim, "seq") for shard in range(config.redis.shards)]
    seq_max = min([quiet_us, *(int(seq) for seq in in_flight if seq)])
    done = []
    for kind in EXPIRING:
        oldest = kind.kept_from(now, msgspec.structs.asdict(config.retention))
        expired = Expired(kind.name, oldest)
        batches = Batches(mongo, kind)
        if not dry_run:
            await mongo.builds.refuse()
            expired.documents += await batches.finish()  # what an earlier run left
        if oldest is not None:
            async for found in _old(mongo, kind, oldest, seq_max):
                if dry_run:
                    expired.documents += len(found)
                    expired.amounts = add_up((expired.amounts, amounts_of(found)))
                else:
                    await batches.begin(found)
                    await mongo.builds.refuse()  # a build that begins later finds the batch, and finishes it
                    expired.documents += await batches.finish()
                progress(expired)
        done.append(expired)
    return done


async def _old(mongo: MongoSink, kind: Bucketed, oldest: str, seq_max: int) -> AsyncIterator[list[Json]]:
    wanted: Json = {kind.bucket_field: {"$lt": oldest}, "flush_seq": {"$not": {"$gte": seq_max}}}
    with store_error(mongo.address):
        cursor = mongo.collection(kind).find(wanted)
        while documents := await cursor.to_list(BATCH_DOCUMENTS_MAX):
            if going := [document for document in documents if can_go(document)]:
                yield going
