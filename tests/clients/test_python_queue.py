"""The Python client's queue: whatever dies, an event that was tracked is counted once."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import logging
import os
import random
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tallyd_client
from tallyd_client import SEALED, STEPS, Client

from daemon.config import Config
from tests.clients.conftest import Road
from tests.clients.python_kit import Producer, drain, files, options, track, views
from tests.kit.proxy import Fault
from tests.kit.system import BATCH, wait_until

ONE_SYSTEM = True

pytestmark = pytest.mark.usefixtures("soon")


# The queue ------------------------------------------------------------------------------------------------------------


def test_a_segment_is_a_private_file_with_an_event_a_line(road: Road, folder: Path) -> None:
    road.away()
    with Client(road.url, **options(folder)) as client:
        for number in range(3):
            assert track(client, number)
        (path,) = files(folder)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert [line["event_id"] for line in lines] == ["event-0", "event-1", "event-2"]
        road.healed()
    assert files(folder) == []
    road.counted(views(range(3)))


def test_a_handler_of_the_log_may_track() -> None:
    """One thread has the handler's lock, and tracks. Another one tracks, and the queue has something to log."""
    client = Client("http://127.0.0.1:9", **options(None, queue_events_max=1))
    assert track(client, 1)
    entered, full = threading.Event(), threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name == "app":
                entered.set()
                full.wait(1)
            track(client, 2)

    handler = Handler()
    say, log = client._queue._say, logging.getLogger()
    client._queue._say = lambda *what: (full.set(), say(*what))[1]  # type: ignore[method-assign]
    log.addHandler(handler)
    threads = [
        threading.Thread(target=logging.getLogger("app").warning, args=("it counts its own errors",), daemon=True)
    ]
    threads[0].start()
    assert entered.wait(10)
    threads.append(threading.Thread(target=track, args=(client, 3), daemon=True))
    threads[1].start()
    for thread in threads:
        thread.join(10)
    log.removeHandler(handler)
    assert not any(thread.is_alive() for thread in threads)
    assert client.stats().refused >= 2
    client.close(0)


@pytest.mark.parametrize("in_memory", [False, True], ids=["disk", "memory"])
@pytest.mark.parametrize("bound", [{"queue_events_max": 700}, {"queue_bytes_max": 120_000}], ids=["events", "bytes"])
def test_a_full_queue_refuses_and_counts(
    road: Road, folder: Path, in_memory: bool, bound: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    road.away()
    with Client(road.url, **options(None if in_memory else folder, **bound)) as client:
        taken = [number for number in range(1_500) if track(client, number)]
        stats = client.stats()
        assert (stats.tracked, stats.refused, stats.waiting) == (len(taken), 1_500 - len(taken), len(taken))
        assert 0 < len(taken) <= 800
        assert sum(path.stat().st_size for path in files(folder)) <= 120_000 if folder.exists() else True
        assert caplog.text.count("the queue is full") == 1
        road.healed()
        wait_until(lambda: client.stats().waiting == 0, "all is sent")
        wait_until(lambda: track(client, 2_000), "there is room again")
    road.counted(views([*taken, 2_000]))


def test_a_folder_outlives_a_process_that_was_stopped_while_the_daemon_was_away(road: Road, folder: Path) -> None:
    road.away()
    client = Client(road.url, **options(folder))
    for number in range(700):
        assert track(client, number)
    assert client.close(0.1) is False
    assert not track(client, 700), "it is closed"
    assert client.stats().waiting == 700
    road.healed()
    drain(road, folder)
    road.counted(views(range(700)))


def test_an_event_is_given_up_before_its_id_may_be_forgotten(road: Road, folder: Path) -> None:
    heard: list[str] = []
    road.away()
    told = options(folder, max_age_s=0.3, on_rejected=lambda _, reason: heard.append(reason))
    with Client(road.url, **told) as client:
        for number in range(5):
            assert track(client, number)
        wait_until(lambda: client.stats().given_up == 5, "they are given up")
        road.healed()
        assert track(client, 5)
    assert len(heard) == 5
    assert all("given up" in reason for reason in heard)
    assert files(folder) == []
    road.counted(views([5]))


def test_by_default_an_event_is_given_up_after_half_of_the_time_that_the_daemon_remembers_ids(folder: Path) -> None:
    client = Client("http://127.0.0.1:9", queue=folder)
    assert client._sender._max_age_s == Config().dedupe.window_s / 2
    client.close(0)


@pytest.mark.parametrize("ahead_s", [-86_401, 86_460], ids=["old", "the clock was ahead"])
def test_what_was_in_the_folder_for_too_long_is_given_up(road: Road, folder: Path, ahead_s: int) -> None:
    folder.mkdir()
    line = json.dumps({"event_id": "old", "domain": "jav", "entity_type": "movie", "entity_id": "m", "action": "view"})
    created_ms = int((time.time() + ahead_s) * 1000)
    (folder / f"{created_ms:013d}-{'0' * 16}-1-99{SEALED}").write_text(line + "\n")
    with Client(road.url, **options(folder)) as client:
        wait_until(lambda: client.stats().given_up == 1, "it is given up")
    assert files(folder) == []
    road.counted({})


def test_a_segment_that_cannot_be_deleted_is_sent_once(
    road: Road, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    with Client(road.url, **options(folder)) as client:
        with monkeypatch.context() as context:
            context.setattr(os, "unlink", fails)
            assert track(client, 1)
            wait_until(lambda: client.stats().accepted == 1, "it is sent")
            assert track(client, 2)
            wait_until(lambda: client.stats().accepted == 2, "the next one is sent")
        assert client.stats().duplicate == 0
        assert len(files(folder)) == 2
    drain(road, folder)
    road.counted(views([1, 2]), resent=True)


def test_what_is_in_memory_at_the_end_is_reported(road: Road) -> None:
    heard: list[str] = []
    road.away()
    client = Client(road.url, **options(None, on_rejected=lambda event, _: heard.append(event["event_id"])))
    for number in range(600):
        assert track(client, number)
    assert client.close(0.1) is False
    assert heard == [f"event-{number}" for number in range(600)]
    assert (client.stats().given_up, client.stats().waiting) == (600, 0)
    road.healed()
    road.counted({})


def test_damaged_lines_cost_no_others(road: Road, folder: Path) -> None:
    road.away()
    client = Client(road.url, **options(folder))
    for number in range(10):
        assert track(client, number)
    client.close(0)
    (path,) = files(folder)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = b"\0" * 40 + b"\n"
    lines[5] = b"\xff\xfe not an event\n"
    path.write_bytes(b"".join(lines) + b'{"event_id":"cut o')
    (folder / f"no name of ours{SEALED}").write_bytes(b"\n\n")
    (folder / "README").write_text("not ours")
    road.healed()
    heard: list[dict[str, Any]] = []
    with Client(road.url, **options(folder, on_rejected=lambda event, _: heard.append(event))) as client:
        wait_until(lambda: client.stats().accepted == 8, "the others are sent")
    assert [list(event) for event in heard] == [["line"], ["line"]]
    assert [path.name for path in files(folder)] == ["README"]
    road.counted(views({*range(10)} - {3, 5}))


def test_processes_share_a_folder_and_send_nothing_twice(road: Road, folder: Path) -> None:
    program = """
client = Client(url, **{**options, "linger_s": 0.005})
first = int(os.environ["FIRST"])
for number in range(first, first + 400):
    track(client, number)
    time.sleep(0.001)
client.close()
"""
    producers = [Producer(road, folder, program, FIRST=str(number)) for number in (0, 400, 800)]
    assert [producer.ended() for producer in producers] == [0, 0, 0]
    drain(road, folder)
    road.counted(views(range(1_200)))
    assert road.duplicates() == 0


def test_a_living_process_sends_what_a_dead_one_left(road: Road, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallyd_client, "SCAN_S", 0.2)
    with Client(road.url, **options(folder)) as client:
        other = Producer(road, folder, """
client = Client(url, **{**options, "linger_s": 60})
track(client, 1)
stop()
""")  # fmt: skip
        other.stops()
        for number in range(2, 5):
            assert track(client, number)
            wait_until(lambda: client.stats().waiting == 0, "its own are sent")
        assert client.stats().accepted == 3, "the segment of a live process is left alone"
        other.kill()
        wait_until(lambda: client.stats().accepted == 4, "the event of the other one is sent")
    road.counted(views(range(1, 5)))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk of 64 KiB, where the machine allows one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", folder]
    mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("limit", ["disk", "RLIMIT_FSIZE"])
def test_events_that_the_disk_does_not_take_wait_in_memory(road: Road, folder: Path, limit: str) -> None:
    program = """
import resource
if os.environ["LIMIT"] == "RLIMIT_FSIZE":
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
client = Client(url, **options)
for number in range(1_000):
    client.track("view", "movie", f"movie-{number % 7}", event_id=f"event-{number}")
assert client.stats().unsaved > 0, client.stats()
assert client.stats().tracked == client.stats().waiting == 1_000, client.stats()
stop()
assert client.close(20), client.stats()
"""
    with small_disk(folder) as is_small:
        road.away()
        producer = Producer(road, folder, program, LIMIT=limit if is_small else "RLIMIT_FSIZE")
        producer.stops()
        road.healed()
        producer.go()
        assert producer.ended() == 0, producer.text
        assert files(folder) == []
    road.counted(views(range(1_000)))


def test_a_folder_that_cannot_be_used_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (
        lambda: Client("http://h", queue=tmp_path / "file"),
        lambda: Client("http://h", queue=tmp_path / "file/q"),
    ):
        with pytest.raises(OSError, match="file"):
            wrong()
    for url in ("count.example", "ftp://count.example", "http://count.example/a b", "http://count.example/\u00e9"):
        with pytest.raises(ValueError, match="not the URL"):
            Client(url, queue=None)
    with pytest.raises(ValueError, match="not a key"):
        Client("http://count.example", queue=None, key="a\nb")
    with pytest.raises(ValueError, match="fsync"):
        Client("http://count.example", queue=None, fsync="often")


def test_a_folder_that_vanishes_costs_no_event(road: Road, folder: Path) -> None:
    with Client(road.url, **options(folder)) as client:
        folder.rmdir()
        for number in range(10):
            assert track(client, number)
        wait_until(lambda: client.stats().accepted == 10, "they are sent")
        assert client.stats().unsaved == 10
    road.counted(views(range(10)))


# kill -9 --------------------------------------------------------------------------------------------------------------

AT = {
    "open": "1 open .open",
    "write": "2 write .open",
    "fsync": "2 fsync .open",
    "rename": "1 rename .open",
    "unlink": "1 unlink .seg",
}
"""Step → the call on a file by which it is done. That of "send" is on the wire."""
TRACKS_FOR_LONG = """
first = int(os.environ["FIRST"])
client = Client(url, **{**options, "fsync": "always", "timeout_s": 60})
for number in range(first, first + 1_000):
    track(client, number)
    time.sleep(0.003)
"""


def test_no_event_is_lost_or_counted_twice_when_a_process_is_killed_at_a_step_on_the_disk(
    road: Road, tmp_path: Path
) -> None:
    """Each process has a folder, and stands before or after a step. All of them at once: it is quicker."""
    assert {*AT, "send"} == STEPS.keys()
    held: list[tuple[str, Producer, Path, Path]] = []
    for number, (when, step) in enumerate(itertools.product(("before", "after"), AT)):
        name = f"{when}-{step}"
        reached, folder = tmp_path / f"{name}.reached", tmp_path / name
        env = {"HOLD": f"{when} {AT[step]}", "REACHED": str(reached), "FIRST": str(number * 1_000)}
        held.append((name, Producer(road, folder, TRACKS_FOR_LONG, **env), reached, folder))
    begun: set[int] = set()
    for name, producer, reached, folder in held:
        wait_until(lambda at=reached: at.exists(), f"it comes there: {name}")  # type: ignore[misc]
        producer.kill()
        unknown = producer.begun - producer.tracked
        assert len(unknown) <= 1, name
        begun |= producer.begun
        drain(road, folder, unknown)
    road.counted(views(begun))


@pytest.mark.parametrize("fault", [Fault.HOLD_REQUEST, Fault.LOSE_REPLY], ids=["before", "after"])
def test_no_event_is_lost_or_counted_twice_when_a_process_is_killed_while_it_sends(
    road: Road, folder: Path, fault: Fault
) -> None:
    trap = road.proxy.trap(BATCH.encode(), fault)
    producer = Producer(road, folder, TRACKS_FOR_LONG, FIRST="0")
    wait_until(trap.tripped.is_set, "it sends")
    producer.kill()
    road.healed()
    drain(road, folder, producer.begun - producer.tracked)
    road.counted(views(producer.begun), resent=fault is Fault.LOSE_REPLY)


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_no_event_is_lost_or_counted_twice_when_the_process_is_killed_at_random(
    road: Road, folder: Path, kind: str
) -> None:
    program = """
import asyncio
first = int(os.environ["FIRST"])
def sync():
    client = Client(url, **options)
    for number in range(first, first + 10_000):
        track(client, number)
        time.sleep(0.001)
async def with_a_loop():
    async with AsyncClient(url, **options) as client:
        for number in range(first, first + 10_000):
            track(client, number)
            await asyncio.sleep(0.001)
sync() if os.environ["KIND"] == "sync" else asyncio.run(with_a_loop())
"""
    dice = random.Random(5)
    road.faulty(seed=5)
    begun: set[int] = set()
    unknown: set[int] = set()
    for run in range(5):
        producer = Producer(road, folder, program, FIRST=str(run * 10_000), KIND=kind)
        wait_until(lambda at=producer: at.tracked, "it has begun")
        time.sleep(dice.uniform(0, 0.5))
        producer.kill()
        begun |= producer.begun
        unknown |= producer.begun - producer.tracked
    road.healed()
    assert len(unknown) <= 5
    drain(road, folder, unknown)
    road.counted(views(begun))


# Forks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [False, True], ids=["disk", "memory"])
def test_a_client_made_before_a_fork_works_in_every_child(road: Road, folder: Path, in_memory: bool) -> None:
    program = """
client = Client(url, **{**options, "linger_s": 0.2})
for number in range(100):
    track(client, number)
    if number % 10 == 0:
        pid = os.fork()
        if not pid:
            for mine in range(1_000 + 100 * number, 1_050 + 100 * number):
                track(client, mine)
            assert client.stats().tracked == 50
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        time.sleep(0.02)
assert client.stats().tracked == 100
"""
    road.faulty(seed=2, lost=0.1, refused=0.1)
    producer = Producer(road, None if in_memory else folder, program)
    assert producer.ended() == 0, producer.text
    road.healed()
    if not in_memory:
        drain(road, folder)
    numbers = {*range(100)} | {1_000 + 100 * ten + at for ten in range(0, 100, 10) for at in range(50)}
    assert producer.tracked == numbers
    road.counted(views(numbers))


def test_a_fork_does_not_keep_the_lock_of_a_segment(road: Road, folder: Path) -> None:
    program = """
client = Client(url, **{**options, "linger_s": 60})
track(client, 1)
if not os.fork():
    time.sleep(60)
    os._exit(0)
stop()
os.kill(os.getpid(), signal.SIGKILL)
"""
    producer = Producer(road, folder, program)
    producer.stops()
    children = psutil.Process(producer.process.pid).children()
    producer.go()
    assert producer.ended() == -signal.SIGKILL
    try:
        drain(road, folder)
    finally:
        for child in children:
            child.kill()
    road.counted(views([1]))


def test_a_fork_while_other_threads_track_ends_nothing(road: Road, folder: Path) -> None:
    program = """
import threading
client = Client(url, **options)
def work(first):
    for number in range(first, first + 300):
        track(client, number)
threads = [threading.Thread(target=work, args=(first,)) for first in (0, 1_000, 2_000)]
for thread in threads:
    thread.start()
for number in range(20):
    pid = os.fork()
    if not pid:
        track(client, 5_000 + number)
        client.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
for thread in threads:
    thread.join()
"""
    producer = Producer(road, folder, program)
    assert producer.ended() == 0, producer.text
    drain(road, folder)
    numbers = {first + at for first in (0, 1_000, 2_000) for at in range(300)} | {*range(5_000, 5_020)}
    road.counted(views(numbers))
