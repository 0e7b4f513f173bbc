"""Putting an entity on the list of those whose MySQL row is behind, other than by a flush."""

from __future__ import annotations

from redis.asyncio import Redis

from daemon.buffer.keys import shard_keys


async def make_due(redis: Redis, shard: int, entity: str) -> None:
    """Lists the entity under a score above any it may have, so that a sync under way, which may have read older totals,
    does not take it off."""
    seconds, microseconds = await redis.time()
    await redis.zadd(shard_keys(shard).replica, {entity: seconds * 1_000_000 + microseconds}, gt=True)
