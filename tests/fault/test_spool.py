"""Redis away, in every way it can be: nothing that was answered 202 is lost, and nothing is counted twice."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from daemon.buffer import scripts
from daemon.devstack import process
from daemon.spool.register import NAME_FILE
from tests.kit.kill import Kill, Stop, held, killed, kills
from tests.kit.proxy import Fault, Proxy
from tests.kit.servers import RedisServer
from tests.kit.system import BATCH, EVENTS, WAIT_TIMEOUT_S, Ingest, System, event, wait_until
from tests.unit.spool.test_strays import STRAYS

PERSISTENT = ("--appendonly", "yes", "--appendfsync", "always")
FAST = {"TALLYD_REDIS__TIMEOUT_MS": "500", "TALLYD_SPOOL__PROBE_MS": "50", "TALLYD_REDIS__RECONNECT_MS": "50"}


@pytest.fixture
def own_redis(system: System, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis the test may hurt, in place of the shared one."""
    with RedisServer(7, tmp_path / "redis", *PERSISTENT) as server:
        system.env |= FAST
        system.use_redis(server)
        yield server


def spool_files(system: System) -> list[Path]:
    folder = Path(system.env["TALLYD_SPOOL__DIR"])
    return sorted(folder.glob("*.open")) + sorted(folder.glob("*.seg"))


def replayed(system: System) -> None:
    wait_until(lambda: not spool_files(system), "the spool is empty")


def post_some(ingest: Ingest, events: list[dict[str, Any]]) -> None:
    for one in events:
        assert ingest.post(one).status_code == 202


def test_events_wait_for_a_redis_that_is_down_and_are_counted_once(system: System, own_redis: RedisServer) -> None:
    events = [event(entity_id=f"m{n % 7}") for n in range(60)]
    with system.ingest() as ingest:
        post_some(ingest, events[:20])
        own_redis.stop()
        post_some(ingest, events[20:40])
        assert ingest.post(events[:40], BATCH).status_code == 202  # again, with the same ids
        assert spool_files(system)
        assert ingest.client.get("/readyz").json() == {"status": "spooling"}
        status = system.tallyd("status", check=False)
        assert status.returncode == 1
        assert "Spool: 1 segments" in status.stdout
        own_redis.start()
        replayed(system)
        post_some(ingest, events[40:])
        wait_until(lambda: ingest.client.get("/readyz").json() == {"status": "ready"}, "it counts in Redis again")
    assert system.views() == 60
    system.flush()
    assert sum(counters["view"] for counters in system.rollup("totals").values()) == 60


def test_a_redis_that_is_frozen_past_its_timeout(system: System, own_redis: RedisServer) -> None:
    with system.ingest() as ingest:
        post_some(ingest, [event()])
        own_redis.freeze()
        post_some(ingest, [event() for _ in range(20)])
        own_redis.thaw()
        replayed(system)
        # The first call was in the server's hands when it was frozen: it ran later, and its replay was a duplicate.
        assert system.views() == 21


@pytest.mark.parametrize(
    ("setting", "bad", "good"),
    [
        ("maxmemory", "1", "0"),
        ("replicaof", "127.0.0.1 1", "no one"),
        ("min-replicas-to-write", "3", "0"),
    ],
)
def test_a_redis_that_refuses_to_write(
    system: System, own_redis: RedisServer, setting: str, bad: str, good: str
) -> None:
    def configure(value: str) -> None:
        if setting == "replicaof":
            system.redis.execute_command("REPLICAOF", *value.split())
        else:
            system.redis.config_set(setting, value)

    with system.ingest() as ingest:
        post_some(ingest, [event()])
        configure(bad)
        post_some(ingest, [event() for _ in range(10)])
        assert spool_files(system)
        configure(good)
        replayed(system)
        assert system.views() == 11
        post_some(ingest, [event()])
        assert system.views() == 12


def test_a_lost_reply_is_not_counted_twice(system: System, own_redis: RedisServer) -> None:
    marker = scripts.INGEST.sha.encode()
    system.count(event(entity_id="warm"))  # so that the script is loaded and its first call by sha is the one lost
    with (
        Proxy(own_redis.url, marker, Fault.LOSE_REPLY).running() as proxy,
        system.ingest(REDIS__URL=proxy.url()) as ingest,
    ):
        post_some(ingest, [event() for _ in range(5)])
        assert proxy.tripped.is_set()
        replayed(system)
        assert system.views() == 6
        assert system.ledger()["duplicate:view"] >= 1


def test_a_redis_restarted_empty_goes_on_counting(system: System, own_redis: RedisServer) -> None:
    with system.ingest() as ingest:
        post_some(ingest, [event() for _ in range(3)])
        system.flush()
        system.redis.flushall()
        system.redis.script_flush()
        system.redis.client_kill_filter(_type="normal", skipme=True)
        post_some(ingest, [event() for _ in range(4)])
        replayed(system)
    system.flush()
    assert sum(counters["view"] for counters in system.rollup("totals").values()) == 7
    assert system.tallyd("audit").returncode == 0


@kills("daemon.ingest.durable")
def test_an_event_counts_once_whatever_its_worker_was_killed_at(
    system: System, own_redis: RedisServer, kill: Kill
) -> None:
    """Redis is away, but at `send`. The client sends the event again if it had no answer."""
    port, one = process.free_port(), event()
    url = f"http://127.0.0.1:{port}"
    with (
        held(system, kill, "ingest", "--port", str(port), REDIS__TIMEOUT_MS="20000") as worker,
        ThreadPoolExecutor(1) as pool,
    ):
        worker.daemon.wait_up(url)
        if kill.step != "send":
            own_redis.stop()
        sent = pool.submit(httpx.post, url + EVENTS, json=one, timeout=WAIT_TIMEOUT_S)
        if kill.step == "answer":
            assert sent.result().status_code == 202
        else:
            worker.wait()
        worker.kill()
        assert (sent.exception() is None) is (kill.step == "answer")
    assert [path.suffix for path in spool_files(system)] == [".open"] * (kill.step != "send")
    own_redis.start()
    with system.ingest(HTTP__WORKERS="2") as ingest:
        replayed(system)
        is_replayed = kill.step in ("fsync", "answer") or (kill.step, kill.after) == ("append", True)
        assert system.views() == (is_replayed or (kill.step, kill.after) == ("send", True))
        post_some(ingest, [one])
    assert system.views() == 1
    assert not (Path(system.env["TALLYD_SPOOL__DIR"]) / "damaged").exists()


@kills("daemon.spool.replay")
def test_a_killed_replay_run_again_counts_every_event_once(system: System, own_redis: RedisServer, kill: Kill) -> None:
    """Of three records, one damaged."""
    folder = Path(system.env["TALLYD_SPOOL__DIR"])
    with system.ingest() as ingest:
        own_redis.stop()
        for _ in range(3):
            post_some(ingest, [event()])
    own_redis.start()
    [segment] = spool_files(system)
    whole = segment.read_bytes()
    start = whole.index(b"\n") + 1
    middle = start + (len(whole) - start) // 2
    segment.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
    killed(system, kill, "replay", SPOOL__REPLAY_CALL_EVENTS_MAX="1")
    assert system.tallyd_here("replay")[0] == 0
    assert system.views() == 2
    [aside] = (folder / "damaged").iterdir()
    assert aside.stat().st_mode & 0o077 == 0
    assert not spool_files(system)


def test_a_stopped_daemon_seals_its_spool_and_replay_empties_it_by_hand(system: System, own_redis: RedisServer) -> None:
    with system.ingest() as ingest:
        own_redis.stop()
        post_some(ingest, [event() for _ in range(5)])
    assert [path.suffix for path in spool_files(system)] == [".seg"]
    assert system.tallyd("replay", check=False).returncode == 1
    own_redis.start()
    assert "5 events of 1 segments replayed: 5 were new" in system.tallyd("replay").stdout
    assert "0 events of 0 segments" in system.tallyd("replay").stdout
    assert system.views() == 5


def test_a_torn_tail_is_cut_off_and_damage_in_the_middle_is_set_aside(system: System, own_redis: RedisServer) -> None:
    with system.ingest() as ingest:
        own_redis.stop()
        for _ in range(3):  # a record each
            post_some(ingest, [event()])
        ingest.kill()
    (segment,) = spool_files(system)
    whole = segment.read_bytes()
    start = whole.index(b"\n") + 1
    middle = start + (len(whole) - start) // 2
    segment.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :] + whole[-40:-20])
    own_redis.start()
    text = system.tallyd("replay").stdout
    assert "2 events of 1 segments replayed" in text
    assert system.views() == 2
    assert len(list((segment.parent / "damaged").iterdir())) == 1
    assert "1 files of damaged bytes" in system.tallyd("status").stdout


def test_a_full_spool_answers_503_and_takes_events_again_when_it_is_empty(
    system: System, own_redis: RedisServer
) -> None:
    system.env |= {"TALLYD_SPOOL__BYTES_MAX": "1048576", "TALLYD_HTTP__BATCH_BYTES_MAX": "1000000"}
    sent = 0
    with system.ingest() as ingest:
        own_redis.stop()
        answers = []
        for _ in range(8):
            batch = [event(event_id=f"{n:>0200}{sent}") for n in range(2000)]
            answers.append(ingest.post(batch, BATCH))
            sent += 1
            if answers[-1].status_code != 202:
                break
        assert answers[-1].status_code == 503
        assert int(answers[-1].headers["retry-after"]) >= 1
        own_redis.start()
        replayed(system)
        wait_until(lambda: ingest.post(event()).status_code == 202, "it takes events again")
    assert system.views() >= 2000 * sum(answer.status_code == 202 for answer in answers) + 1


def test_a_full_disk_answers_503_and_loses_nothing_that_was_accepted(system: System, own_redis: RedisServer) -> None:
    """The disk is a file-size limit of the process: a write past it fails half-way, as on a full disk."""
    with system.ingest() as ingest:
        workers = [worker.pid for worker in ingest.workers()]
        own_redis.stop()
        post_some(ingest, [event() for _ in range(3)])
        (segment,) = spool_files(system)
        for pid in workers:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (segment.stat().st_size + 100, resource.RLIM_INFINITY))
        statuses = [ingest.post(event()).status_code for _ in range(5)]
        assert 503 in statuses
        for pid in workers:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        own_redis.start()
        replayed(system)
        assert system.views() == 3 + statuses.count(202)
    assert not list(segment.parent.glob("damaged/*"))


def test_new_events_flow_while_a_replay_runs(system: System, own_redis: RedisServer) -> None:
    """Redis does not answer the third call of the replay."""
    marker = scripts.INGEST.sha.encode()
    with (
        Proxy(own_redis.url, marker, Fault.HOLD_REQUEST, nth=3, keep=True).running() as proxy,
        system.ingest(REDIS__URL=proxy.url(), REDIS__TIMEOUT_MS="20000") as ingest,
    ):
        own_redis.stop()
        for _ in range(10):
            assert ingest.post([event(entity_id=f"m{n}") for n in range(500)], BATCH).status_code == 202
        own_redis.start()
        assert proxy.tripped.wait(WAIT_TIMEOUT_S)
        post_some(ingest, [event() for _ in range(20)])
        assert spool_files(system)
        proxy.release()
        replayed(system)
        assert system.views() == 5_020


def test_strays_in_the_spool_hold_up_nothing_and_every_command_names_them(
    system: System, own_redis: RedisServer
) -> None:
    folder = Path(system.env["TALLYD_SPOOL__DIR"])
    folder.mkdir()
    for name, make in STRAYS.values():
        if not os.path.lexists(folder / name):
            make(folder / name)
    (folder / NAME_FILE).touch()  # the one file that a daemon would add
    before = set(folder.iterdir())
    with system.ingest() as ingest:
        own_redis.stop()
        post_some(ingest, [event() for _ in range(5)])
        assert "left as they are" in system.tallyd("status", check=False).stdout
        own_redis.start()
        wait_until(lambda: system.views() == 5, "the spool is replayed")
        wait_until(lambda: ingest.client.get("/readyz").json() == {"status": "ready"}, "it counts in Redis again")
        post_some(ingest, [event()])
        wait_until(lambda: set(folder.iterdir()) == before, "its own segment is gone, and no other file")
        said = ingest.text()
    assert said.count("#x.seg in the spool") == 1
    assert "Traceback" not in said
    assert system.views() == 6
    assert r"'\udcff" not in system.tallyd("status").stdout
    for command in ("status", "audit", "replay", "doctor"):
        done = system.tallyd(command, check=False)
        assert "Traceback" not in done.stdout + done.stderr
        assert "#x.seg" in done.stdout, done.stdout + done.stderr
    assert {each["name"] for each in system.audit()["spool_strays"]} >= {"#x.seg", "y.seg"}
    assert set(folder.iterdir()) == before


def test_a_disk_that_hangs_is_said_refuses_events_and_stops_the_pulse_until_it_moves(
    system: System, own_redis: RedisServer
) -> None:
    kill = Kill("fsync", Stop("disk", b"fsync .open", nth=2), Fault.HOLD_REQUEST)
    port = process.free_port()
    url = f"http://127.0.0.1:{port}"
    metrics = process.free_port()
    env = {"SPOOL__TIMEOUT_MS": "300", "HTTP__METRICS_PORT": str(metrics)}
    with held(system, kill, "ingest", "--port", str(port), **env) as worker:
        worker.daemon.wait_up(url)
        own_redis.stop()
        for _ in range(3):
            assert httpx.post(url + EVENTS, json=event(), timeout=WAIT_TIMEOUT_S).status_code == 503
        answer = httpx.get(url + "/readyz")
        assert answer.status_code == 503
        assert answer.json() == {"status": "unavailable", "stuck": "A write to the spool"}
        worker.daemon.says("A write to the spool takes longer than its bound")
        assert 'tallyd_ingest_faults_total{what="stuck"} 1.0' in httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
        (system.scratch / "reached").unlink()
        wait_until(lambda: httpx.get(url + "/readyz").json() == {"status": "spooling"}, "the disk moves")
        assert httpx.post(url + EVENTS, json=event(), timeout=WAIT_TIMEOUT_S).status_code == 202
        own_redis.start()
        replayed(system)


def spooled(system: System, redis: RedisServer, events: int = 5) -> None:
    """Its ingest has counted one event, and is killed with others in its spool. Redis is down."""
    with system.ingest() as ingest:
        post_some(ingest, [event()])
        redis.stop()
        post_some(ingest, [event() for _ in range(events)])
        ingest.kill()


def test_two_systems_with_one_spool_never_count_each_others_events(
    system: System, own_redis: RedisServer, tmp_path: Path
) -> None:
    spooled(system, own_redis)
    [segment] = spool_files(system)
    with RedisServer(7, tmp_path / "other") as other, other.client() as redis:
        with system.ingest(REDIS__URL=other.url) as theirs:
            post_some(theirs, [event()])
            theirs.says("is left as it is: its events are for the Redis at")
            other.stop()
            post_some(theirs, [event() for _ in range(2)])
            assert len(spool_files(system)) == 2
            other.start()
            wait_until(lambda: spool_files(system) == [segment], "its own segment is replayed")
            assert theirs.text().count("is left as it is") == 1
        for command in ("status", "audit", "replay"):
            assert segment.name in system.tallyd(command, REDIS__URL=other.url).stdout
        assert "redis.spool" in system.tallyd("doctor", "--strict", check=False, REDIS__URL=other.url).stdout
        assert redis.hget("anl:{0}:ledger", "accepted:view") == b"2", "its Redis has no persistence"
        own_redis.start()
        assert "5 events of 1 segments" in system.tallyd("replay").stdout
        assert system.views() == 6


def test_the_operator_may_take_in_the_segments_of_another_redis(
    system: System, own_redis: RedisServer, tmp_path: Path
) -> None:
    spooled(system, own_redis)
    with RedisServer(7, tmp_path / "other") as other:
        system.use_redis(other)
        assert "0 events of 0 segments" in system.tallyd("replay").stdout
        assert "5 events of 1 segments" in system.tallyd("replay", "--foreign").stdout
        assert system.views() == 5


def test_a_redis_that_lost_its_memory_gets_the_events_that_were_spooled_for_it(
    system: System, own_redis: RedisServer
) -> None:
    spooled(system, own_redis)
    shutil.rmtree(own_redis.data)
    own_redis.data.mkdir()
    own_redis.start()
    with system.ingest():
        replayed(system)
    assert system.views() == 5


def test_a_redis_that_moved_gets_the_events_that_were_spooled_for_it(
    system: System, own_redis: RedisServer, tmp_path: Path
) -> None:
    spooled(system, own_redis)
    moved = RedisServer(7, tmp_path / "moved", *PERSISTENT)
    shutil.copytree(own_redis.data, moved.data, dirs_exist_ok=True)
    with moved:
        system.use_redis(moved)
        with system.ingest():
            replayed(system)
        assert system.views() == 6


def test_a_segment_of_0_2_0_is_replayed_by_whoever_finds_it(
    system: System, own_redis: RedisServer, tmp_path: Path
) -> None:
    spooled(system, own_redis)
    [segment] = spool_files(system)
    segment.write_bytes(b"tallyd spool 1\n" + segment.read_bytes().partition(b"\n")[2])
    with RedisServer(7, tmp_path / "other") as other:
        system.use_redis(other)
        assert "5 events of 1 segments" in system.tallyd("replay").stdout


def test_events_wait_while_another_node_of_the_cluster_has_their_slot(system: System, tmp_path: Path) -> None:
    """Redis refuses the replay, too. An answered event stays in its segment, and is never set aside."""
    folder, bus = Path(system.env["TALLYD_SPOOL__DIR"]), str(process.free_port())
    cluster = ("--cluster-enabled", "yes")
    with (
        RedisServer(7, tmp_path / "one", *cluster) as one,
        RedisServer(7, tmp_path / "two", *cluster, "--cluster-port", bus) as two,
        two.client() as other,
    ):
        system.env |= FAST
        system.use_redis(one)
        run = system.redis.execute_command
        run("CLUSTER ADDSLOTSRANGE", 0, 16_383)
        wait_until(lambda: run("CLUSTER INFO")["cluster_state"] == "ok", "the cluster is up")
        first, second = run("CLUSTER MYID").decode(), other.execute_command("CLUSTER MYID").decode()
        run("CLUSTER MEET", "127.0.0.1", two.port, bus)
        wait_until(lambda: second in str(run("CLUSTER NODES")), "the nodes know each other")
        slot = run("CLUSTER KEYSLOT", "anl:{0}:dirty")
        system.redis.config_set("min-replicas-to-write", 3)
        with system.ingest() as ingest:
            post_some(ingest, [event() for _ in range(3)])
        system.redis.config_set("min-replicas-to-write", 0)
        for state, refusal in (("MIGRATING", "ASK"), ("NODE", "MOVED")):
            run("CLUSTER SETSLOT", slot, state, second)
            replay = system.tallyd("replay", check=False)
            assert replay.returncode == 1
            assert f"{refusal} {slot}" in replay.stderr
            assert len(spool_files(system)) == 1
        run("CLUSTER SETSLOT", slot, "NODE", first)  # a daemon does not start on a node without its shard
        system.redis.config_set("min-replicas-to-write", 3)
        with system.ingest() as ingest:
            run("CLUSTER SETSLOT", slot, "NODE", second)
            system.redis.config_set("min-replicas-to-write", 0)
            post_some(ingest, [event() for _ in range(2)])
            run("CLUSTER SETSLOT", slot, "NODE", first)
            replayed(system)
        assert system.views() == 5
    assert not (folder / "damaged").exists()
