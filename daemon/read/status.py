"""How far along the flow everything is: per shard, what waits in Redis, what is in flight, what MySQL still lacks."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct
from redis.asyncio import Redis

from daemon.buffer.connection import opened
from daemon.buffer.keys import Keys, ShardKeys
from daemon.buffer.state import read_state
from daemon.config import Config
from daemon.errors import StoreError
from daemon.rollups.jobs import JobResult, read_jobs
from daemon.rollups.mongo import MongoSink
from daemon.spool.origin import origin_of
from daemon.spool.segment import Usage, usage


class ShardStatus(Struct, frozen=True):
    """Counts of entities; ages in seconds. None: there is none, or there never was."""

    shard: int
    dirty: int
    in_flight: int
    in_flight_age_s: float | None
    replica_due: int
    replica_refused: int
    """Those of them whose row MySQL does not take; the hash anl:{shard}:refused says why."""
    last_flush_age_s: float | None
    ledger: dict[str, int]
    """accepted:<counter>, duplicate:<counter>, flushed:<counter>, dead:<counter>: amounts since the data began; aside:
    foreign values moved out of the way; missing: how often a sync found no row for an entity; unknown:
    counts of ids that MySQL did not have (`known`)."""


class Status(Struct, frozen=True):
    shards: list[ShardStatus]
    """Empty if Redis does not answer; `redis_error` says why."""
    redis_error: str | None
    spool: Usage | None
    """What waits on this machine's disk for Redis; None: there is no spool."""
    dead_letters: int | None
    """None: MongoDB does not answer; `mongo_error` says why."""
    mongo_error: str | None
    jobs: list[JobResult] = []
    """The last result of each job that was run with `--record`."""


async def read_status(config: Config) -> Status:
    """Never raises for a store that is away: that is part of the answer."""
    shards: list[ShardStatus] = []
    redis_error, epoch = None, 0
    keys, window_s = Keys(config.redis.prefix), config.dedupe.window_s
    try:
        async with opened(config.redis) as redis:
            epoch = int(await redis.hget(keys.layout, "epoch") or 0)
            shards = [
                await _shard(redis, number, keys.shard(number), window_s) for number in range(config.redis.shards)
            ]
    except StoreError as error:
        redis_error = str(error)
    spool = usage(Path(config.spool.dir), origin_of(config, epoch)) if config.spool.dir else None
    mongo = MongoSink(config.mongo)
    try:
        return Status(shards, redis_error, spool, await mongo.dead_letters.count(), None, await read_jobs(mongo))
    except StoreError as error:
        return Status(shards, redis_error, spool, None, str(error))
    finally:
        await mongo.close()


async def _shard(redis: Redis, number: int, keys: ShardKeys, window_s: int) -> ShardStatus:
    state = await read_state(redis, keys, window_s)
    age_s, acked_at_s = state.in_flight_age_s, state.acked_at_s
    return ShardStatus(
        shard=number,
        dirty=state.dirty,
        in_flight=state.in_flight,
        in_flight_age_s=None if age_s is None else round(age_s, 3),
        replica_due=state.due,
        replica_refused=state.refused,
        last_flush_age_s=None if acked_at_s is None else round(max(0.0, state.now_s - acked_at_s), 3),
        ledger=state.ledger,
    )
