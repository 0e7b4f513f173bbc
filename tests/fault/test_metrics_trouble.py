"""What both daemons tell Prometheus and a load balancer while a store is away."""

from __future__ import annotations

import time
from pathlib import Path

from daemon.buffer import scripts
from daemon.devstack.process import free_port
from tests.kit.metrics import Listener
from tests.kit.proxy import Proxy
from tests.kit.servers import RedisServer
from tests.kit.system import BATCH, System, event
from tests.kit.wait import wait_until

QUICK = {"FLUSH__METRICS_INTERVAL_S": "0.1"}


def test_counts_that_wait_grow_older_until_they_are_flushed(system: System) -> None:
    system.count(event(entity_id="a"), event(entity_id="b"))
    system.redis.hset("anl:layout", "epoch", int((time.time() - 1_000) * 1e6))
    port = free_port()
    away = {"MONGO__URL": f"mongodb://127.0.0.1:{free_port()}/x", "MONGO__TIMEOUT_MS": "200"}
    with system.flusher(FLUSH__METRICS_PORT=str(port), **QUICK, **away):
        tells = Listener(port)
        tells.says({'tallyd_dirty_entities{shard="0"}': 2, 'tallyd_store_up{store="mongo"}': 0})
        assert tells.samples()['tallyd_unflushed_seconds{shard="0"}'] >= 1_000, "nothing was ever flushed"
        tells.answers("/readyz", 503, status="unavailable")
        assert "tallyd_dead_letters" not in tells.samples()


def test_a_store_that_is_away_is_told_and_what_it_would_say_is_absent(system: System, tmp_path: Path) -> None:
    with RedisServer(7, tmp_path) as redis:
        system.use_redis(redis)
        port = free_port()
        with system.flusher(FLUSH__METRICS_PORT=str(port), **QUICK):
            tells = Listener(port)
            tells.says({'tallyd_store_up{store="redis"}': 1, 'tallyd_dirty_entities{shard="0"}': 0})
            redis.kill()
            tells.says({'tallyd_store_up{store="redis"}': 0, 'tallyd_store_up{store="mongo"}': 1})
            assert 'tallyd_dirty_entities{shard="0"}' not in tells.samples()
            wait_until(lambda: tells.samples()['tallyd_flush_failures_total{store="redis"}'] > 0, "failures are told")
            tells.answers("/livez", 200)


def test_an_ack_that_finds_its_claim_gone_is_told(system: System) -> None:
    system.count(event())
    for script in scripts.ALL:
        system.redis.script_load(script.source)  # else the marked call is only told NOSCRIPT
    port = free_port()
    line = Proxy(system.env["TALLYD_REDIS__URL"], scripts.ACK.sha.encode(), keep=True)
    slow = {"REDIS__TIMEOUT_MS": "60000", "FLUSH__LEASE_MS": "300"}
    with line.running(), system.flusher(REDIS__URL=line.url(), FLUSH__METRICS_PORT=str(port), **slow):
        wait_until(line.tripped.is_set, "its ack is on the way")
        assert Listener(port).samples()["tallyd_flush_acks_gone_total"] == 0
        system.flush()
        line.release()
        Listener(port).says({"tallyd_flush_acks_gone_total": 1})


def test_while_redis_is_away_and_the_spool_nearly_full_a_load_balancer_is_told(system: System, tmp_path: Path) -> None:
    with RedisServer(7, tmp_path) as redis:
        system.use_redis(redis)
        port = free_port()
        limits = {"SPOOL__BYTES_MAX": "1048576", "SPOOL__READY_PERCENT": "1", "SPOOL__PROBE_MS": "50"}
        with system.ingest(HTTP__METRICS_PORT=str(port), **limits) as ingest:
            tells = Listener(port)
            redis.kill()
            assert ingest.post(event()).status_code == 202
            wait_until(lambda: ingest.client.get("/readyz").json() == {"status": "spooling"}, "it spools")
            ingest.post([event() for _ in range(1_000)], BATCH)
            wait_until(lambda: ingest.client.get("/readyz").status_code == 503, "the spool is nearly full")
            assert ingest.client.get("/readyz").json()["spool"] == "is nearly full"
            assert ingest.post(event()).status_code == 202, "there is room for what comes all the same"
            tells.answers("/readyz", 503, status="unavailable")
            tells.says({"tallyd_spooling": 1, "tallyd_spool_bytes_max": 1_048_576})
            assert tells.samples()["tallyd_spool_bytes"] > 8_000
            while ingest.post([event() for _ in range(2_000)], BATCH).status_code == 202:
                pass
            tells.says({'tallyd_refusals_total{why="spool"}': 1, 'tallyd_refusals_total{why="store"}': 0})
            wait_until(lambda: tells.samples()["tallyd_spool_oldest_seconds"] > 0, "the oldest segment has an age")


def test_refusals_are_told_by_why(system: System) -> None:
    ports = free_port(), free_port()
    away = {"REDIS__URL": f"redis://127.0.0.1:{ports[0]}", "SPOOL__DIR": ""}
    with system.ingest(HTTP__METRICS_PORT=str(ports[1]), **away) as ingest:
        assert ingest.post(event()).status_code == 503
        tells = Listener(ports[1])
        tells.says({'tallyd_refusals_total{why="store"}': 1, 'tallyd_refusals_total{why="in_flight"}': 0})
        assert "tallyd_spool_bytes_max" not in tells.samples(), "there is no spool"
