"""The content of one shard of Redis at one moment: for `tallyd status`, and for the flusher's metrics. Reads only."""

from __future__ import annotations

from typing import NamedTuple, cast

from redis.asyncio import Redis

from daemon.buffer.counters import accounted, parse_ledger
from daemon.buffer.keys import Keys
from daemon.domain.counter import parse_amount


class ShardState(NamedTuple):
    """Counts of entities, ages in seconds by the clock of Redis. None: there is none, or there never was."""

    dirty: int
    in_flight: int
    in_flight_age_s: float | None
    owner: str | None
    """The flusher that has it: its host, its process, and a token."""
    due: int
    due_age_s: float | None
    """Since the entity that is due the longest became due, or was postponed."""
    refused: int
    acked: int
    """The seq of the last claim that Redis has accounted for; 0: there is none."""
    acked_at_s: int | None
    """When a claim was last acknowledged, in seconds since 1970."""
    ledger: dict[str, int]
    dedupe_events: int
    """Event ids remembered in this window."""
    dedupe_last_events: int
    """The same of the window before."""
    dedupe_buckets: int
    """Sets that this window's ids are spread over; 0 before the first event."""
    now_s: float
    epoch: int
    """When the memory of this shard began to count (us): without a cluster, that of all shards. 0: no daemon came."""


async def read_epoch(redis: Redis, keys: Keys, shard: int) -> int:
    """As of `ShardState`. A foreign value counts as none."""
    (epoch,) = await redis.hmget(keys.layout_of(shard), "epoch")
    return _number(cast("bytes | None", epoch))


async def read_state(redis: Redis, all_keys: Keys, shard: int, window_s: int) -> ShardState:
    """`window_s`: `dedupe.window_s`."""
    keys = all_keys.shard(shard)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.eval("return redis.call('TIME')", 1, keys.ledger)  # of this shard's node: TIME by itself asks any
        pipe.scard(keys.dirty)
        pipe.hmget(keys.claim, "seq", "entities", "since", "acked_at", "owner", "last", "acked")
        pipe.zcard(keys.due)
        pipe.zrange(keys.due, 0, 0, withscores=True)
        pipe.hlen(keys.refused)
        pipe.hgetall(keys.ledger)
        pipe.hmget(keys.seen, "gen", "bits", "events", "prev_events")
        (seconds, micros), dirty, claim, due, oldest, refused, ledger, seen = await pipe.execute()
    now_s = int(seconds) + int(micros) / 1e6
    seq, entities, since_ms, acked_at_s, owner, last, acked = claim
    gen, bits, events, last_events = (_number(text) for text in seen)
    windows_ago = int(now_s // window_s) - gen  # an event opens a window, so none may have opened the present one
    if windows_ago > 0:
        events, last_events = 0, events if windows_ago == 1 else 0
    return ShardState(
        dirty=dirty,
        in_flight=int(entities) if seq else 0,
        in_flight_age_s=max(0.0, now_s - int(since_ms) / 1000) if seq else None,
        owner=(owner or b"").decode(errors="backslashreplace") if seq else None,
        due=due,
        due_age_s=max(0.0, now_s - oldest[0][1] / 1e6) if oldest else None,  # a seq is a moment in microseconds
        refused=refused,
        acked=accounted(seq, last, acked),
        acked_at_s=int(acked_at_s) if acked_at_s else None,
        ledger=parse_ledger(ledger),
        dedupe_events=events,
        dedupe_last_events=last_events,
        dedupe_buckets=2**bits if gen else 0,
        now_s=now_s,
        epoch=await read_epoch(redis, all_keys, shard),
    )


def _number(text: bytes | None) -> int:
    """0 for a foreign value, too: the next event mends it."""
    return parse_amount((text or b"").decode(errors="backslashreplace")) or 0
