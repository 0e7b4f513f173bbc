"""Each alert of ops/prometheus/alerts.yml, fired by what it is for: the thing breaks, Prometheus sees it.

alerts_test.yml holds how long each waits. Here only what the daemons say, and the expressions, are tried.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from daemon.buffer.layout import FORMAT
from daemon.devstack import process
from daemon.spool.origin import Origin, encode_head
from tests.alerts.prometheus import FIRE_TIMEOUT_S, Prometheus
from tests.alerts.test_rules import names
from tests.kit.commands import ROOT
from tests.kit.daemon import Daemon, Ingest
from tests.kit.proxy import Fault, Proxy, update_of
from tests.kit.servers import Server, Stack
from tests.kit.system import BATCH, System, event, wait_until, with_database

BATCH_EVENTS = 1_000
LAST_VERSION = "0.0.1"
QUICK = {
    "REDIS__TIMEOUT_MS": "3000",
    "REDIS__RECONNECT_MS": "100",
    "MONGO__TIMEOUT_MS": "3000",
    "MYSQL__TIMEOUT_MS": "3000",
    "SPOOL__BYTES_MAX": "1048576",
    "SPOOL__SEGMENT_BYTES": "65536",
    "SPOOL__ADDRESS_PERCENT_MAX": "100",
    "SPOOL__PRODUCERS_PERCENT": "0",
    "SPOOL__PROBE_MS": "100",
    "DEDUPE__EVENTS_PER_WINDOW": "1",
    "FLUSH__NICENESS": "0",
    "FLUSH__LEASE_MS": "300",
    "FLUSH__INTERVAL_S": "0.2",
    "FLUSH__POLL_MS": "50",
    "FLUSH__CLAIM_ENTITIES_MAX": "100",
    "FLUSH__RETRY_MS": "100",
    "FLUSH__RETRY_MAX_MS": "500",
    "FLUSH__METRICS_INTERVAL_S": "0.3",
}


class Watched:
    """Two daemons, a third one that does not run yet, and the Prometheus that watches them. `road`: to MongoDB."""

    def __init__(self, system: System, stack: Stack, road: Proxy, folder: Path) -> None:
        self.system, self.road = system, road
        self.redis, self.mongo, self.mysql = (stack.servers[name] for name in ("redis", "mongo", "mysql"))
        self.file = folder / "tallyd.toml"
        self.file.write_text("")
        self.env = {**QUICK, "CONFIG": str(self.file), "KEYS__FILE": str(folder / "keys.json")}
        mongo = with_database(road.url(), system.database)
        ports = [str(process.free_port()) for _ in range(3)]
        self.ingest = Ingest(system, HTTP__METRICS_PORT=ports[0], **self.env)
        self.flush = Daemon(system, "flush", FLUSH__METRICS_PORT=ports[1], MONGO__URL=mongo, **self.env)
        self.other_flush = Daemon(
            system,
            "flush",
            FLUSH__METRICS_PORT=ports[2],
            MONGO__URL=mongo,
            **self.env,
            **other_version(folder),
            **wrong_clock(),
        )
        self.ingest_at, self.flush_at, self.other_at = (f"127.0.0.1:{port}" for port in ports)
        self.prometheus = Prometheus(
            folder / "prometheus",
            {"tallyd-ingest": [self.ingest_at], "tallyd-flush": [self.flush_at, self.other_at]},
        )

    def job(self, *command: str) -> int:
        """Runs it as its timer does, and returns its exit code."""
        return self.system.tallyd_here(*command, "--record", **self.env)[0]

    def reload(self, toml: str = "") -> None:
        """Both daemons take this configuration file, if they can."""
        self.file.write_text(toml)
        for daemon in (self.ingest, self.flush):
            daemon.send(signal.SIGHUP)

    def send(self, entities: int) -> int:
        """Sends a batch, each event to an entity of its own, and returns the status."""
        try:
            batch = [event(entity_id=f"e{n}") for n in range(entities)]
            return self.ingest.post(batch, BATCH).status_code
        except httpx.TransportError:
            return 0

    def settled(self, entity: str) -> None:
        """Waits until all of it is flushed, its row too."""
        wait_until(lambda: self._is_flushed(entity), f"{entity} is flushed", FIRE_TIMEOUT_S)

    def _is_flushed(self, entity: str) -> bool:
        redis = self.system.redis
        waits = redis.exists("anl:{0}:dirty") or redis.hexists("anl:{0}:claim", "seq")
        return not waits and redis.zscore("anl:{0}:replica", entity) is None


def other_version(folder: Path) -> dict[str, str]:
    """The environment of a daemon that was installed as another version."""
    info = folder / "other" / f"tallyd-{LAST_VERSION}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tallyd\nVersion: {LAST_VERSION}\n")
    return {"PYTHONPATH": str(info.parent)}


def wrong_clock() -> dict[str, str]:
    """The environment of a daemon whose host is 90 s ahead."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return {"LD_PRELOAD": str(library), "FAKETIME": "+90", "DONT_FAKE_MONOTONIC": "1"}


def dashboard_queries() -> list[str]:
    boards = [json.loads(path.read_text()) for path in sorted((ROOT / "ops/grafana").glob("*.json"))]
    return [target["expr"] for board in boards for panel in board["panels"] for target in panel.get("targets", ())]


@pytest.fixture(scope="module")
def watched(shared_system: System, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder, soon = tmp_path_factory.mktemp("watched"), dt.datetime.now(dt.UTC) + dt.timedelta(days=3)
    with Proxy(stack.mongo).running() as road:
        found = Watched(shared_system, stack, road, folder)
        found.system.tallyd_here("key", "new", "shop", "--expires", f"{soon:%Y-%m-%d}", **found.env)
        running = found.system.asked_to_stop
        with found.prometheus, running(found.flush), running(found.ingest):
            yield found


@pytest.fixture
def prometheus(watched: Watched) -> Prometheus:
    return watched.prometheus


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


def test_daemons_that_do_not_answer(watched: Watched, prometheus: Prometheus) -> None:
    prometheus.wait_firing("FlushDown", instance=watched.other_at)
    prometheus.wait_quiet("IngestDown")
    watched.ingest.kill()
    prometheus.wait_firing("IngestDown", instance=watched.ingest_at)
    watched.ingest.start()
    watched.ingest.wait_up()
    prometheus.wait_quiet("IngestDown")


def test_a_worker_that_stands_still(watched: Watched, prometheus: Prometheus) -> None:
    worker: psutil.Process = watched.ingest.workers()[0]
    prometheus.wait_quiet("WorkerLoopStalled")
    worker.suspend()
    try:
        prometheus.wait_firing("WorkerLoopStalled", instance=watched.ingest_at)
    finally:
        worker.resume()
    prometheus.wait_quiet("WorkerLoopStalled")


def test_a_mysql_that_is_away_or_refuses_a_row(watched: Watched, prometheus: Prometheus) -> None:
    watched.system.add_movies("bad", "good")
    watched.system.sql("ALTER TABLE jav ADD CONSTRAINT small CHECK (views < 100)")
    watched.ingest.post(event(entity_id="bad", value=100))
    prometheus.wait_firing("ReplicaRefused", shard="0")
    watched.system.sql("ALTER TABLE jav DROP CONSTRAINT small")
    with frozen(watched.mysql):
        watched.ingest.post(event(entity_id="good"))
        prometheus.wait_firing("StoreDown", store="mysql")
        prometheus.wait_firing("ReplicaLag", shard="0")
    watched.reload()  # a refused row is tried again after a minute, or now
    for alert in ("ReplicaLag", "ReplicaRefused", "StoreDown"):
        prometheus.wait_quiet(alert)


def test_a_document_that_takes_no_amount(watched: Watched, prometheus: Prometheus) -> None:
    watched.ingest.post(event(entity_id="odd"))
    watched.settled("jav:movie:odd")
    prometheus.wait_quiet("DeadLetters")
    totals = watched.system.mongo["analytics_entity_totals"]
    totals.update_one({"_id": "jav:movie:odd"}, {"$set": {"view": "text"}})
    watched.ingest.post(event(entity_id="odd"))
    prometheus.wait_firing("DeadLetters")
    totals.update_one({"_id": "jav:movie:odd"}, {"$set": {"view": 1}})
    assert watched.system.tallyd_here("dead", "retry", "--all", **watched.env)[0] == 0
    prometheus.wait_quiet("DeadLetters")


def test_jobs_that_find_something_fail_or_do_not_run(watched: Watched, prometheus: Prometheus) -> None:
    system = watched.system
    prometheus.wait_firing("JobLate", name="audit")
    assert watched.job("audit") == 0
    assert watched.job("parity-check") == 0
    for alert in ("JobLate", "AuditBroken", "ParityBroken", "JobFailed"):
        prometheus.wait_quiet(alert)
    system.redis.hincrby("anl:{0}:ledger", "accepted:view", 5)
    assert watched.job("audit") == 1
    prometheus.wait_firing("AuditBroken", counter="view")
    system.redis.hincrby("anl:{0}:ledger", "accepted:view", -5)
    system.add_movies("c")
    watched.ingest.post(event(entity_id="c"))
    watched.settled("jav:movie:c")
    assert system.replica()["c"] == (1, 0)
    system.sql("UPDATE jav SET views = 9 WHERE uuid = 'c'")
    assert watched.job("parity-check") == 1
    prometheus.wait_firing("ParityBroken", name="parity-check")
    assert watched.job("report", "generate", "--days", "1", "--dir", str(system.scratch)) == 1
    system.sql("UPDATE jav SET views = 1 WHERE uuid = 'c'")
    prometheus.wait_firing("JobFailed", name="report")
    assert watched.job("audit") == 0
    assert watched.job("parity-check") == 0
    jobs = system.mongo["analytics_jobs"]
    jobs.update_one({"_id": "audit"}, {"$set": {"at": dt.datetime.now(dt.UTC) - dt.timedelta(hours=27)}})
    prometheus.wait_firing("JobLate", name="audit")
    for alert in ("AuditBroken", "ParityBroken"):
        prometheus.wait_quiet(alert)


def test_a_configuration_that_is_wrong_and_a_key_that_ends(watched: Watched, prometheus: Prometheus) -> None:
    prometheus.wait_quiet("ReloadFailed")
    watched.reload("no = such\n")
    prometheus.wait_firing("ReloadFailed", instance=watched.ingest_at)
    watched.reload()
    prometheus.wait_quiet("ReloadFailed")
    prometheus.wait_firing("KeyExpiry")


def test_two_flushers_that_differ_and_a_mongodb_that_takes_nothing(watched: Watched, prometheus: Prometheus) -> None:
    for alert in ("VersionSkew", "ClockSkew", "StoreDown", "FlushStalled", "InFlightOld", "ClaimTakenOver"):
        prometheus.wait_quiet(alert)
    with watched.other_flush:
        prometheus.wait_firing("VersionSkew")
        prometheus.wait_firing("ClockSkew", instance=watched.other_at)
        watched.road.trap(update_of("analytics_entity_daily"), Fault.HOLD_REQUEST, every=True)
        watched.ingest.post(event())
        for alert in ("FlushStalled", "InFlightOld", "ClaimTakenOver"):
            prometheus.wait_firing(alert)
        watched.road.restore()
        with frozen(watched.mongo):
            prometheus.wait_firing("StoreDown", store="mongo")
        for alert in ("StoreDown", "FlushStalled", "InFlightOld"):
            prometheus.wait_quiet(alert)


def test_a_redis_that_came_back_older_than_anybody_can_put_right(watched: Watched, prometheus: Prometheus) -> None:
    prometheus.wait_quiet("ShardHeld")
    watched.ingest.post(event(entity_id="held"))
    watched.settled("jav:movie:held")
    redis, claim = watched.system.redis, "anl:{0}:claim"
    last = redis.hget(claim, "last") or b""
    redis.hset(claim, "last", 1)
    prometheus.wait_firing("ShardHeld")
    assert "Shard 0 is held" in watched.system.tallyd_here("status", **watched.env)[1]
    redis.hset(claim, "last", last)
    prometheus.wait_quiet("ShardHeld")


def test_a_redis_that_is_away_and_one_that_is_full(watched: Watched, prometheus: Prometheus) -> None:
    system = watched.system
    for alert in ("Spooling", "EventsRefused", "DedupeBucketsConverting", "CardinalityJump", "RedisMemory"):
        prometheus.wait_quiet(alert)
    with frozen(watched.redis):
        wait_until(lambda: watched.send(BATCH_EVENTS) == 503, "the spool is full", 60)
        for alert, labels in (
            ("Spooling", {}),
            ("SpoolHalfFull", {}),
            ("EventsRefused", {"why": "spool"}),
            ("StoreDown", {"store": "redis"}),
        ):
            prometheus.wait_firing(alert, **labels)
    for alert in ("Spooling", "SpoolHalfFull", "StoreDown"):
        prometheus.wait_quiet(alert)
    prometheus.wait_firing("DedupeBucketsConverting")
    prometheus.wait_firing("CardinalityJump")
    used = int(system.redis.info("memory")["used_memory"])
    system.redis.config_set("maxmemory", int(used * 1.1))
    prometheus.wait_firing("RedisMemory")
    system.redis.config_set("maxmemory", 0)
    prometheus.wait_quiet("RedisMemory")


def test_events_on_the_disk_that_nobody_replays(watched: Watched, prometheus: Prometheus) -> None:
    prometheus.wait_quiet("SpoolOrphaned")
    segment = watched.system.scratch / "spool" / f"{1:020}-1-{1:08}.seg"
    segment.write_bytes(encode_head(Origin(1, FORMAT, 1, 1, "another.example:6379/0")))
    prometheus.wait_firing("SpoolOrphaned", instance=watched.ingest_at)
    segment.unlink()
    prometheus.wait_quiet("SpoolOrphaned")


def test_every_query_of_the_dashboards_has_an_answer(watched: Watched, prometheus: Prometheus) -> None:
    watched.job("audit")
    queries = [query.replace("$__rate_interval", "2m") for query in dashboard_queries()]
    assert len(queries) > 50

    def unanswered() -> list[str]:
        """With some traffic before."""
        watched.send(10)
        watched.ingest.post(event(action="nosuch"))
        watched.ingest.post(event(entity_id="read"))
        for _ in range(2):
            watched.ingest.client.get("/api/v1/analytics/totals/jav/movie/read")
        return [query for query in queries if not any(not math.isnan(value) for _, value in prometheus.ask(query))]

    wait_until(lambda: not unanswered(), "each query has an answer", FIRE_TIMEOUT_S)


def test_a_redis_that_lost_its_memory(watched: Watched, prometheus: Prometheus) -> None:
    prometheus.wait_quiet("RedisForgot")
    watched.redis.stop()
    shutil.rmtree(watched.redis.data)
    watched.redis.start()
    prometheus.wait_firing("RedisForgot")


def test_every_alert_fired(prometheus: Prometheus) -> None:
    """In the tests before this one."""
    assert sorted(prometheus.waited_for) == names()
