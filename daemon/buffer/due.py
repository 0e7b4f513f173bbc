"""The list of entities whose MySQL row is behind: putting one on it other than by a flush, and asking about it and the
batch in flight, whose entities come on it next."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from redis.asyncio import Redis

from daemon.buffer.counters import Amounts, part_amounts, parts_of
from daemon.buffer.keys import shard_keys
from daemon.buffer.scripts import UNFOLD


async def make_due(redis: Redis, shard: int, entities: Collection[str]) -> None:
    """Lists the entities under a score above any they may have, so that a sync under way, which may have read older
    totals, does not take them off."""
    seconds, microseconds = await redis.time()
    score = seconds * 1_000_000 + microseconds
    await redis.zadd(shard_keys(shard).replica, dict.fromkeys(entities, score), gt=True)


async def pending(redis: Redis, shard: int, entities: Collection[str], *, dirty_too: bool = False) -> set[str]:
    """Those of the shard's entities whose row may be behind their totals: they are on the list, or in the batch in
    flight. What is only dirty is in neither the totals nor the row; `dirty_too`: it counts, too."""
    keys, asked = shard_keys(shard), list(entities)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.zmscore(keys.replica, asked)
        pipe.smismember(keys.dirty, asked)
        pipe.hgetall(keys.claim)
        scores, dirty, claim = await pipe.execute()
    found = {entity for entity, score in zip(asked, scores, strict=True) if score is not None}
    if dirty_too:
        found |= {entity for entity, is_dirty in zip(asked, dirty, strict=True) if is_dirty}
    if len(found) < len(asked):
        found |= {entity for entity, _ in await amounts_in_flight(redis, shard, claim)}.intersection(asked)
    return found


async def being_set(redis: Redis, shard: int, entities: Collection[str]) -> set[str]:
    """Those of the shard's entities of which nobody knows which totals their rows hold: a flusher was setting them when
    it died, or is. Whoever has set them since has taken them off the list."""
    keys, asked = shard_keys(shard), list(entities)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.zmscore(keys.replica, asked)
        pipe.smismember(keys.syncing, asked)
        scores, marked = await pipe.execute()
    return {
        entity
        for entity, score, is_marked in zip(asked, scores, marked, strict=True)
        if is_marked and score is not None
    }


async def amounts_in_flight(redis: Redis, shard: int, claim: Mapping[bytes, bytes]) -> Amounts:
    """The amounts of the shard's batch, whose whole hash was read; none without one."""

    async def unfold(part: bytes) -> list[Any]:
        parts: list[Any] = await redis.eval(UNFOLD.source, 1, shard_keys(shard).claim, part)
        return parts

    amounts: Amounts = []
    for part, payload in parts_of(claim):
        amounts += await part_amounts(part, payload, unfold)
    return amounts
