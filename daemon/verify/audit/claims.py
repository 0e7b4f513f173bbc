"""How far the two stores know each other's claims, shard by shard. Reads only."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from redis.asyncio import Redis

from daemon.buffer.counters import accounted
from daemon.buffer.keys import Keys
from daemon.config import Config
from daemon.rollups.floors import read_floor
from daemon.rollups.mongo import MongoSink


class ShardClaims(Struct, frozen=True):
    """`redis`: the last claim that it has accounted for. `mongo`: the last one in its journal. 0: there is none.

    "in flight": MongoDB's is in flight in Redis. "behind", "ahead": that is how Redis stands."""

    shard: int
    redis: int
    mongo: int
    state: Literal["level", "in flight", "behind", "ahead"]


async def read_claims(config: Config, redis: Redis, mongo: MongoSink, shard: int) -> ShardClaims:
    """Raises StoreError, and RedisError."""
    key = Keys(config.redis.prefix).shard(shard).claim
    seq, last, acked, is_open, nonce = await redis.hmget(key, "seq", "last", "acked", "open", "nonce")
    known = accounted(seq, last, acked)
    floor = await read_floor(mongo, shard)
    is_floor = bool(seq) and is_open != b"1" and int(seq or 0) == floor.seq
    is_floor = is_floor and floor.name.nonce.encode() in (b"", nonce)
    state: Literal["level", "in flight", "behind", "ahead"] = (
        "in flight" if is_floor else "level" if known == floor.seq else "behind" if known < floor.seq else "ahead"
    )
    return ShardClaims(shard, known, floor.seq, state)
