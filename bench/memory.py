"""Ten million events: what Redis needs to remember each, and whether the ingest worker's memory stays what it was.

The events go over HTTP in batches to one worker. The dedupe memory is what `used_memory` loses when only its sets are
left, keys, expiries and tables included. The plain way is `SET <prefix><id> 1 EX`, as many, with the ids and prefix a
producer would use.
"""

from __future__ import annotations

import time
from typing import Any

from bench import batch, events, processes
from bench.ground import INGEST, Ground, GroundError
from bench.measure import Bar, Row
from bench.settings import Settings
from bench.single import counted_run
from daemon.buffer.keys import Keys

DEDUPE = (Bar("value", "at most", 12), Bar("ratio", "at most", 0.1))
FLAT = (Bar("ratio", "at most", 1.1),)
DELETED_AT_ONCE = 1_000
RUN_S = 2
"""Seconds of one run of wrk; between two the worker's memory is looked at."""
FIRST_SHARE = 0.1
"""After this share of the events a worker has settled: what its memory at the end is held against."""
STRINGS_AT_ONCE = 10_000
STRINGS = """
for i = ARGV[1], ARGV[2] do
  redis.call('SET', string.format('anl:seen:00000000-0000-4000-8000-%012x', i), 1, 'EX', 172800)
end
"""


def measure(ground: Ground, settings: Settings) -> list[Row]:
    """Two rows. Their peers are bytes too, so a low ratio is the good side."""
    ground.forget()
    before = _used(ground)
    rss, count = _fill(ground, settings)
    ours = _left_of_sets(ground, before, count)
    plain = string_bytes(ground, count)
    return [
        Row(
            name="memory",
            what=f"dedupe memory after {count:,} events",
            unit="bytes/event",
            ours=[ours],
            peer=[plain],
            peer_name="one string key an event, as many",
            bars=DEDUPE,
            all_bars=True,
        ),
        Row(
            name="memory-ingest",
            what=f"resident memory of the ingest worker after {count:,} events in batches of {batch.EVENTS}",
            unit="MiB",
            ours=[rss[-1]],
            peer=[next(mib for share, mib in zip(_shares(rss), rss, strict=True) if share >= FIRST_SHARE)],
            peer_name=f"the same worker after {FIRST_SHARE:.0%} of them",
            bars=FLAT,
        ),
    ]


def _shares(samples: list[float]) -> list[float]:
    return [(number + 1) / len(samples) for number in range(len(samples))]


def _fill(ground: Ground, settings: Settings) -> tuple[list[float], int]:
    """Sends batches until so many events are counted. Returns the worker's memory after each run, and their number."""
    rss: list[float] = []
    with ground.served(INGEST, DEDUPE__EVENTS_PER_WINDOW=str(settings.memory_events_per_window)) as tallyd:
        while (count := ground.accepted()) < settings.memory_events:
            counted_run(ground, tallyd, batch.PATH, events=batch.EVENTS, connections=batch.CONNECTIONS, seconds=RUN_S)
            rss.append(processes.rss_mib(processes.busiest(tallyd.pid)))
    ground.verify_counts()
    return rss, count


def dedupe_bytes(ground: Ground, count: int) -> float:
    """Bytes an event of a dedupe memory laid out for so many and full. Forgets everything else."""
    ground.forget()
    before = _used(ground)
    config = ground.config(DEDUPE__EVENTS_PER_WINDOW=str(count))
    with ground.pipeline() as pipeline:
        _, counted = pipeline.run(events.calls(config, events.admitted(config, count), 1000))
    if counted != count:
        raise GroundError(f"{count} new events were sent, and {counted} counted.")
    return _left_of_sets(ground, before, count)


def _left_of_sets(ground: Ground, before: int, count: int) -> float:
    others = [key for key in ground.redis.scan_iter(count=10_000) if not key.startswith(ground.keys.seen.encode())]
    for at in range(0, len(others), DELETED_AT_ONCE):
        ground.redis.delete(*others[at : at + DELETED_AT_ONCE])
    return (_used(ground) - before) / count


def string_bytes(ground: Ground, count: int) -> float:
    """Bytes of a string key an event. A script of Redis' own writes them, without the log: only memory matters here."""
    ground.redis.config_set("appendonly", "no")
    try:
        ground.forget()
        before = _used(ground)
        fill = ground.redis.register_script(STRINGS)
        for first in range(0, count, STRINGS_AT_ONCE):
            fill(args=[first, min(first + STRINGS_AT_ONCE, count) - 1])
        keys = Keys("anl")
        with ground.redis.pipeline(transaction=True) as asked:
            asked.dbsize()
            asked.exists(keys.layout, keys.spools)  # a worker runs, and writes both
            there, others = asked.execute()
        if there - others != count:
            raise GroundError(f"{count} keys were set, and {there - others} are there.")
        return (_used(ground) - before) / count
    finally:
        ground.redis.flushall()
        ground.redis.config_set("appendonly", "yes")
        ground.rest()


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
