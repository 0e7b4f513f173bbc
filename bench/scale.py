"""Flushes of 1,000 to 1,000,000 dirty entities: the time an entity, the longest script, and the flusher's memory.

Each flush is a `tallyd flush --once` of its own, into documents that exist: the collections always hold all of the
entities, so that only what is dirty differs and MongoDB's trees don't grow with it. The first flush of all, which makes
the documents, is a row of its own.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import msgspec

from bench import events, processes
from bench.ground import Ground, GroundError
from bench.measure import Bar, Row, in_turn
from bench.settings import Settings
from tests.kit.daemon import Daemon

LINEAR = (Bar("ratio", "at most", 1.15),)
SCRIPT = (Bar("value", "at most", 5),)
FLAT = (Bar("ratio", "at most", 1.1),)
STEP = 10
SMALLEST = 1_000
REFERENCE = 10_000
"""What the largest flush is held against. Below it, what a flush costs by itself still shows."""
MONGO_CACHE = (
    "cache_size=4G,eviction_dirty_target=60,eviction_dirty_trigger=80,eviction_updates_target=60,"
    "eviction_updates_trigger=80"
)
"""The stack's default is 0.5 GB: five million documents would then be read from disk again and again, and what is
measured would be the disk. By default pages also leave the cache, to be read again, once 5 % of it are changed, which
the small flushes stay below and the large one doesn't."""
SLOW_US, SLOW_KEPT = 1_000, 100_000
"""Scripts that took Redis longer are looked at; how many are remembered."""
POLL_S = 0.1
FIRST_SHARE = 0.1
FLUSH = ("flush", "--once", "--json")


class Flush(NamedTuple):
    """One flush."""

    us_per_entity: float
    rss_first_mib: float
    """The flusher's memory after the first tenth of the entities."""
    rss_last_mib: float


class _Done(msgspec.Struct):
    entities: int
    seconds: float


def measure(ground: Ground, settings: Settings) -> list[Row]:
    """A row a size, and three about the largest."""
    largest = settings.scale_entities
    sizes = [size for size in (SMALLEST * STEP**power for power in range(10)) if size < largest]
    _give_mongo_room(ground)
    ground.forget()
    ground.redis.config_set("slowlog-log-slower-than", SLOW_US)
    ground.redis.config_set("slowlog-max-len", SLOW_KEPT)
    new = _flush(ground, largest, largest)
    longest_ms = [_longest_script_ms(ground)]
    rounds = in_turn(
        settings.rounds,
        *(_measure_of(ground, size, largest) for size in sizes),
        lambda _: _longest_script_ms(ground),
        again_max=settings.again_max,
    )
    *of_sizes, of_rounds = rounds.values
    all_again = _flush(ground, largest, largest)
    longest_ms += [*of_rounds, _longest_script_ms(ground)]
    by_size = {**dict(zip(sizes, of_sizes, strict=True)), largest: [all_again.us_per_entity]}
    reference = by_size[min(REFERENCE, largest)]
    rows = [
        Row(
            name=f"scale-{size}",
            what=f"flush of {size:,} dirty entities of {largest:,}",
            unit="µs/entity",
            ours=values,
            others=rounds.others,
        )
        for size, values in by_size.items()
    ]
    return [
        *rows,
        Row(
            name="scale",
            what=f"an entity in a flush of {largest:,}",
            unit="µs/entity",
            ours=[all_again.us_per_entity] * len(reference),
            peer=reference,
            peer_name=f"in a flush of {REFERENCE:,}",
            bars=LINEAR,
            others=rounds.others,
        ),
        Row(
            name="scale-new",
            what=f"flush of {largest:,} entities into documents that don't exist yet",
            unit="µs/entity",
            ours=[new.us_per_entity],
        ),
        Row(
            name="scale-script",
            what=f"the longest that a script kept Redis, in each flush of {largest:,} and each round of the others",
            unit="ms",
            ours=longest_ms,
            bars=SCRIPT,
            others=rounds.others,
        ),
        Row(
            name="scale-memory",
            what=f"resident memory of the flusher after {largest:,} entities",
            unit="MiB",
            ours=[all_again.rss_last_mib],
            peer=[all_again.rss_first_mib],
            peer_name=f"after {FIRST_SHARE:.0%} of them",
            bars=FLAT,
        ),
    ]


def _measure_of(ground: Ground, size: int, of: int) -> Any:
    return lambda _: _flush(ground, size, of).us_per_entity


def _flush(ground: Ground, size: int, of: int) -> Flush:
    """Makes `size` of `of` entities dirty, evenly over all of them, and lets a flusher work until none is."""
    config = ground.config()
    with ground.pipeline() as pipeline:
        prepared = events.calls(config, events.spread(config, size, of), config.ingest.call_events_max)
        ground.rest()
        pipeline.run(prepared)
    if ground.dirty() != size:
        raise GroundError(f"{size} entities were to be dirty, and {ground.dirty()} are.")
    rss: list[tuple[int, float]] = []
    with Daemon(ground, *FLUSH) as flusher:
        main = processes.tree(flusher.pid)[0]
        while flusher.running:
            rss.append((size - ground.dirty(), processes.rss_mib(main)))
            time.sleep(POLL_S)
    if flusher.process.returncode != 0:
        raise GroundError(f"The flusher failed. What it said:\n{flusher.text()}")
    done = msgspec.json.decode(flusher.log.read_bytes(), type=_Done)
    if done.entities != size:
        raise GroundError(f"{size} entities were dirty, and {done.entities} were flushed.")
    settled = [mib for flushed, mib in rss if flushed >= size * FIRST_SHARE and mib] or [0.0]
    return Flush(done.seconds / size * 1e6, settled[0], settled[-1])


def _longest_script_ms(ground: Ground) -> float:
    """Since it was last asked, by Redis' own slow log, which counts the time on the clock; 0 if none took longer than
    SLOW_US. The calls of `ingest.lua` that made the entities dirty are among them."""
    entries: list[dict[str, Any]] = ground.redis.slowlog_get(SLOW_KEPT)
    ground.redis.slowlog_reset()
    return max([entry["duration"] / 1000 for entry in entries if entry["command"].startswith(b"EVALSHA")], default=0.0)


def _give_mongo_room(ground: Ground) -> None:
    ground.mongo_client.drop_database(ground.database)
    ground.mongo_client.admin.command("setParameter", 1, wiredTigerEngineRuntimeConfig=MONGO_CACHE)
