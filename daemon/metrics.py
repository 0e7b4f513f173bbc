"""Every metric tallyd exposes, documented where it is defined, and the tallies that feed them.

The hot path adds to plain integers (`IngestTally`); once a second they are moved into the Prometheus counters, whose
locks and memory maps cost more than the rest of a request's bookkeeping. Ingest workers share their values through
`PROMETHEUS_MULTIPROC_DIR`, where `ingest/process/exposition.py` finds them.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict

from prometheus_client import Counter, Gauge, Histogram

from daemon.errors import StoreError

PUBLISH_INTERVAL_S = 1.0
FAILURE_LOG_INTERVAL_S = 1.0

EVENTS = Counter(
    "tallyd_events", "Events by what became of them: counted, duplicate, rejected, limited, robot.", ["outcome"]
)
RESPONSES = Counter("tallyd_responses", "HTTP responses by status.", ["status"])
CALLS = Counter("tallyd_ingest_calls", "ingest.lua calls.")
CALL_SECONDS = Counter("tallyd_ingest_call_seconds", "Time ingest.lua calls took; by their number, the mean.")
CALL_REQUESTS = Counter("tallyd_ingest_call_requests", "Requests carried by ingest.lua calls.")
CALL_FAILURES = Counter("tallyd_ingest_call_failures", "ingest.lua calls that failed or were not answered.")
QUEUE_EVENTS = Gauge("tallyd_queue_events", "Events that wait for a Lua call.", multiprocess_mode="livesum")
FAULTS = Counter(
    "tallyd_ingest_faults",
    "What nobody planned for on an event's way. call, spool, replay, probe: an exception there. stuck: past its bound.",
    ["what"],
)

SPOOLING = Gauge(
    "tallyd_spooling",
    "Workers that write events to the spool because Redis does not take them.",
    multiprocess_mode="livesum",
)
SPOOLED = Counter("tallyd_spool_events", "Events written to the spool.")
SPOOL_BYTES_WRITTEN = Counter("tallyd_spool_bytes_written", "Bytes written to the spool.")
SPOOL_REFUSED = Counter("tallyd_spool_refused_calls", "Calls the spool could not take: it or the disk was full.")
SPOOL_REPLAYED = Counter("tallyd_spool_replayed_events", "Events replayed from the spool, duplicates included.")
SPOOL_DAMAGED = Counter("tallyd_spool_damaged", "Stretches of bytes in segments that were no record, and set aside.")

READS = Counter("tallyd_reads", "Requests of the read API by route and status.", ["route", "status"])
READ_CACHE = Counter("tallyd_read_cache", "Reads by whether the cache had the answer: hit, miss.", ["outcome"])
READ_SECONDS = Histogram(
    "tallyd_read_seconds",
    "Time to answer a read the cache did not have, by route.",
    ["route"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2, 10),
)

FLUSH_CLAIMS = Counter("tallyd_flush_claims", "Claims applied to MongoDB and acknowledged.")
CLAIM_TAKEOVERS = Counter(
    "tallyd_claim_takeovers", "Claims taken over from a flusher that did not acknowledge them within its lease."
)
FLUSH_ENTITIES = Counter("tallyd_flush_entities", "Entities in those claims.")
FLUSH_DOCUMENTS = Counter("tallyd_flush_documents", "Rollup documents by what became of them.", ["outcome"])
FLUSH_SECONDS = Histogram(
    "tallyd_flush_seconds", "Time from claim to ack.", buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 20)
)
FLUSH_FAILURES = Counter(
    "tallyd_flush_failures",
    "Steps of the flusher that failed, by store: redis, mongo, mysql; none: no store failed.",
    ["store"],
)
REPLICA_ROWS = Counter(
    "tallyd_replica_rows", "Rows of MySQL by what became of them: set, missing, refused.", ["outcome"]
)

_log = logging.getLogger(__name__)


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
        "_rejected",
        "_responses",
        "_robots",
    )

    def __init__(self) -> None:
        self._failure_logged_at = -FAILURE_LOG_INTERVAL_S
        self._clear()

    def _clear(self) -> None:
        self._accepted = self._duplicates = self._rejected = self._limited = self._robots = 0
        self._calls = self._call_requests = 0
        self._call_seconds = 0.0
        self._responses = defaultdict[int, int](int)

    def counted(self, accepted: int, duplicates: int) -> None:
        self._accepted += accepted
        self._duplicates += duplicates

    def rejected(self, events: int) -> None:
        self._rejected += events

    def limited(self, events: int) -> None:
        """Good events whose sender's limit was found spent. One that is blocked already sends none so far."""
        self._limited += events

    def left_out(self, events: int) -> None:
        """Events of robots that are not counted."""
        self._robots += events

    def answered(self, status: int) -> None:
        self._responses[status] += 1

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

    def publish(self, queue_events: int) -> None:
        for outcome, events in (
            ("counted", self._accepted),
            ("duplicate", self._duplicates),
            ("rejected", self._rejected),
            ("limited", self._limited),
            ("robot", self._robots),
        ):  # fmt: skip
            EVENTS.labels(outcome).inc(events)
        for status, responses in self._responses.items():
            RESPONSES.labels(str(status)).inc(responses)
        CALLS.inc(self._calls)
        CALL_SECONDS.inc(self._call_seconds)
        CALL_REQUESTS.inc(self._call_requests)
        self._clear()
        QUEUE_EVENTS.set(queue_events)


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
