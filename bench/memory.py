"""The dedupe memory: bytes Redis needs to remember an event id; against one string key an event.

Counted by what `used_memory` loses when only the sets are left: their keys, expiries and the tables that hold those are
in it, not only the values. The plain way is `SET <prefix><id> 1 EX`, with the ids and prefix a producer would use.
"""

from __future__ import annotations

import time
from typing import Any

from bench import events
from bench.ground import Ground, GroundError
from bench.measure import Bar, Row
from bench.settings import Settings

BARS = (Bar("value", "at most", 20),)
PLAIN_EVENTS = 200_000
DELETED_AT_ONCE = 1_000


def measure(ground: Ground, settings: Settings) -> list[Row]:
    """One row. The peer's rounds are bytes too, so a ratio below 1 is the good side."""
    count = settings.memory_events
    ours = _sets(ground, count, settings.memory_events_per_window)
    plain = _strings(ground, min(count, PLAIN_EVENTS))
    return [
        Row(
            name="memory",
            what=f"dedupe memory after {count:,} events",
            unit="bytes/event",
            ours=[ours],
            peer=[plain],
            peer_name="one string key an event",
            bars=BARS,
        )
    ]


def _sets(ground: Ground, count: int, per_window: int) -> float:
    ground.empty()
    before = _used(ground)
    config = ground.config(DEDUPE__EVENTS_PER_WINDOW=str(per_window))
    with ground.pipeline() as pipeline:
        _, counted = pipeline.run(events.calls(config, events.admitted(config, count), 1000))
    if counted != count:
        raise GroundError(f"{count} new events were sent, and {counted} counted.")
    ground.verify_counts()
    others = [key for key in ground.redis.scan_iter(count=10_000) if not key.startswith(ground.keys.seen.encode())]
    for at in range(0, len(others), DELETED_AT_ONCE):
        ground.redis.delete(*others[at : at + DELETED_AT_ONCE])
    return (_used(ground) - before) / count


def _strings(ground: Ground, count: int) -> float:
    ground.empty()
    before = _used(ground)
    with ground.redis.pipeline(transaction=False) as pipe:
        for number in range(count):
            pipe.set(f"anl:seen:{events.unique_id('00000000', number)}", 1, ex=172_800)
            if number % 10_000 == 9_999:
                pipe.execute()
        pipe.execute()
    return (_used(ground) - before) / count


def _used(ground: Ground) -> int:
    """Redis' memory once its buffers are given back and its tables have stopped moving."""
    ground.rest(at_bytes=0)
    before, now = -1, _memory(ground)
    for _ in range(40):
        if now == before:
            break
        time.sleep(0.25)
        before, now = now, _memory(ground)
    return now


def _memory(ground: Ground) -> int:
    stats: dict[str, Any] = ground.redis.memory_stats()
    # Clients' buffers and the log's are no part of what is kept.
    return int(stats["total.allocated"]) - int(stats["clients.normal"]) - int(stats["aof.buffer"])
