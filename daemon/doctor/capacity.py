"""How large the servers must be for so many events and entities, from measured figures. `tallyd capacity` prints it.

Pure arithmetic on a configuration. It asks no server. The figures are costs on one core of an AMD EPYC. `bench/results`
and `bench/NOTES.md` have them; `python -m bench.capacity` measures the bytes of an entity. Costs of CPU differ from
machine to machine; bytes do not. A figure that nobody measured says that it is an estimate.
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
"""The share of a core, or of a network, that may be used in the busiest second. Beyond it, requests begin to wait."""

CLUSTER_FACTOR = 1.2
"""Of Redis' CPU, for a cluster with a replica: it looks at the keys of each command, and writes its log twice."""
STREAM_EVENT_BYTES = 200
"""Of the log that a primary sends each replica, for an event."""
CALL_EVENT_BYTES = 95
"""Of a call of `ingest.lua`, for an event: to Redis, and into the ring of what it has not confirmed."""
RING_S = 0.1
"""For so long a call is in the ring besides `redis.unsynced_ms`: until replicas have confirmed it (an estimate)."""
CLAIM_ENTITY_BYTES = 90
"""Of the journal, for an entity of a claim: its key, and two counters of a day."""
SHARDS_PER_PRIMARY = 4
"""At least so many, so that each primary has about the same load, and a primary can be added."""
HOTTEST_SHARE = 0.06
"""Of all events, those of the first entity of ten million, by Zipf's law. It lies on one primary (an estimate)."""

SIZES = ((2**50, "PiB"), (2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"))
WEEK_DAYS, MONTH_DAYS, YEAR_DAYS = 7, 31, 366
DAY_HOURS, DAY_S = 24, 86_400


class Load(msgspec.Struct, frozen=True):
    """The load. `events_per_second`: the mean over a day. `peak`: the busiest second, as a multiple of the mean.

    `entities`: all there are. `active`: of them, those that are counted on one day. `outage_h`: how long a store may be
    away. `years`: for which MongoDB's disk is to last. `node_bytes`, `node_mbit_s`: memory and network of a machine
    that runs Redis. `host_cores`: of any other machine.
    """

    events_per_second: float
    entities: int
    active: int
    peak: float = 3.0
    batches: bool = False
    outage_h: float = 4.0
    years: float = 1.0
    node_bytes: float = 64 * 2.0**30
    node_mbit_s: float = 1_000.0
    host_cores: int = 8


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
    first: str
    """What is too small for this load first, as it grows."""


class Primaries(msgspec.Struct, frozen=True):
    """Primaries of Redis that each thing takes by itself."""

    cpu: int
    memory: int
    network: int

    @property
    def amount(self) -> int:
        return max(self.cpu, self.memory, self.network)

    @property
    def of(self) -> str:
        return f"{self.cpu:,} by CPU, {self.memory:,} by memory, {self.network:,} by network"


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
    primaries = _primaries(config, load, peak * redis_us, maxmemory * REWRITE_MEMORY)
    shards = 1 if primaries.amount == 1 else _power_of_two(SHARDS_PER_PRIMARY * primaries.amount)
    # Of the mean: in a busy minute more counts meet in one entity, and the rest waits.
    flushed = min(load.active, load.events_per_second * config.flush.interval_s) / config.flush.interval_s
    row_us = ROW_US if config.mysql.url else 0.0
    ring = peak * (config.redis.unsynced_ms / 1_000 + RING_S) * CALL_EVENT_BYTES
    rings_max = config.redis.unconfirmed_bytes_max * workers * shards
    claim_entities = min(config.flush.claim_entities_max, flushed * config.flush.interval_s / shards)
    journal = config.flush.journal_claims * shards * claim_entities * CLAIM_ENTITY_BYTES
    hottest = peak * HOTTEST_SHARE * redis_us / 1e6 / CORE_USED_MAX
    hosts = math.ceil(workers / load.host_cores)
    needs = [
        Need("Redis, ids", dedupe, "bytes", f"{window_events:,.0f} events a window, two windows"),
        Need("Redis, live counts", live, "bytes", f"{dirty:,.0f} entities, after {load.outage_h:g} h without MongoDB"),
        Need(
            "Redis, maxmemory",
            maxmemory,
            "bytes",
            f"the two, on all primaries; of it {MEMORY_USED_MAX:.0%} may be used",
        ),
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
        Need("ingest hosts", hosts, "machines", f"{load.host_cores} workers each"),
        Need("ring, memory", ring, "bytes", f"of all workers, in the busiest seconds; never above {_bytes(rings_max)}"),
        Need("Redis, primaries", primaries.amount, "machines", primaries.of),
        Need(
            "Redis, nodes",
            primaries.amount * (1 + config.redis.replicas),
            "machines",
            f"with {config.redis.replicas} replicas each (redis.replicas)",
        ),
        Need("Redis, shards", shards, "shards", f"{redis_us:g} µs an event, {SHARDS_PER_PRIMARY} a primary"),
        Need(
            "MongoDB, journal",
            journal,
            "bytes",
            f"{config.flush.journal_claims} claims a shard, of {claim_entities:,.0f} entities",
        ),
        Need(
            "flushers, MongoDB and MySQL",
            _cores(flushed * (FLUSH_ENTITY_US + row_us)),
            "cores",
            f"{flushed:,.0f} entities/s, {FLUSH_ENTITY_US + row_us:g} µs each",
        ),
    ]
    flush = flushed * (FLUSH_ENTITY_US + row_us) / 1e6 / CORE_USED_MAX
    settings = _settings(config, workers, shards, window_events, outage_events, ring / workers)
    return Capacity(needs, settings, _first(primaries, hottest, math.ceil(flush / load.host_cores)))


def shown(need: Need) -> str:
    """The amount as people read it."""
    if not need.unit.startswith("bytes"):
        return f"{need.amount:,.0f}"
    return _bytes(need.amount) + need.unit.removeprefix("bytes")


def _bytes(amount: float) -> str:
    size, name = next(each for each in SIZES if amount >= each[0] or each is SIZES[-1])
    return f"{amount / size:,.1f} {name}"


def _primaries(config: Config, load: Load, us_a_second: float, memory: float) -> Primaries:
    """`us_a_second`, `memory`: as one Redis takes. In a cluster, an event takes more CPU."""
    cpu, kept = _cores(us_a_second), max(1, math.ceil(memory / load.node_bytes))
    traffic = load.events_per_second * load.peak * (CALL_EVENT_BYTES + STREAM_EVENT_BYTES * config.redis.replicas)
    network = max(1, math.ceil(traffic * 8 / 1e6 / load.node_mbit_s / CORE_USED_MAX))
    if max(cpu, kept, network) > 1 or config.redis.replicas:
        cpu = _cores(us_a_second * CLUSTER_FACTOR)
    return Primaries(cpu, kept, network)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _first(primaries: Primaries, hottest: float, flush: int) -> str:
    """`hottest`: cores for the events of one entity. `flush`: machines for the flush."""
    if hottest > 1:
        return "one entity: its events take more than a core, and it lies on one primary"
    ways = {
        "the ids in Redis: shorten dedupe.window_s, or add primaries": primaries.memory,
        "Redis' CPU: add primaries": primaries.cpu,
        "the network of Redis: add primaries": primaries.network,
        "the flush: lengthen flush.interval_s, or shard MongoDB": flush,
    }
    most = max(ways.values())
    return "nothing: one of each does" if most == 1 else next(way for way, machines in ways.items() if machines == most)


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


def _settings(
    config: Config, workers: int, shards: int, window_events: float, outage_events: float, ring_bytes: float
) -> dict[str, str]:
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
    if ring_bytes > config.redis.unconfirmed_bytes_max:
        settings["redis.unconfirmed_bytes_max"] = str(math.ceil(ring_bytes))
    return settings
