"""A Redis that comes back without what it answered: the workers send it again, and every event counts once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from daemon.devstack import process
from tests.kit.kill import Kill, held, kills
from tests.kit.pair import CutBack, Pair
from tests.kit.system import BATCH, EVENTS, WAIT_TIMEOUT_S, Ingest, System, event, wait_until

LONG = {"REDIS__UNSYNCED_MS": "60000"}
"""Nothing is safe while the test looks."""
SOON = {"REDIS__UNSYNCED_MS": "500"}
FAST = {"REDIS__RECONNECT_MS": "50", "SPOOL__PROBE_MS": "50"}


@pytest.fixture
def redis(system: System, tmp_path: Path) -> Iterator[CutBack]:
    with CutBack(tmp_path, appendfsync="always") as server:
        system.use_redis(server)
        system.flush()  # so that it is laid out, in an epoch that it does not forget
        yield server


@pytest.fixture
def pair(system: System, tmp_path: Path) -> Iterator[Pair]:
    with Pair(tmp_path).running() as found:
        system.env["TALLYD_REDIS__URL"] = f"{found.url.rstrip('/')}/0" if not found.url.endswith("/0") else found.url
        yield found


def rings(system: System) -> list[Path]:
    return sorted(Path(system.env["TALLYD_SPOOL__DIR"]).glob("*.ring"))


def post(ingest: Ingest, *events: dict[str, Any]) -> None:
    for one in events:
        assert ingest.post(one).status_code == 202


def some(n: int) -> list[dict[str, Any]]:
    return [event(entity_id=f"m{number % 7}") for number in range(n)]


def views(client: Any) -> int:
    """What is live in this Redis."""
    keys = list(client.scan_iter("anl:{0}:counters:*"))
    return sum(int(amount) for key in keys for amount in client.hgetall(key).values())


def waits(client: Any) -> int:
    """How often Redis was asked what its replicas hold."""
    return int(client.info("commandstats").get("cmdstat_wait", {}).get("calls", 0))


def test_what_redis_forgets_in_a_restart_is_sent_again(system: System, redis: CutBack) -> None:
    with system.ingest(**FAST, **LONG) as ingest:
        post(ingest, *some(10))
        length = redis.remember()
        post(ingest, *some(20))
        assert ingest.post(some(50), BATCH).status_code == 202
        redis.fall_back(length)
        wait_until(lambda: system.views() == 80, "all is counted again")
        ingest.says("were sent again")
    system.flush()
    assert system.tallyd("audit", "--deep").returncode == 0
    assert sum(counters["view"] for counters in system.rollup("totals").values()) == 80


def test_what_was_flushed_and_then_forgotten_counts_once(system: System, redis: CutBack) -> None:
    with system.ingest(**FAST, **LONG) as ingest:
        post(ingest, *some(10))
        length = redis.remember()
        post(ingest, *some(20))
        system.flush()
        redis.fall_back(length)
        wait_until(lambda: system.views() == 30, "all is counted again")
        system.flush()
    assert sum(counters["view"] for counters in system.rollup("totals").values()) == 30
    assert system.tallyd("audit", "--deep").returncode == 0


def test_what_a_promoted_replica_lacks_is_sent_again(system: System, pair: Pair) -> None:
    with system.ingest(**FAST, REDIS__REPLICAS="1") as ingest:
        post(ingest, *some(10))
        wait_until(lambda: not pair.lag(), "the replica has them")
        pair.stream.hold()
        post(ingest, *some(20))
        pair.fail_over()
        with pair.primary.client() as client:
            wait_until(lambda: views(client) == 30, "all is counted again")


@pytest.mark.parametrize("promised", ["1", "0"])
def test_a_call_is_kept_until_the_replica_has_it(system: System, pair: Pair, promised: str) -> None:
    """Also if nobody promised that there is one."""
    with system.ingest(**FAST, REDIS__REPLICAS=promised, REDIS__UNSYNCED_MS="0") as ingest:
        pair.stream.hold()
        post(ingest, *some(3))
        with pair.primary.client() as client:
            asked = waits(client)
            wait_until(lambda: waits(client) > asked + 2, "it asks")
        assert rings(system)
        pair.stream.deliver()
        wait_until(lambda: not rings(system), "it is confirmed")


def test_an_answer_waits_for_the_replica_if_that_is_asked_for(system: System, pair: Pair) -> None:
    """If it does not come in time, the spool has the event, too."""
    options = FAST | {"REDIS__REPLICAS": "1", "REDIS__DURABILITY": "replicated", "REDIS__TIMEOUT_MS": "4000"}
    with system.ingest(**options) as ingest, ThreadPoolExecutor(1) as pool:
        post(ingest, event())
        pair.stream.hold()
        sent = pool.submit(ingest.post, event())
        with pair.primary.client() as client:
            wait_until(lambda: views(client) == 2, "Redis has it")
            assert not sent.done()
            pair.stream.deliver()
            assert sent.result(WAIT_TIMEOUT_S).status_code == 202
            pair.stream.hold()
            assert ingest.post(event()).status_code == 202
            assert list(Path(system.env["TALLYD_SPOOL__DIR"]).glob("*.[os]*")), "the spool has it, too"
            pair.stream.deliver()
            wait_until(lambda: not list(Path(system.env["TALLYD_SPOOL__DIR"]).glob("*.[os]*")), "it is replayed")
            assert views(client) == 3


@kills("daemon.ingest.unconfirmed")
def test_a_worker_that_is_killed_with_redis_leaves_its_calls_to_the_next(
    system: System, redis: CutBack, kill: Kill
) -> None:
    """The client sends the event again if it had no answer."""
    port, one = process.free_port(), event()
    url = f"http://127.0.0.1:{port}"
    options = FAST | (LONG if kill.step in ("keep", "answer", "send_again") else SOON)
    length = redis.remember()
    with (
        held(system, kill, "ingest", "--port", str(port), REDIS__TIMEOUT_MS="20000", **options) as worker,
        ThreadPoolExecutor(1) as pool,
    ):
        worker.daemon.wait_up(url)
        sent = pool.submit(httpx.post, url + EVENTS, json=one, timeout=WAIT_TIMEOUT_S)
        if kill.step == "keep":
            worker.wait()
        else:
            assert sent.result().status_code == 202
        if kill.step == "send_again":
            redis.fall_back(length)
        if kill.step not in ("keep", "answer"):
            worker.wait()
        worker.kill()
        answered = sent.exception() is None
    is_safe = kill.step == "delete" or (kill.step, kill.after) == ("confirm", True)
    if not is_safe:
        redis.fall_back(length)
    with system.ingest(**FAST) as ingest:
        if answered:
            wait_until(lambda: system.views() == 1, "it is counted")
        post(ingest, one)
    assert system.views() == 1


def test_nothing_is_left_once_it_is_safe(system: System, redis: CutBack) -> None:
    with system.ingest(**FAST, **SOON) as ingest:
        post(ingest, *some(5))
        assert rings(system)
        wait_until(lambda: not rings(system), "it is safe")
        post(ingest, *some(5))
        assert rings(system)
        assert ingest.end() == 0
    assert rings(system), "what was not confirmed is left for the next worker"
    with system.ingest(**FAST, **SOON):
        wait_until(lambda: not rings(system), "it takes them")
    assert system.views() == 10


def test_with_every_write_synced_nothing_is_kept(system: System, redis: CutBack) -> None:
    with system.ingest(**FAST, REDIS__UNSYNCED_MS="0") as ingest:
        post(ingest, event())
        wait_until(lambda: not rings(system), "Redis said that it has no replicas")
        post(ingest, *some(5))
        assert not rings(system)


def test_what_a_limit_refused_is_not_counted_when_its_call_comes_again(system: System, redis: CutBack) -> None:
    with system.ingest(**FAST, **LONG, RATE_LIMIT__PER_MINUTE="60") as ingest:
        length = redis.remember()
        answer = ingest.post(some(70), BATCH)
        assert answer.status_code in (202, 207, 429)
        counted = system.views()
        assert 0 < counted < 70
        redis.fall_back(length)
        wait_until(lambda: system.views() == counted, "it is counted again")
        ingest.says("were sent again")
    assert system.views() == counted


def test_a_redis_that_lost_all_its_memory_is_sent_nothing_again(system: System, redis: CutBack) -> None:
    """It knows no ids, and what it counted may have been flushed."""
    with system.ingest(**FAST, **LONG) as ingest:
        post(ingest, *some(5))
        system.flush()
        redis.fall_back(0)
        ingest.says("are not sent again")
        post(ingest, event())
        wait_until(lambda: system.views() == 1, "it counts")
    system.flush()
    assert sum(counters["view"] for counters in system.rollup("totals").values()) == 6


def test_above_its_bound_events_go_to_the_spool(system: System, redis: CutBack) -> None:
    options = FAST | LONG | {"REDIS__UNCONFIRMED_BYTES_MAX": "65536", "HTTP__BATCH_EVENTS_MAX": "2000"}
    with system.ingest(**options) as ingest:
        for _ in range(3):
            assert ingest.post([event() for _ in range(1_000)], BATCH).status_code == 202
        assert list(Path(system.env["TALLYD_SPOOL__DIR"]).glob("*.[os]*"))


def test_a_folder_of_a_lost_host_has_its_calls_counted_elsewhere(
    system: System, redis: CutBack, tmp_path: Path
) -> None:
    length = redis.remember()
    with system.ingest(**FAST, **LONG, SPOOL__DIR=str(tmp_path / "b")) as ingest:
        post(ingest, *some(5))
        ingest.kill()
    redis.fall_back(length)
    assert system.views() == 0
    system.tallyd("replay", "--from", str(tmp_path / "b"))
    assert system.views() == 5


def test_an_import_ends_once_redis_can_no_longer_forget_it(system: System, redis: CutBack, tmp_path: Path) -> None:
    """If Redis is killed before, the import says so, and the same command goes on."""
    log = tmp_path / "events.ndjson"
    log.write_bytes(b"\n".join(msgspec.json.encode(event(entity_id=f"m{n}")) for n in range(20)) + b"\n")
    length = redis.remember()
    with ThreadPoolExecutor(1) as pool:
        importing = pool.submit(system.tallyd_apart, "import", str(log), check=False, **LONG)
        wait_until(lambda: system.views() == 20, "it is counted")
        redis.fall_back(length)
        done = importing.result(WAIT_TIMEOUT_S)
    assert (done.returncode, "Run the same command again" in done.stdout + done.stderr) == (1, True)
    assert system.views() == 0
    system.tallyd("import", str(log))
    assert system.views() == 20


def test_what_the_replica_holds_is_kept_as_long_as_the_file_may_lack_it(system: System, pair: Pair) -> None:
    """Redis can be started again from its file before the replica takes over."""
    with system.ingest(**FAST, **LONG, REDIS__REPLICAS="1") as ingest:
        post(ingest, *some(3))
        wait_until(lambda: not pair.lag(), "the replica has them")
        with pair.primary.client() as client:
            asked = waits(client)
            wait_until(lambda: waits(client) > asked + 2, "it asks")
        assert rings(system)
