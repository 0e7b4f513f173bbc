"""The daemon and a Redis of its own that goes away, hangs, fills up or is exchanged; signals; scripts forgotten.

Without a spool here, so that an event Redis does not take is a 503.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.kit.load import Load
from tests.kit.servers import RedisServer, Stack
from tests.kit.system import BATCH, EVENTS, Ingest, System, event, wait_until
from tests.kit.wire import assert_unavailable

RETRY_AFTER_S = 3
PREFIX = "anl:{0}:counters:jav:movie:"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(7, tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(scope="module")
def private(server: RedisServer, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(stack, tmp_path_factory.mktemp("private"))
    system.env |= {
        "TALLYD_REDIS__URL": server.url, "TALLYD_REDIS__TIMEOUT_MS": "1000", "TALLYD_SPOOL__DIR": "",
        "TALLYD_INGEST__RETRY_AFTER_S": str(RETRY_AFTER_S),
    }  # fmt: skip
    yield system
    system.close()


@pytest.fixture(scope="module")
def daemon(private: System) -> Iterator[Ingest]:
    with private.ingest() as ingest:
        yield ingest


@pytest.fixture
def ingest(daemon: Ingest, server: RedisServer) -> Ingest:
    """The module's daemon, in order, with an empty Redis behind it."""
    with server.client() as redis:
        redis.flushall()
    wait_until(lambda: daemon.client.get("/readyz").status_code == 200, "the daemon is ready")
    return daemon


@contextmanager
def stopped(server: RedisServer) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()


def counted(server: RedisServer) -> dict[str, int]:
    """Movie → views."""
    with server.client() as redis:
        keys = list(redis.scan_iter(f"{PREFIX}*", count=1_000))
        return {key.decode().removeprefix(PREFIX): sum(map(int, redis.hvals(key))) for key in keys}


# Redis away, hanging, full ----------------------------------------------------------------------------------------


def test_without_redis_events_are_refused_until_it_is_back(ingest: Ingest, server: RedisServer) -> None:
    sent = event(entity_id="m")
    with stopped(server):
        for _ in range(3):
            assert_unavailable(ingest.post(sent), RETRY_AFTER_S)
            assert_unavailable(ingest.post([sent], BATCH), RETRY_AFTER_S)
        assert ingest.post({}).status_code == 422, "what is wrong is wrong without Redis, too"
        assert ingest.client.get("/healthz").status_code == 200
        assert ingest.client.get("/readyz").status_code == 503
    wait_until(lambda: ingest.post(sent).status_code == 202, "events are taken again")
    assert ingest.post(sent).status_code == 202
    assert counted(server) == {"m": 1}


def test_a_daemon_starts_without_redis_and_counts_when_it_comes(private: System, server: RedisServer) -> None:
    with stopped(server), private.ingest() as ingest:
        assert_unavailable(ingest.post(event(entity_id="m")), RETRY_AFTER_S)
        server.start()
        wait_until(lambda: ingest.post(event(entity_id="m")).status_code == 202, "events are taken")


def test_a_redis_that_hangs_is_not_waited_for(ingest: Ingest, server: RedisServer) -> None:
    sent = [event(entity_id=f"m{n}") for n in range(10)]
    with ThreadPoolExecutor(10) as pool:
        server.freeze()
        try:
            answers = list(pool.map(lambda each: httpx.post(ingest.url + EVENTS, json=each, timeout=30), sent))
        finally:
            server.thaw()
    for answer in answers:
        assert_unavailable(answer, RETRY_AFTER_S)
    wait_until(lambda: {ingest.post(each).status_code for each in sent} == {202}, "events are taken again")
    assert counted(server) == {f"m{n}": 1 for n in range(10)}, "whether or not the first call was carried out"


def test_out_of_memory_nothing_is_taken_and_nothing_told(ingest: Ingest, server: RedisServer) -> None:
    ingest.post(event(entity_id="before"))
    with server.client() as redis:
        redis.config_set("maxmemory", 1)
        try:
            for _ in range(3):
                assert_unavailable(ingest.post(event(entity_id="late")), RETRY_AFTER_S)
        finally:
            redis.config_set("maxmemory", 0)
    assert ingest.post(event(entity_id="after")).status_code == 202
    assert counted(server) == {"before": 1, "after": 1}


def test_a_redis_that_lost_its_memory_is_counted_on(ingest: Ingest, server: RedisServer) -> None:
    ingest.post(event(entity_id="a"))
    server.stop()
    server.start()
    wait_until(lambda: ingest.post(event(entity_id="b")).status_code == 202, "events are taken again")
    assert counted(server) == {"b": 1}
    with server.client() as redis:
        assert redis.hget("anl:layout", "shards") == b"1"


def test_a_redis_exchanged_for_one_laid_out_differently_is_not_touched(ingest: Ingest, server: RedisServer) -> None:
    ingest.post(event())
    server.stop()
    server.start()
    with server.client() as redis:
        redis.hset("anl:layout", mapping={"format": "1", "shards": "16", "dedupe_window_s": "172800", "epoch": "1"})
        wait_until(lambda: "differently" in ingest.client.get("/readyz").text, "the daemon has noticed")
        before = redis.keys()
        for _ in range(3):
            assert_unavailable(ingest.post(event()), RETRY_AFTER_S)
        assert redis.keys() == before == [b"anl:layout"]
        redis.delete("anl:layout")
    wait_until(lambda: ingest.post(event()).status_code == 202, "events are taken again")


# Scripts and signals under load -----------------------------------------------------------------------------------


def test_scripts_forgotten_under_load_fail_no_request(ingest: Ingest, server: RedisServer) -> None:
    with Load(ingest.url, spread=True).running() as load, server.client() as redis:
        for _ in range(20):
            load.wait_for_more(50)
            redis.script_flush()
    assert load.failures == []
    assert counted(server) == dict.fromkeys(load.labels, 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_answered_202_before_sigterm_is_counted(private: System, server: RedisServer, workers: int) -> None:
    with server.client() as redis:
        redis.flushall()
    with private.ingest(HTTP__WORKERS=str(workers)) as ingest, Load(ingest.url, spread=True).running() as load:
        load.wait_for_more(300)
        assert ingest.end() == 0
    found, acked = counted(server), load.labelled("acked")
    assert acked <= found.keys()
    assert found.keys() <= acked | load.labelled("unknown")
    assert set(found.values()) == {1}


# The rollback switch ----------------------------------------------------------------------------------------------


def test_switched_off_everything_is_accepted_and_nothing_stored(private: System, server: RedisServer) -> None:
    with server.client() as redis:
        redis.flushall()
        with private.ingest(ENABLED="false", RATE_LIMIT__PER_MINUTE="2") as ingest:
            for body in (event(), {}, b"{"):
                answer = ingest.post(body)
                assert (answer.status_code, answer.json()) == (202, {"status": "accepted"})
            answer = ingest.post([event(), event()], BATCH)
            assert answer.json() == {"status": "accepted", "accepted": 0, "duplicates": 0, "rejected": []}
            assert ingest.client.get("/healthz").status_code == 200
        assert set(redis.keys()) <= {b"anl:layout"}
