"""How large the servers must be for so many events and entities, from measured figures. `tallyd capacity` prints it.

Pure arithmetic on a configuration. It asks no server. The figures are costs on one core of an AMD EPYC. `bench/results`
and `bench/NOTES.md` have them; `python -m bench.capacity` measures the bytes of an entity. Costs of CPU differ from
machine to machine; bytes do not.
"""

from __future__ import annotations

import math

import msgspec

from daemon.config import Config, hourly_domains

DEDUPE_EVENT_BYTES = 9.5
"""Of Redis' memory, for an event id, in a window that is laid out for its events."""
DEDUPE_WINDOWS = 2
"""The ids of this window and of the one before it are remembered."""
DIRTY_ENTITY_BYTES = 330
"""Of Redis' memory, for an entity with live counts of one day."""
REDIS_BASE_BYTES = 64 * 2**20
"""Of Redis' memory, for itself, its clients and the claim in flight."""
MEMORY_USED_MAX = 0.7
"""The share of `maxmemory` that tallyd's keys should take. The alert comes at 0.8."""
REWRITE_MEMORY = 1.5
"""Memory of the machine, as a multiple of `maxmemory`: while Redis rewrites its file, changed pages exist twice."""
LOG_COPIES = 3
"""The append-only file grows to twice its size. While it is rewritten, the new one lies beside it."""
LOG_EVENT_BYTES = 275
"""Of the append-only file, for an event that makes its entity dirty. Others take less."""
SPOOL_EVENT_BYTES = 90
DOCUMENT_BYTES = 135
"""Of MongoDB's disk, compressed, for the document of an entity and bucket."""
DOCUMENT_INDEX_BYTES = 145
"""Of MongoDB's disk and memory, for such a document in all indexes."""
DOCUMENT_MEMORY_BYTES = 245
"""Of MongoDB's cache, for such a document."""
ROLLUPS = 5
MONGO_MEMORY_MIN_BYTES = 2**30
CACHE_SHARE = 0.5
"""Of a MongoDB machine's memory that is its cache, by default."""

WORKER_EVENT_US = 22.4
"""Of a worker's core, for an event that comes alone in its request."""
WORKER_BATCH_US = 3.0
"""The same for an event of a batch of 200."""
REDIS_EVENT_US = 8.1
"""Of Redis' core, for an event that comes alone, from the second window on."""
REDIS_BATCH_US = 4.7
"""The same for an event of a batch."""
FLUSH_ENTITY_US = 130.0
"""On the clock, for an entity in a flush: flusher and MongoDB together."""
ROW_US = 23.3
"""On the clock, for a row of MySQL that is set, with the note of it in MongoDB."""
CORE_USED_MAX = 0.7
"""The share of a core that may be used in the busiest second. Beyond it, requests begin to wait."""

SIZES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"))
WEEK_DAYS, MONTH_DAYS, YEAR_DAYS = 7, 31, 366
DAY_HOURS, DAY_S = 24, 86_400


class Load(msgspec.Struct, frozen=True):
    """The load. `events_per_second`: the mean over a day. `peak`: the busiest second, as a multiple of the mean.

    `entities`: all there are. `active`: of them, those that are counted on one day. `outage_h`: how long a store may be
    away. `years`: for which MongoDB's disk is to last.
    """

    events_per_second: float
    entities: int
    active: int
    peak: float = 3.0
    batches: bool = False
    outage_h: float = 4.0
    years: float = 1.0


class Need(msgspec.Struct, frozen=True):
    """One line of the answer. `of`: how it comes about."""

    what: str
    amount: float
    unit: str
    of: str


class Capacity(msgspec.Struct, frozen=True):
    """The needs of a load, and the keys that must change for it: key → value as TOML has it."""

    needs: list[Need]
    settings: dict[str, str]


def capacity(config: Config, load: Load) -> Capacity:
    """The needs of this load, with this configuration."""
    peak = load.events_per_second * load.peak
    window_events = load.events_per_second * config.dedupe.window_s
    outage_events = load.events_per_second * load.outage_h * 3_600
    dedupe = DEDUPE_WINDOWS * window_events * DEDUPE_EVENT_BYTES
    dirty = min(load.active, outage_events)
    live = dirty * DIRTY_ENTITY_BYTES
    maxmemory = (dedupe + live + REDIS_BASE_BYTES) / MEMORY_USED_MAX
    documents = _documents(config, load)
    # Each of a day's entities has a document in every rollup that its next event changes.
    warm = (ROLLUPS + bool(hourly_domains(config))) * load.active * (DOCUMENT_MEMORY_BYTES + DOCUMENT_INDEX_BYTES)
    worker_us, redis_us = (WORKER_BATCH_US, REDIS_BATCH_US) if load.batches else (WORKER_EVENT_US, REDIS_EVENT_US)
    workers = _cores(peak * worker_us)
    shards = _cores(peak * redis_us)
    # Of the mean: in a busy minute more counts meet in one entity, and the rest waits.
    flushed = min(load.active, load.events_per_second * config.flush.interval_s) / config.flush.interval_s
    row_us = ROW_US if config.mysql.url else 0.0
    needs = [
        Need("Redis, ids", dedupe, "bytes", f"{window_events:,.0f} events a window, two windows"),
        Need("Redis, live counts", live, "bytes", f"{dirty:,.0f} entities, after {load.outage_h:g} h without MongoDB"),
        Need("Redis, maxmemory", maxmemory, "bytes", f"the two, of which {MEMORY_USED_MAX:.0%} may be used"),
        Need("Redis, memory of its machine", maxmemory * REWRITE_MEMORY, "bytes", "while it rewrites its file"),
        Need("Redis, disk", maxmemory * LOG_COPIES, "bytes", "the append-only file, before and while it is rewritten"),
        Need("Redis, writes", peak * LOG_EVENT_BYTES, "bytes/s", f"{peak:,.0f} events/s in the busiest second"),
        Need("spool, disk", outage_events * SPOOL_EVENT_BYTES, "bytes", f"{load.outage_h:g} h without Redis"),
        Need(
            "MongoDB, disk",
            documents * (DOCUMENT_BYTES + DOCUMENT_INDEX_BYTES),
            "bytes",
            f"{documents:,.0f} documents, {load.years:g} years long",
        ),
        Need(
            "MongoDB, memory of its machine",
            max(warm / CACHE_SHARE, MONGO_MEMORY_MIN_BYTES),
            "bytes",
            "what a day's events change, in the cache",
        ),
        Need("ingest workers", workers, "cores", f"{worker_us:g} µs an event, a core {CORE_USED_MAX:.0%} busy at most"),
        Need("Redis shards", shards, "cores", f"{redis_us:g} µs an event"),
        Need(
            "flushers, MongoDB and MySQL",
            _cores(flushed * (FLUSH_ENTITY_US + row_us)),
            "cores",
            f"{flushed:,.0f} entities/s, {FLUSH_ENTITY_US + row_us:g} µs each",
        ),
    ]
    return Capacity(needs, _settings(config, workers, shards, window_events, outage_events))


def shown(need: Need) -> str:
    """The amount as people read it."""
    if need.unit == "cores":
        return f"{need.amount:.0f}"
    size, name = next(each for each in SIZES if need.amount >= each[0] or each is SIZES[-1])
    return f"{need.amount / size:,.1f} {name}{need.unit.removeprefix('bytes')}"


def _documents(config: Config, load: Load) -> float:
    """Documents of all rollups once `load.years` are over. An upper bound: other entities are active each day."""
    days = load.years * YEAR_DAYS
    kept_days = min(days, config.retention.daily_days or days)
    kept_weeks = min(days / WEEK_DAYS, config.retention.weekly_weeks or days)

    def of(bucket_days: float) -> float:
        return min(load.entities, load.active * bucket_days)

    # An entity has no more hours on a day than events.
    hours_a_day = min(load.active * DAY_HOURS, load.events_per_second * DAY_S) if hourly_domains(config) else 0
    return (
        of(days)
        + min(days, config.retention.hourly_days or days) * hours_a_day
        + kept_days * load.active
        + kept_weeks * of(WEEK_DAYS)
        + days / MONTH_DAYS * of(MONTH_DAYS)
        + math.ceil(load.years) * of(YEAR_DAYS)
    )


def _cores(us_a_second: float) -> int:
    return max(1, math.ceil(us_a_second / 1e6 / CORE_USED_MAX))


def _settings(config: Config, workers: int, shards: int, window_events: float, outage_events: float) -> dict[str, str]:
    """The keys that are too small in this configuration."""
    settings = {}
    if workers > config.http.workers:
        settings["http.workers"] = str(workers)
    if shards > config.redis.shards:
        settings["redis.shards"] = f"{shards} (before the first event: it is fixed then)"
    if window_events > config.dedupe.events_per_window:
        settings["dedupe.events_per_window"] = str(math.ceil(window_events))
    if outage_events * SPOOL_EVENT_BYTES > config.spool.bytes_max:
        settings["spool.bytes_max"] = str(math.ceil(outage_events * SPOOL_EVENT_BYTES))
    return settings
