"""The due list: entities whose MySQL row must be set. Asks about it, and lists entities other than by a flush.

The audit, the parity check, the backfill and `tallyd dead retry` call it. The entities of the claim in flight become
due at its ack, so questions about the list look at that claim, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from redis.asyncio import Redis

from daemon.buffer.keys import ShardKeys
from daemon.buffer.scripts import UNFOLD
from daemon.buffer.wire import Amounts, part_amounts, parts_of


async def make_due(redis: Redis, keys: ShardKeys, entities: Collection[str]) -> None:
    """Lists the entities under a score above any they may have.

    A sync under way may have read older totals. Because of the new score, it does not take them off.
    """
    seconds, microseconds = await redis.time()
    score = seconds * 1_000_000 + microseconds
    await redis.zadd(keys.due, dict.fromkeys(entities, score), gt=True)


async def pending(redis: Redis, keys: ShardKeys, entities: Collection[str], *, dirty_too: bool = False) -> set[str]:
    """Those of the shard's entities whose row may lack some of their totals: they are due, or in the claim in flight.

    Live counts are neither in the totals nor in the row. `dirty_too`: entities that have some are included.
    """
    asked = list(entities)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.zmscore(keys.due, asked)
        pipe.smismember(keys.dirty, asked)
        pipe.hgetall(keys.claim)
        scores, dirty, claim = await pipe.execute()
    found = {entity for entity, score in zip(asked, scores, strict=True) if score is not None}
    if dirty_too:
        found |= {entity for entity, is_dirty in zip(asked, dirty, strict=True) if is_dirty}
    if len(found) < len(asked):
        found |= {entity for entity, _ in await amounts_in_flight(redis, keys, claim)}.intersection(asked)
    return found


async def being_set(redis: Redis, keys: ShardKeys, entities: Collection[str]) -> set[str]:
    """The entities among these whose rows hold unknown totals.

    A flusher is setting these rows, or was when it died. A later sync that set such a row took the entity off the list.
    """
    asked = list(entities)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.zmscore(keys.due, asked)
        pipe.smismember(keys.syncing, asked)
        scores, marked = await pipe.execute()
    return {
        entity
        for entity, score, is_marked in zip(asked, scores, marked, strict=True)
        if is_marked and score is not None
    }


async def amounts_in_flight(redis: Redis, keys: ShardKeys, claim: Mapping[bytes, bytes]) -> Amounts:
    """The amounts of the shard's claim in flight, given its whole hash. Empty if nothing is in flight."""

    async def unfold(part: bytes) -> list[Any]:
        parts: list[Any] = await redis.eval(UNFOLD.source, 1, keys.claim, part)
        return parts

    amounts: Amounts = []
    for part, payload in parts_of(claim):
        amounts += await part_amounts(part, payload, unfold)
    return amounts
