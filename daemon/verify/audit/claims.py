"""How far the two stores know each other's claims, shard by shard. Reads only."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from redis.asyncio import Redis

from daemon.buffer.counters import accounted
from daemon.buffer.keys import Keys
from daemon.config import Config
from daemon.rollups.floors import Hold, read_floor
from daemon.rollups.mongo import MongoSink

State = Literal["level", "in flight", "behind", "held", "ahead"]


class ShardClaims(Struct, frozen=True):
    """`redis`: the last claim that it has accounted for. `mongo`: the last one in its journal. 0: there is none.

    "in flight": MongoDB's is in flight in Redis. "behind", "ahead": that is how Redis stands. "held": it is behind, and
    `hold` says what an operator has to decide."""

    shard: int
    redis: int
    mongo: int
    state: State
    hold: Hold | None = None


async def read_claims(config: Config, redis: Redis, mongo: MongoSink, shard: int) -> ShardClaims:
    """Raises StoreError, and RedisError."""
    key = Keys(config.redis.prefix).shard(shard).claim
    seq, last, acked, is_open, nonce = await redis.hmget(key, "seq", "last", "acked", "open", "nonce")
    known = accounted(seq, last, acked)
    floor = await read_floor(mongo, shard)
    is_floor = bool(seq) and is_open != b"1" and int(seq or 0) == floor.seq
    is_floor = is_floor and floor.name.nonce.encode() in (b"", nonce)
    if not is_floor and known < floor.seq and floor.holds(known):
        return ShardClaims(shard, known, floor.seq, "held", floor.hold)
    state: State = (
        "in flight" if is_floor else "level" if known == floor.seq else "behind" if known < floor.seq else "ahead"
    )
    return ShardClaims(shard, known, floor.seq, state)
