"""Daemons that stop, give way to another, or take a new configuration, under load: nothing lost, nobody turned away."""

from __future__ import annotations

import datetime as dt
import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from daemon.buffer import scripts
from daemon.devstack import process
from tests.kit.commands import TALLYD, UNPRIVILEGED
from tests.kit.daemon import Daemon
from tests.kit.load import Load
from tests.kit.proxy import Gate
from tests.kit.system import BATCH, EVENTS, System, event, expected_rollups, wait_until
from tests.kit.wire import Wire, request

DAY = dt.date(2026, 2, 19)
FAST = {"FLUSH__INTERVAL_S": "0.1", "FLUSH__LEASE_MS": "1000"}


@contextmanager
def ingest(system: System, url: str, *, root: bool = False, **env: str) -> Iterator[Daemon]:
    """A `tallyd ingest` of an ordinary user, or of root. It answers at `url`, beside others there perhaps."""
    command = TALLYD if root else (*UNPRIVILEGED, *TALLYD)
    with Daemon(system, "ingest", "--port", url.rpartition(":")[2], command=command, **env) as daemon:
        daemon.wait_up(url)
        wait_until(lambda: "Ready: " in daemon.text(), "all its workers are up")
        yield daemon


@pytest.fixture
def url() -> str:
    return f"http://127.0.0.1:{process.free_port()}"


def refuses(url: str) -> bool:
    try:
        Wire(url).close()
    except ConnectionRefusedError:
        return True
    return False


def assert_exact(system: System, load: Load) -> None:
    """What is true of the counts before anyone has sent anything again."""
    assert load.count("rejected") == 0
    assert load.count("acked") <= system.views() <= load.count("acked") + load.count("unknown")


# Ingest stops -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "root"), [("1", False), ("2", False), ("2", True)])
def test_ingest_stops_under_load_and_every_event_is_answered_or_unknown(
    system: System, url: str, workers: str, *, root: bool
) -> None:
    with ingest(system, url, root=root, HTTP__WORKERS=workers) as daemon, Load(url).running() as load:
        load.wait_for_more()
        assert daemon.end() == 0
        assert "Traceback" not in daemon.text()
    assert_exact(system, load)
    refused = [failure for failure in load.failures if failure.startswith("connecting: ")]
    if root:
        assert load.failures == refused, "a request that had been sent was not answered"
    else:  # without a filter, a client that connects at the moment of the stop may be reset, unread
        others = set(load.failures) - set(refused)
        assert all("ConnectionResetError" in failure or "RemoteDisconnected" in failure for failure in others), others
    with ingest(system, url):
        load.resend(url)
    assert system.views() == load.count("acked") == len(load.labels)


def test_signals_that_interrupt_each_other_stop_it_all_the_same(system: System, url: str) -> None:
    with ingest(system, url) as daemon:
        until_s = time.monotonic() + 1
        while time.monotonic() < until_s:
            daemon.send(signal.SIGHUP)
        for _ in range(100):
            daemon.send(signal.SIGTERM)
        assert daemon.process.wait(60) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_requests_that_wait_for_redis_are_answered_before_ingest_ends(system: System, url: str, workers: str) -> None:
    requests = 16
    with Gate(system.env["TALLYD_REDIS__URL"], scripts.INGEST.sha.encode()).running() as gate:
        env = {"REDIS__URL": gate.url(), "REDIS__TIMEOUT_MS": "20000", "HTTP__WORKERS": workers}
        with ingest(system, url, **env) as daemon, ExitStack() as stack:
            wires = [stack.enter_context(Wire(url)) for _ in range(requests)]
            for wire in wires:
                wire.send(request(json.dumps(event()).encode()))
            assert gate.tripped.wait(20)
            daemon.send(signal.SIGTERM)
            wait_until(lambda: refuses(url), "it takes no new connections")
            assert daemon.process.poll() is None
            gate.release()
            assert [wire.answer().status for wire in wires] == [202] * requests
            assert daemon.process.wait(20) == 0
    assert system.views() == requests


def test_a_client_that_never_finishes_keeps_ingest_no_longer_than_its_deadline(system: System, url: str) -> None:
    good = json.dumps(event()).encode()
    with ExitStack() as stack:
        env = {"HTTP__DRAIN_TIMEOUT_S": "1", "HTTP__BODY_TIMEOUT_MS": "60000", "HTTP__WORKERS": "2"}
        daemon = stack.enter_context(ingest(system, url, **env))
        half_bodies = [stack.enter_context(Wire(url)) for _ in range(4)]
        half_heads = [stack.enter_context(Wire(url)) for _ in range(2)]
        for wire in half_bodies:
            wire.send(request(good)[:-5])
        for wire in half_heads:
            wire.send(request(good)[:30])
        assert httpx.post(url + EVENTS, json=event()).status_code == 202
        daemon.end(15)
        for wire in half_bodies:
            answer = wire.answer()
            assert answer.status == 408
            assert answer.headers["connection"] == "close"
    assert system.views() == 1


def test_a_worker_whose_main_process_was_killed_ends_by_itself(system: System, url: str) -> None:
    with ingest(system, url, HTTP__WORKERS="2", HTTP__CLOSING_MS="1") as daemon:
        workers = daemon.workers()
        assert len(workers) == 2
        daemon.process.kill()
        daemon.process.wait()
        wait_until(lambda: not any(each.is_running() and each.status() != "zombie" for each in workers), "they end")


# A rolling restart ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", [False, True])
def test_a_rolling_restart_of_two_daemons_on_one_port_fails_no_request(system: System, url: str, *, root: bool) -> None:
    with ExitStack() as stack:
        running = [stack.enter_context(ingest(system, url, root=root, HTTP__WORKERS=workers)) for workers in ("1", "2")]
        with Load(url).running() as load:
            for workers in ("2", "1"):
                load.wait_for_more()
                assert running.pop(0).end() == 0
                running.append(stack.enter_context(ingest(system, url, root=root, HTTP__WORKERS=workers)))
            load.wait_for_more()
    assert load.failures == []
    assert system.views() == load.count("acked") == len(load.labels)


# Reload -----------------------------------------------------------------------------------------------------------


def reload(daemon: Daemon, file: Path, text: str, outcome: str = "Reloaded; ") -> None:
    """Writes the file, sends SIGHUP, and waits for one more log line with this outcome."""
    before = daemon.text().count(outcome)
    file.write_text(text)
    daemon.send(signal.SIGHUP)
    wait_until(lambda: daemon.text().count(outcome) > before, f"{outcome!r} in {daemon.log}")


def test_ingest_takes_a_new_configuration_without_failing_a_request(system: System, url: str) -> None:
    del system.env["TALLYD_RATE_LIMIT__PER_MINUTE"]  # the environment would win over the file
    off = "[rate_limit]\nper_minute = 0\n"
    file = system.scratch / "tallyd.toml"
    file.write_text(off)
    with ingest(system, url, HTTP__WORKERS="2", CONFIG=str(file)) as daemon:
        port, workers = int(url.rpartition(":")[2]), daemon.workers()
        with Load(url, clients=4).running() as load:
            load.wait_for_more()
            reload(daemon, file, "enabled = false\n" + off)
            accepted = system.views()
            answers = [httpx.post(url + BATCH, json=[event()]).json() for _ in range(8)]
            assert [answer["accepted"] for answer in answers] == [0] * 8, "both workers answer and discard"
            load.wait_for_more()
            assert system.views() - accepted <= 4, "but for what was under way"
            reload(daemon, file, off)
            answers = [httpx.post(url + BATCH, json=[event()]).json() for _ in range(8)]
            assert [answer["accepted"] for answer in answers] == [1] * 8

            reload(daemon, file, "enabled = maybe\n", "Not reloaded")
            reload(daemon, file, "[rate_limit]\nper_minute = -1\n[http]\nprot = 1\n", "Not reloaded")
            assert all(key in daemon.text() for key in ("rate_limit.per_minute", "http.prot")), "every problem is named"
            load.wait_for_more()
            reload(daemon, file, f"{off}[http]\nport = {port + 1}\nevent_bytes_max = 300\n")
            assert "only after the next start: http.port" not in daemon.text(), "the command line named the port"
            assert httpx.post(url + EVENTS, content=b" " * 301).status_code == 413
            reload(daemon, file, f"{off}[dedupe]\nwindow_s = 10\n")
            assert "only after the next start: dedupe.window_s" in daemon.text()
            load.wait_for_more()
        assert load.failures == []
        assert load.count("acked") == len(load.labels)

        reload(daemon, file, "[rate_limit]\nper_minute = 3\n")
        statuses = [httpx.post(url + EVENTS, json=event()).status_code for _ in range(6)]
        assert statuses == [202] * 3 + [429] * 3
        assert daemon.workers() == workers, "nobody was exchanged"
        assert daemon.end() == 0


def test_flush_takes_a_new_configuration_between_two_claims(system: System) -> None:
    file = system.scratch / "tallyd.toml"
    file.write_text("[flush]\ninterval_s = 3600\nthreshold = 1000000\n")
    with Daemon(system, "flush", CONFIG=str(file)) as daemon:
        daemon.says("Flushing every 3600 s")
        system.count(event(entity_id="m"))
        reload(daemon, file, "[flush]\ninterval_s = 0\n", "Not reloaded")
        reload(daemon, file, "[redis]\nshards = 2\n", "Not reloaded")  # the data says otherwise
        reload(daemon, file, "[flush]\ninterval_s = 0.1\n")
        daemon.says("Flushing every 0.1 s")
        wait_until(lambda: system.rollup("totals") == {"jav:movie:m": {"view": 1}}, "it flushes")
        system.count(event(entity_id="m"))
        wait_until(lambda: system.rollup("totals") == {"jav:movie:m": {"view": 2}}, "it goes on flushing")
        assert daemon.end() == 0
        assert "Traceback" not in daemon.text()


# Flush stops ------------------------------------------------------------------------------------------------------


def test_flush_stopped_under_load_again_and_again_counts_exactly(system: System, url: str) -> None:
    stop = threading.Event()

    def flush() -> int:
        rounds = 0
        while not stop.is_set():
            with Daemon(system, "flush", **FAST) as daemon:
                daemon.says("Flushing every")
                stop.wait(0.3)
                assert daemon.end() == 0
            rounds += 1
        return rounds

    with ingest(system, url), Load(url, clients=4).running() as load, ThreadPoolExecutor(2) as pool:
        flushing = [pool.submit(flush) for _ in range(2)]
        load.wait_for_more(500)
        stop.set()
        assert min(each.result() for each in flushing) >= 1
    assert load.failures == []
    system.flush()
    assert system.rollups() == expected_rollups([("jav:movie:m", "view", DAY, load.count("acked"))])


@contextmanager
def flusher_at_the_weekly_bulk(system: System, **env: str) -> Iterator[tuple[Daemon, Gate]]:
    """A flusher that MongoDB keeps waiting in the middle of a claim of one event."""
    with Gate(system.env["TALLYD_MONGO__URL"], b"analytics_entity_weekly").running() as gate:
        gate.release()  # the indexes may be made
        with Daemon(system, "flush", MONGO__URL=gate.url(), **FAST, **env) as daemon:
            daemon.says("Flushing every")
            gate.shut()
            system.count(event(entity_id="m"))
            assert gate.tripped.wait(20)
            yield daemon, gate


def test_flush_finishes_the_claim_under_way_before_it_ends(system: System) -> None:
    with flusher_at_the_weekly_bulk(system) as (daemon, gate):
        daemon.send(signal.SIGTERM)
        time.sleep(0.3)
        assert daemon.process.poll() is None, "it waits for MongoDB"
        gate.release()
        assert daemon.process.wait(20) == 0
    assert system.rollups() == expected_rollups([("jav:movie:m", "view", DAY, 1)])
    assert not system.redis.hexists("anl:{0}:claim", "seq"), "and is acknowledged"


def test_flush_leaves_a_claim_that_takes_too_long_to_the_next(system: System) -> None:
    with flusher_at_the_weekly_bulk(system, FLUSH__STOP_TIMEOUT_S="1") as (daemon, _):
        assert daemon.end(15) == 0
        assert "It is left to the next flusher" in daemon.text()
        assert "Traceback" not in daemon.text()
    system.flush()
    assert system.rollups() == expected_rollups([("jav:movie:m", "view", DAY, 1)])


def test_flush_ends_while_it_waits_for_a_store_at_its_start(system: System) -> None:
    with (
        Gate(system.env["TALLYD_MONGO__URL"], b"createIndexes").running() as gate,
        Daemon(system, "flush", MONGO__URL=gate.url(), FLUSH__STOP_TIMEOUT_S="1") as daemon,
    ):
        assert gate.tripped.wait(20)
        assert daemon.end(20) == 0
