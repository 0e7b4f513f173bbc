"""What both daemons tell Prometheus and supervisors, on ports of their own."""

from __future__ import annotations

import platform
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from daemon import __version__
from daemon.devstack.process import free_port
from daemon.metrics import FLUSH, FLUSH_ASKED, INGEST, INGEST_ASKED
from tests.kit.daemon import Daemon
from tests.kit.metrics import Listener
from tests.kit.system import BATCH, Ingest, System, event
from tests.kit.wait import wait_until

QUICK = {"FLUSH__METRICS_INTERVAL_S": "0.1", "FLUSH__INTERVAL_S": "0.2"}


class Watched(NamedTuple):
    """A running system, and where its daemons tell of it."""

    system: System
    ingest: Ingest
    ingest_tells: Listener
    flusher: Daemon
    flusher_tells: Listener


@pytest.fixture(scope="module")
def watched(shared_system: System) -> Iterator[Watched]:
    ports = free_port(), free_port()
    config = shared_system.scratch / "tallyd.toml"
    keys = '[[keys.entries]]\nid = "shop1"\nname = "shop"\nhash = "sha256:{}"\nexpires = "2999-01-02"\n'
    config.write_text(keys.format("0" * 64))
    with (
        shared_system.ingest(CONFIG=str(config), HTTP__METRICS_PORT=str(ports[0]), HTTP__WORKERS="2") as ingest,
        shared_system.flusher(CONFIG=str(config), FLUSH__METRICS_PORT=str(ports[1]), **QUICK) as flusher,
    ):
        watched = Watched(shared_system, ingest, Listener(ports[0]), flusher, Listener(ports[1]))
        watched.ingest_tells.answers("/readyz", 200)
        watched.flusher_tells.answers("/readyz", 200)
        yield watched


def test_requests_are_told_by_route_status_reason_and_time(watched: Watched) -> None:
    ingest = watched.ingest
    for body in (event(), event(), {}, b"{"):
        ingest.post(body)
    ingest.post([event(), event(value=0), {**event(), "domain": "no"}], BATCH)
    ingest.client.get("/nothing")
    watched.ingest_tells.says(
        {
            'tallyd_events_total{outcome="counted"}': 3,
            'tallyd_events_total{outcome="rejected"}': 4,
            'tallyd_rejections_total{reason="event_id"}': 1,
            'tallyd_rejections_total{reason="json"}': 1,
            'tallyd_rejections_total{reason="value"}': 1,
            'tallyd_rejections_total{reason="domain"}': 1,
            'tallyd_responses_total{route="event",status="202"}': 2,
            'tallyd_responses_total{route="event",status="400"}': 1,
            'tallyd_responses_total{route="batch",status="202"}': 1,
            'tallyd_responses_total{route="other",status="404"}': 1,
            'tallyd_event_seconds_count{route="event"}': 4,
            'tallyd_event_seconds_count{route="batch"}': 1,
            'tallyd_event_seconds_bucket{le="+Inf",route="event"}': 4,
            "tallyd_requests_in_flight": 0,
            "tallyd_workers": 2,
            'tallyd_refusals_total{why="queue"}': 0,
            'tallyd_key_expires_at_seconds{key="shop1"}': 32_472_230_400,
        }
    )
    assert 0 < watched.ingest_tells.samples()['tallyd_event_seconds_sum{route="event"}'] < 60


def test_the_flusher_tells_what_the_stores_hold(watched: Watched) -> None:
    now_s = time.time()
    watched.system.add_movies("m1")
    watched.ingest.post(event(entity_id="m1"))
    tells = watched.flusher_tells
    above_0 = {
        "tallyd_entities_new_total",
        *(f'tallyd_flush_store_seconds_count{{store="{store}"}}' for store in ("redis", "mongo", "mysql")),
        'tallyd_dedupe_events{shard="0"}',
        "tallyd_dedupe_bucket_fill",
        "tallyd_redis_memory_bytes",
        'tallyd_flush_acked_at_seconds{shard="0"}',
        'tallyd_redis_epoch_seconds{shard="0"}',
    }
    wait_until(lambda: all(tells.samples().get(name, 0) > 0 for name in above_0), f"above 0: {above_0}")
    tells.says(
        {
            'tallyd_dirty_entities{shard="0"}': 0,
            'tallyd_unflushed_seconds{shard="0"}': 0,
            'tallyd_claim_age_seconds{shard="0"}': 0,
            'tallyd_replica_due{shard="0"}': 0,
            'tallyd_replica_due_seconds{shard="0"}': 0,
            'tallyd_store_up{store="redis"}': 1,
            'tallyd_store_up{store="mongo"}': 1,
            'tallyd_store_up{store="mysql"}': 1,
            "tallyd_claim_takeovers_total": 0,
            "tallyd_dead_letters": 0,
        }
    )
    samples = tells.samples()
    assert abs(samples["tallyd_redis_clock_offset_seconds"]) < 60
    for moment in ('tallyd_flush_acked_at_seconds{shard="0"}', 'tallyd_redis_epoch_seconds{shard="0"}'):
        assert abs(samples[moment] - now_s) < 3_600


def test_jobs_and_the_audit_are_told_by_name(watched: Watched) -> None:
    tells = watched.flusher_tells
    tells.says({'tallyd_dirty_entities{shard="0"}': 0, 'tallyd_claim_age_seconds{shard="0"}': 0})
    watched.system.tallyd("audit", "--record")
    tells.says({'tallyd_job_ok{name="audit"}': 1, 'tallyd_audit_difference{counter="view"}': 0})
    samples = tells.samples()
    assert abs(samples['tallyd_job_at_seconds{name="audit"}'] - time.time()) < 3_600
    assert samples['tallyd_job_seconds{name="audit"}'] > 0


def test_each_daemon_tells_its_own_metrics_and_no_others(watched: Watched) -> None:
    for tells, kept, asked in (
        (watched.ingest_tells, INGEST, INGEST_ASKED),
        (watched.flusher_tells, FLUSH, FLUSH_ASKED),
    ):
        own = {family.name for family in kept.collect()} | {gauge.name for gauge in asked}
        wait_until(lambda tells=tells, own=own: tells.families() <= own, f"no others than {own}")
        assert f'tallyd_build_info{{python="{platform.python_version()}",version="{__version__}"}}' in tells.samples()


def test_a_reload_is_told_and_one_that_fails_as_well(watched: Watched) -> None:
    config = Path(watched.system.scratch / "tallyd.toml")
    good = config.read_text()
    for daemon, tells in ((watched.ingest, watched.ingest_tells), (watched.flusher, watched.flusher_tells)):
        tells.says({"tallyd_config_generation": 0, "tallyd_config_reload_ok": 1})
        daemon.send(signal.SIGHUP)
        tells.says({"tallyd_config_generation": 1, "tallyd_config_reload_ok": 1})
        config.write_text("nonsense = 1")
        daemon.send(signal.SIGHUP)
        tells.says({"tallyd_config_generation": 1, "tallyd_config_reload_ok": 0})
        config.write_text(good)
        daemon.send(signal.SIGHUP)
        tells.says({"tallyd_config_generation": 2, "tallyd_config_reload_ok": 1})


def test_both_say_that_they_live_and_are_ready_and_what_runs(watched: Watched) -> None:
    for daemon, tells in ((watched.ingest, watched.ingest_tells), (watched.flusher, watched.flusher_tells)):
        tells.answers("/livez", 200, status="ok", version=__version__, run_id=daemon.run_id, pid=daemon.pid)
        tells.answers("/readyz", 200, status="ready")
        tells.answers("/version", 200, version=__version__, python=platform.python_version())
        assert tells.client.get("/").status_code == 404
    public = watched.ingest.client
    assert public.get("/livez").json()["run_id"] == watched.ingest.run_id
    assert public.get("/version").json() == {"version": __version__, "python": platform.python_version()}


def test_a_frozen_worker_is_told_as_a_lag_and_by_livez(watched: Watched) -> None:
    tells, worker = watched.ingest_tells, watched.ingest.workers()[0]
    worker.suspend()
    try:
        tells.answers("/livez", 503, status="unavailable")
        tells.answers("/readyz", 503, status="unavailable")
        wait_until(lambda: tells.samples()["tallyd_loop_lag_seconds"] > 1, "the lag grows")
    finally:
        worker.resume()
    tells.answers("/readyz", 200, status="ready")
