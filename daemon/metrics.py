"""Every metric, where it is declared and documented, and the tallies that the hot path counts in.

`ops/metrics.md` is made from this file: python -m tests.unit.test_metrics

A worker tallies plain numbers, and publishes them once a second. So a request touches no Prometheus counters, whose
locks and memory maps cost more than the rest of a request's bookkeeping. Ingest workers share their values through
`PROMETHEUS_MULTIPROC_DIR`, where `ingest/process/gauges.py` finds them. `exposition.py` serves both daemons' metrics.
"""

from __future__ import annotations

import logging
import os
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from daemon.errors import StoreError

PUBLISH_INTERVAL_S = 1.0
FAILURE_LOG_INTERVAL_S = 1.0

INGEST, FLUSH = CollectorRegistry(), CollectorRegistry()
"""The metrics of each daemon. Neither shows the other's."""


class Asked(NamedTuple):
    """A gauge whose value is asked for, not kept. While nobody can say it, it is absent."""

    name: str
    text: str
    labels: tuple[str, ...] = ()

    def of(self, values: Iterable[tuple[Sequence[str], float]]) -> GaugeMetricFamily:
        """The values by their labels, as a scrape shows them."""
        family = GaugeMetricFamily(self.name, self.text, labels=self.labels)
        for labels, value in values:
            family.add_metric(labels, value)
        return family

    def at(self, value: float) -> GaugeMetricFamily:
        """The value of one without labels."""
        return self.of([((), value)])


EVENTS = Counter(
    "tallyd_events",
    "Events by what became of them: counted, duplicate, rejected, limited, robot.",
    ["outcome"],
    registry=INGEST,
)
REJECTIONS = Counter(
    "tallyd_rejections",
    "Rejected events by reason: the first wrong field; json: no JSON; event, events: no event, or no list of them;"
    " unlisted: events of a batch of which so many are wrong that only the first are looked into.",
    ["reason"],
    registry=INGEST,
)
RESPONSES = Counter(
    "tallyd_responses",
    "HTTP responses by route (event, batch, pixel, badge, file, health, read, other) and status.",
    ["route", "status"],
    registry=INGEST,
)
EVENT_SECONDS_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5)
EVENT_SECONDS = Histogram(
    "tallyd_event_seconds",
    "Time from the head of a request with events to its answer, by route: event, batch. The body's way is in it.",
    ["route"],
    buckets=EVENT_SECONDS_BUCKETS,
    registry=INGEST,
)
IN_FLIGHT = Gauge(
    "tallyd_requests_in_flight",
    "Whole requests that wait for their answer.",
    multiprocess_mode="livesum",
    registry=INGEST,
)
REFUSALS = Counter(
    "tallyd_refusals",
    "Requests with events that got 503, by why. queue: `ingest.queue_events_max`. in_flight:"
    " `http.requests_in_flight_max` or `http.unfinished_max`. spool: Redis is away, and the spool takes no events of"
    " this sender. store: Redis did not take the call, and it was none for the spool. Reads are in tallyd_reads.",
    ["why"],
    registry=INGEST,
)
CALLS = Counter("tallyd_ingest_calls", "ingest.lua calls.", registry=INGEST)
CALL_SECONDS = Counter(
    "tallyd_ingest_call_seconds", "Time ingest.lua calls took; by their number, the mean.", registry=INGEST
)
CALL_REQUESTS = Counter("tallyd_ingest_call_requests", "Requests carried by ingest.lua calls.", registry=INGEST)
CALL_FAILURES = Counter(
    "tallyd_ingest_call_failures", "ingest.lua calls that failed or were not answered.", registry=INGEST
)
QUEUE_EVENTS = Gauge(
    "tallyd_queue_events", "Events that wait for a Lua call.", multiprocess_mode="livesum", registry=INGEST
)
FAULTS = Counter(
    "tallyd_ingest_faults",
    "What nobody planned for on an event's way. call, spool, replay, probe: an exception there. stuck: past its bound.",
    ["what"],
    registry=INGEST,
)

SPOOLING = Gauge(
    "tallyd_spooling",
    "Workers that write events to the spool because Redis does not take them.",
    multiprocess_mode="livesum",
    registry=INGEST,
)
UNCONFIRMED_BYTES = Gauge(
    "tallyd_unconfirmed_bytes",
    "Calls that Redis answered and could still forget. At redis.unconfirmed_bytes_max, events go to the spool.",
    multiprocess_mode="livesum",
    registry=INGEST,
)
CALLS_RESENT = Counter(
    "tallyd_resent_calls",
    "Calls that Redis had answered, and that were sent again because another history of it went on.",
    registry=INGEST,
)
SPOOLED = Counter("tallyd_spool_events", "Events written to the spool.", registry=INGEST)
SPOOL_BYTES_WRITTEN = Counter("tallyd_spool_bytes_written", "Bytes written to the spool.", registry=INGEST)
SPOOL_REFUSED = Counter(
    "tallyd_spool_refused_calls", "Calls the spool could not take: it or the disk was full.", registry=INGEST
)
SPOOL_REPLAYED = Counter(
    "tallyd_spool_replayed_events", "Events replayed from the spool, duplicates included.", registry=INGEST
)
SPOOL_DAMAGED = Counter(
    "tallyd_spool_damaged", "Stretches of bytes in segments that were no record, and set aside.", registry=INGEST
)

READS = Counter("tallyd_reads", "Requests of the read API by route and status.", ["route", "status"], registry=INGEST)
READ_CACHE = Counter(
    "tallyd_read_cache", "Reads by whether the cache had the answer: hit, miss.", ["outcome"], registry=INGEST
)
READ_SECONDS = Histogram(
    "tallyd_read_seconds",
    "Time to answer a read the cache did not have, by route.",
    ["route"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2, 10),
    registry=INGEST,
)

LOOP_LAG = Asked(
    "tallyd_loop_lag_seconds",
    "How late an event loop turned, in the worst worker: the worst of its last second, or longer if it hangs now.",
)
WORKERS = Asked("tallyd_workers", "Worker processes that run.")
SPOOL_BYTES = Asked("tallyd_spool_bytes", "Bytes of the segments in the spool's folder. Absent without a spool.")
SPOOL_BYTES_MAX = Asked("tallyd_spool_bytes_max", "`spool.bytes_max`. Absent without a spool.")
SPOOL_OLDEST = Asked(
    "tallyd_spool_oldest_seconds", "Age of the oldest segment in the spool's folder. 0: there is none."
)
KEY_EXPIRES = Asked(
    "tallyd_key_expires_at_seconds",
    "When a key is refused, in seconds since 1970; `key` is its id. A key that never expires is absent.",
    ("key",),
)

FLUSH_CLAIMS = Counter("tallyd_flush_claims", "Claims applied to MongoDB and acknowledged.", registry=FLUSH)
CLAIMS_AMENDED = Counter(
    "tallyd_flush_claims_amended",
    "Claims that Redis had forgotten, and that were taken off its live counts: it came back older.",
    registry=FLUSH,
)
ACKS_GONE = Counter(
    "tallyd_flush_acks_gone",
    "Claims that were no longer in flight when they were to be acknowledged: another flusher did that, or Redis came"
    " back older.",
    registry=FLUSH,
)
CLAIM_TAKEOVERS = Counter(
    "tallyd_claim_takeovers",
    "Claims taken over from a flusher that did not acknowledge them within its lease.",
    registry=FLUSH,
)
FLUSH_ENTITIES = Counter("tallyd_flush_entities", "Entities in those claims.", registry=FLUSH)
FLUSH_DOCUMENTS = Counter(
    "tallyd_flush_documents", "Rollup documents by what became of them.", ["outcome"], registry=FLUSH
)
FLUSH_SECONDS = Histogram(
    "tallyd_flush_seconds",
    "Time from claim to ack.",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 20),
    registry=FLUSH,
)
FLUSH_FAILURES = Counter(
    "tallyd_flush_failures",
    "Steps of the flusher that failed, by store: redis, mongo, mysql; none: no store failed.",
    ["store"],
    registry=FLUSH,
)
FLUSH_STORE_SECONDS = Histogram(
    "tallyd_flush_store_seconds",
    "Time of the flusher's steps by store. redis: the calls of a claim, and its ack. mongo: a claim's documents. mysql:"
    " the UPDATE of one table.",
    ["store"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 20),
    registry=FLUSH,
)
ENTITIES_NEW = Counter("tallyd_entities_new", "Entities that got their first totals.", registry=FLUSH)
REPLICA_ROWS = Counter(
    "tallyd_replica_rows", "Rows of MySQL by what became of them: set, missing, refused.", ["outcome"], registry=FLUSH
)

SHARDS_HELD = Asked(
    "tallyd_flush_shards_held",
    "Shards that this flusher found held: Redis came back older, and an operator has to decide. `tallyd shards list`"
    " names them.",
)
STORE_UP = Asked(
    "tallyd_store_up",
    "1: the store (redis, mongo, mysql) answered the last question. 0: it did not, and what it knows is absent here. A"
    " store that is not configured is absent.",
    ("store",),
)
DIRTY = Asked("tallyd_dirty_entities", "Entities with live counts.", ("shard",))
UNFLUSHED = Asked(
    "tallyd_unflushed_seconds",
    "The most that the oldest unflushed count can be old: the time since this flusher last asked for a claim that took"
    " all there was. 0: nothing is dirty or in flight. After a start, until the first such claim: since the last ack."
    " Without one: since this Redis began to count.",
    ("shard",),
)
CLAIM_AGE = Asked("tallyd_claim_age_seconds", "Age of the claim in flight. 0: there is none.", ("shard",))
ACKED_AT = Asked(
    "tallyd_flush_acked_at_seconds",
    "When a claim was last acknowledged, in seconds since 1970 by the clock of Redis. Absent: none ever was.",
    ("shard",),
)
REPLICA_DUE = Asked("tallyd_replica_due", "Entities that are due for MySQL.", ("shard",))
REPLICA_DUE_AGE = Asked(
    "tallyd_replica_due_seconds",
    "How long ago the entity that is due the longest became due, or was last postponed. 0: none is due.",
    ("shard",),
)
REPLICA_REFUSED = Asked("tallyd_replica_refused", "Entities whose row MySQL does not take. They stay due.", ("shard",))
ASIDE = Asked("tallyd_aside", "Foreign values in Redis that were moved aside.", ("shard",))
DEDUPE_EVENTS = Asked("tallyd_dedupe_events", "Event ids remembered in this dedupe window.", ("shard",))
DEDUPE_LAST_EVENTS = Asked("tallyd_dedupe_last_events", "The same of the window before.", ("shard",))
DEDUPE_FILL = Asked(
    "tallyd_dedupe_bucket_fill",
    "Event ids a bucket of this window, in the fullest shard. A bucket is laid out for 244. With more than 512 ids"
    " Redis keeps it as a hash table, which takes several times the memory.",
)
REDIS_MEMORY = Asked(
    "tallyd_redis_memory_bytes", "Memory that Redis uses (used_memory). Of a cluster: of its fullest node."
)
REDIS_MEMORY_MAX = Asked("tallyd_redis_memory_max_bytes", "`maxmemory` of that Redis. 0: no limit.")
REDIS_CLOCK = Asked(
    "tallyd_redis_clock_offset_seconds", "The clock of Redis minus this machine's, right to half a round trip."
)
REDIS_EPOCH = Asked(
    "tallyd_redis_epoch_seconds",
    "When this shard's Redis began to count, in seconds since 1970. It changes if Redis forgot.",
    ("shard",),
)
DEAD_LETTERS = Asked("tallyd_dead_letters", "Dead letters that wait for a decision.")
JOB_OK = Asked("tallyd_job_ok", "1: the last run of a job with `--record` succeeded.", ("name",))
JOB_AT = Asked("tallyd_job_at_seconds", "When that run ended, in seconds since 1970.", ("name",))
JOB_SECONDS = Asked("tallyd_job_seconds", "How long that run took.", ("name",))
AUDIT_DIFFERENCE = Asked(
    "tallyd_audit_difference", "What the last recorded audit found too much or too little, by counter.", ("counter",)
)

BUILD_INFO = Asked("tallyd_build_info", "1. The labels name the running versions.", ("version", "python"))
CONFIG_GENERATION = Asked("tallyd_config_generation", "How often the configuration was reloaded since the start.")
CONFIG_RELOAD_OK = Asked(
    "tallyd_config_reload_ok", "0: the last reload failed, and the configuration before it is in force."
)

INGEST_ASKED = (
    LOOP_LAG, WORKERS, SPOOL_BYTES, SPOOL_BYTES_MAX, SPOOL_OLDEST, KEY_EXPIRES,
    BUILD_INFO, CONFIG_GENERATION, CONFIG_RELOAD_OK,
)  # fmt: skip
FLUSH_ASKED = (
    SHARDS_HELD, STORE_UP, DIRTY, UNFLUSHED, CLAIM_AGE, ACKED_AT, REPLICA_DUE, REPLICA_DUE_AGE, REPLICA_REFUSED, ASIDE,
    DEDUPE_EVENTS, DEDUPE_LAST_EVENTS, DEDUPE_FILL, REDIS_MEMORY, REDIS_MEMORY_MAX, REDIS_CLOCK, REDIS_EPOCH,
    DEAD_LETTERS, JOB_OK, JOB_AT, JOB_SECONDS, AUDIT_DIFFERENCE,
    BUILD_INFO, CONFIG_GENERATION, CONFIG_RELOAD_OK,
)  # fmt: skip

# A series that begins at 0 shows its first increase, too.
for _why in ("queue", "in_flight", "spool", "store"):
    REFUSALS.labels(_why)
for _outcome in ("counted", "duplicate", "rejected", "limited", "robot"):
    EVENTS.labels(_outcome)
for _store in ("redis", "mongo", "mysql", "none"):
    FLUSH_FAILURES.labels(_store)

_log = logging.getLogger(__name__)


def rejected_events() -> dict[str, int]:
    """Events that were not taken, by why: the reasons of REJECTIONS, and limited, robot. Of all workers of this daemon.

    It reads their files, so call it in a thread. The last second may be missing.
    """
    found: dict[str, int] = {}
    for family in _counters():
        for sample in family.samples:
            why = sample.labels.get("reason") or sample.labels.get("outcome", "")
            if sample.name == "tallyd_rejections_total" or (
                sample.name == "tallyd_events_total" and why in ("limited", "robot")
            ):
                found[why] = found.get(why, 0) + int(sample.value)
    return {why: events for why, events in sorted(found.items()) if events}


def _counters() -> Iterable[Metric]:
    """The counters of this process, or those of all workers if they share them."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder is None:
        return [*EVENTS.collect(), *REJECTIONS.collect()]
    files = [str(file) for file in Path(folder).glob("counter_*.db")]
    merged: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
    return merged


class _Times:
    """How long requests of one route took, as a histogram that costs 0.2 us a request."""

    __slots__ = ("_buckets", "_route", "_seconds")

    def __init__(self, route: str) -> None:
        self._route = route
        self._clear()

    def _clear(self) -> None:
        self._buckets = [0] * (len(EVENT_SECONDS_BUCKETS) + 1)
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        self._buckets[bisect_left(EVENT_SECONDS_BUCKETS, seconds)] += 1
        self._seconds += seconds

    def publish(self) -> None:
        # Its public method takes one request at a time: 10 us each, in the memory map of a worker.
        histogram = EVENT_SECONDS.labels(self._route)
        for bucket, requests in zip(histogram._buckets, self._buckets, strict=True):  # noqa: SLF001
            bucket.inc(requests)
        histogram._sum.inc(self._seconds)  # noqa: SLF001
        self._clear()


class IngestTally:
    """What one worker has done since the last publish."""

    __slots__ = (
        "_accepted",
        "_call_requests",
        "_call_seconds",
        "_calls",
        "_duplicates",
        "_failure_logged_at",
        "_limited",
        "_refused",
        "_rejected",
        "_responses",
        "_robots",
        "_times",
    )

    def __init__(self) -> None:
        self._failure_logged_at = -FAILURE_LOG_INTERVAL_S
        self._times = {route: _Times(route) for route in ("event", "batch")}
        self._clear()

    def _clear(self) -> None:
        self._accepted = self._duplicates = self._limited = self._robots = 0
        self._calls = self._call_requests = 0
        self._call_seconds = 0.0
        self._rejected = defaultdict[str, int](int)
        self._refused = defaultdict[str, int](int)
        self._responses = defaultdict[tuple[str, int], int](int)

    def counted(self, accepted: int, duplicates: int) -> None:
        self._accepted += accepted
        self._duplicates += duplicates

    def rejected(self, reason: str, events: int = 1) -> None:
        """`reason`: as of `REJECTIONS`. Never a client's text: each one is a series."""
        self._rejected[reason] += events

    def refused(self, why: str) -> None:
        """A request gets 503. `why`: as of `REFUSALS`."""
        self._refused[why] += 1

    def limited(self, events: int) -> None:
        """Good events whose sender's limit was found spent. One that is blocked already sends none so far."""
        self._limited += events

    def left_out(self, events: int) -> None:
        """Events of robots that are not counted."""
        self._robots += events

    def answered(self, route: str, status: int, began: float) -> None:
        """`route`: as of `RESPONSES`. `began`: when the request's head was there, on the monotonic clock."""
        self._responses[route, status] += 1
        times = self._times.get(route)
        if times is not None:
            times.add(time.monotonic() - began)

    def called(self, seconds: float, requests: int) -> None:
        self._calls += 1
        self._call_seconds += seconds
        self._call_requests += requests

    def store_failed(self, error: StoreError) -> None:
        CALL_FAILURES.inc()
        now_s = time.monotonic()
        if now_s - self._failure_logged_at >= FAILURE_LOG_INTERVAL_S:
            self._failure_logged_at = now_s
            _log.error("%s", error)

    def publish(self, queue_events: int, in_flight: int) -> None:
        """`queue_events`, `in_flight`: the gauges of this moment."""
        for outcome, events in (
            ("counted", self._accepted),
            ("duplicate", self._duplicates),
            ("rejected", sum(self._rejected.values())),
            ("limited", self._limited),
            ("robot", self._robots),
        ):  # fmt: skip
            EVENTS.labels(outcome).inc(events)
        for reason, events in self._rejected.items():
            REJECTIONS.labels(reason).inc(events)
        for why, requests in self._refused.items():
            REFUSALS.labels(why).inc(requests)
        for (route, status), responses in self._responses.items():
            RESPONSES.labels(route, str(status)).inc(responses)
        for times in self._times.values():
            times.publish()
        CALLS.inc(self._calls)
        CALL_SECONDS.inc(self._call_seconds)
        CALL_REQUESTS.inc(self._call_requests)
        self._clear()
        QUEUE_EVENTS.set(queue_events)
        IN_FLIGHT.set(in_flight)


class ReadTally:
    """What one worker has read since the last publish."""

    __slots__ = ("_failure_logged_at", "_hits", "_replies", "_seconds")

    def __init__(self) -> None:
        self._replies: dict[tuple[str, int], int] = {}
        self._hits = 0
        self._seconds: list[tuple[str, float]] = []
        self._failure_logged_at = -FAILURE_LOG_INTERVAL_S

    def replied(self, route: str, status: int) -> None:
        self._replies[route, status] = self._replies.get((route, status), 0) + 1

    def hit(self) -> None:
        self._hits += 1

    def missed(self, route: str, seconds: float) -> None:
        self._seconds.append((route, seconds))

    def store_failed(self, error: StoreError) -> None:
        now_s = time.monotonic()
        if now_s - self._failure_logged_at >= FAILURE_LOG_INTERVAL_S:
            self._failure_logged_at = now_s
            _log.error("A read failed: %s", error)

    def publish(self) -> None:
        for (route, status), replies in self._replies.items():
            READS.labels(route, str(status)).inc(replies)
        READ_CACHE.labels("hit").inc(self._hits)
        READ_CACHE.labels("miss").inc(len(self._seconds))
        for route, seconds in self._seconds:
            READ_SECONDS.labels(route).observe(seconds)
        self._replies, self._hits, self._seconds = {}, 0, []
