"""The Python client against the real daemon: faults of the network, refusals, and the ends of a process."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import datetime as dt
import json
import os
import re
import socketserver
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tallyd_client
from tallyd_client import AsyncClient, Client

from tests.clients.conftest import EVENTS_EACH, Road, laid
from tests.clients.python_kit import FOLDER, MODULE, Producer, drain, files, options, track, views
from tests.kit.proxy import Fault
from tests.kit.system import BATCH, System, wait_until

ONE_SYSTEM = True

pytestmark = pytest.mark.usefixtures("soon")


# The bar --------------------------------------------------------------------------------------------------------------


def pace(number: int) -> float:
    """Seconds to wait after this event, so that there are many requests to do something to."""
    return 0.02 if number % 10 == 0 else 0.0


def send_all(road: Road, folder: Path, stats: list[tallyd_client.Stats]) -> None:
    with Client(road.url, **options(folder)) as client:
        for number in range(EVENTS_EACH):
            assert track(client, number)
            time.sleep(pace(number))
        assert client.close(60)
        stats.append(client.stats())


async def send_all_in_a_loop(road: Road, folder: Path, stats: list[tallyd_client.Stats]) -> None:
    async with AsyncClient(road.url, **options(folder)) as client:
        for number in range(EVENTS_EACH):
            assert track(client, number)
            await asyncio.sleep(pace(number))
        assert await client.close(60)
        stats.append(client.stats())


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_all_is_counted_once_through_lost_replies_refused_connections_and_restarts(
    road: Road, folder: Path, kind: str
) -> None:
    road.faulty(seed=12)
    lost, refused = road.proxy.lost, road.proxy.refused
    found: list[tallyd_client.Stats] = []
    work = (
        (lambda: asyncio.run(send_all_in_a_loop(road, folder, found)))
        if kind == "asyncio"
        else (lambda: send_all(road, folder, found))
    )
    thread = threading.Thread(target=work)
    thread.start()
    for number in range(3):
        wait_until(lambda at=number: road.accepted() > EVENTS_EACH * (at + 1) / 5, "some are counted", 120)
        road.restart(kill=number == 1)
    thread.join()
    (stats,) = found
    assert stats.tracked == EVENTS_EACH == stats.accepted + stats.duplicate
    assert (stats.waiting, stats.rejected, stats.given_up, stats.refused) == (0, 0, 0, 0)
    assert files(folder) == []
    assert road.proxy.lost > lost
    road.counted(views(range(EVENTS_EACH)), resent=True)
    lost, refused = road.proxy.lost - lost, road.proxy.refused - refused
    figures = f"{kind}: {lost} replies lost, {refused} connections refused, {road.duplicates()} events came again"
    sys.stdout.write(f"{figures}, {stats}\n")


# Faults of the network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [False, True], ids=["disk", "memory"])
def test_a_lost_reply_is_answered_by_the_same_ids(road: Road, folder: Path, in_memory: bool) -> None:
    trap = road.proxy.trap(BATCH.encode(), Fault.LOSE_REPLY)
    with Client(road.url, **options(None if in_memory else folder)) as client:
        for number in range(50):
            assert track(client, number)
        assert trap.tripped.wait(10)
    assert client.stats().duplicate > 0
    road.counted(views(range(50)), resent=True)


@pytest.mark.parametrize("in_memory", [False, True], ids=["disk", "memory"])
def test_events_wait_while_the_daemon_is_away(road: Road, folder: Path, in_memory: bool) -> None:
    road.away()
    with Client(road.url, **options(None if in_memory else folder)) as client:
        for number in range(1_200):
            assert track(client, number)
        assert client.stats().waiting == 1_200
        road.healed()
    assert client.stats().accepted == 1_200
    road.counted(views(range(1_200)))


def test_a_batch_has_at_most_500_events_and_256_kib(road: Road, folder: Path) -> None:
    road.away()
    with Client(road.url, **options(folder)) as client:
        for number in range(1_100):
            assert track(client, number)
        for number in range(800):
            assert client.track("view", "movie", "é" * 36, event_id=f"{number}-{'é' * 250}")
        sizes = [(len(path.read_bytes().splitlines()), path.stat().st_size) for path in files(folder)]
        assert max(events for events, _ in sizes) == 500
        assert 255_000 < max(size for _, size in sizes) <= 262_144
        road.healed()
    road.counted(views(range(1_100)) + Counter({("é" * 36, "view"): 800}))


def test_events_that_come_together_go_together(road: Road, folder: Path) -> None:
    with Client(road.url, **options(folder, linger_s=60)) as client:
        for number in range(100):
            assert track(client, number)
        assert len(files(folder)) == 1
    road.counted(views(range(100)))


def test_a_spent_limit_is_waited_for(system: System, folder: Path) -> None:
    with laid(system, RATE_LIMIT__PER_MINUTE="60") as road:
        with Client(road.url, **options(folder)) as client:
            for number in range(62):  # the first batch is taken in part, the next one is not
                assert track(client, number)
            wait_until(lambda: client.stats().waiting == 0, "all is sent")
        assert client.stats().rejected == client.stats().given_up == 0
        road.counted(views(range(62)))


def test_a_daemon_that_takes_smaller_batches_gets_smaller_ones(system: System, folder: Path) -> None:
    """300 events of 170 bytes: 413, 413, 422, and then they are counted; also where robots are left out."""
    env = {"HTTP__BATCH_BYTES_MAX": "20000", "HTTP__BATCH_EVENTS_MAX": "60", "BROWSER__ROBOTS": "skip"}
    with laid(system, **env) as road:
        with Client(road.url, **options(folder, linger_s=0.2)) as client:
            for number in range(300):
                assert track(client, number)
        assert client.stats().accepted == 300
        road.counted(views(range(300)))


FULL = b'{"status":"accepted","new":1,"duplicates":0,"rejected":[],"limited":2}'
NOT_A_DAEMON = {
    "a page": (b"200 OK", b"<html>Log in first.</html>"),
    "nothing": (b"204 No Content", b""),
    "JSON of something else": (b"200 OK", b'{"status":"ok"}'),
    "a reply that is cut off": (b"202 Accepted", FULL[:40]),
}


@contextlib.contextmanager
def answering(status: bytes, body: bytes, length: int) -> Iterator[tuple[str, list[int]]]:
    """The URL of something that is no tallyd: it answers each request with this, and ends the connection. Also the
    events of each request."""
    requests: list[int] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            size = 0
            while (line := self.rfile.readline()).strip():
                if line.lower().startswith(b"content-length:"):
                    size = int(line.partition(b":")[2])
            requests.append(self.rfile.read(size).count(b"\n"))
            self.wfile.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, length, body))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("answer", NOT_A_DAEMON)
def test_a_success_that_no_daemon_said_is_no_answer(road: Road, folder: Path, answer: str) -> None:
    status, body = NOT_A_DAEMON[answer]
    with answering(status, body, len(FULL) if status.startswith(b"202") else len(body)) as (url, _):
        client = Client(url, **options(folder))
        for number in range(3):
            assert track(client, number)
        assert not client.close(0.3)
    assert (client.stats().accepted, client.stats().waiting) == (0, 3)
    drain(road, folder)
    road.counted(views(range(3)))


# What the daemon refuses ----------------------------------------------------------------------------------------------


def test_a_rejected_event_is_reported_and_the_others_of_its_batch_are_counted(road: Road, folder: Path) -> None:
    heard: list[tuple[dict[str, Any], str]] = []
    road.away()
    with Client(road.url, **options(folder, on_rejected=lambda *report: heard.append(report))) as client:
        for number in range(100):
            assert track(client, number, value=101 if number % 3 == 0 else 1)
        road.healed()
    bad = [number for number in range(100) if number % 3 == 0]
    stats = client.stats()
    assert (stats.accepted, stats.rejected, stats.waiting) == (100 - len(bad), len(bad), 0)
    told = [event["event_id"] for event, _ in heard]
    assert told == [f"event-{number}" for number in bad[: len(told)]]
    assert len(told) >= 10, "the daemon lists the first ones"
    assert all("value" in reason for _, reason in heard)
    road.counted(views(number for number in range(100) if number % 3))


@pytest.mark.parametrize("status", ["400 Bad Request", "413 Content Too Large"])
def test_a_refused_batch_is_halved_and_costs_no_good_event(folder: Path, status: str) -> None:
    with answering(status.encode(), b"{}", 2) as (url, requests):
        client = Client(url, **options(folder, linger_s=60))
        for number in range(8):
            assert track(client, number)
        assert client.close(20)
    assert requests == [8, 4, 2, *[1] * 8]
    assert client.stats().rejected == 8


def test_a_batch_of_nothing_but_rejected_events_is_reported(road: Road, folder: Path) -> None:
    heard: list[dict[str, Any]] = []
    with Client(road.url, **options(folder, on_rejected=lambda event, _: heard.append(event))) as client:
        for number in range(30):
            assert track(client, number, domain="nobody's")
    assert client.stats().rejected == len(heard) == 30
    road.counted({})


def test_a_wrong_key_is_reported(road: Road, folder: Path) -> None:
    heard: list[str] = []
    with Client(road.url, key="wrong", **options(folder, on_rejected=lambda _, why: heard.append(why))) as client:
        assert track(client, 1)
    assert heard[0].startswith("401: ")
    assert (client.stats().rejected, files(folder)) == (1, [])


def test_a_producer_sends_its_key_or_signs(system: System, folder: Path, tmp_path: Path) -> None:
    env = {"KEYS__FILE": str(tmp_path / "keys"), "INGEST__REQUIRE_KEY": "true"}
    sent = system.tallyd("key", "new", "shop", **env).stdout.strip()
    signing = system.tallyd("key", "new", "press", "--signed", **env).stdout.strip()
    with laid(system, **env) as road:
        road.faulty(seed=3, lost=0.3, refused=0)
        for first, key, sign in ((0, sent, False), (20, signing, True)):
            with Client(road.url, key=key, sign=sign, **options(folder, linger_s=0)) as client:
                for number in range(first, first + 20):
                    assert track(client, number)
            assert client.stats().rejected == 0
        with pytest.raises(ValueError, match="needs a key"):
            Client(road.url, sign=True, **options(folder))
        road.counted(views(range(40)))


def test_a_failing_on_rejected_stops_nothing(road: Road, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fails(event: dict[str, Any], reason: str) -> None:
        raise RuntimeError(reason)

    with Client(road.url, **options(folder, on_rejected=fails)) as client:
        assert track(client, 1, domain="nobody's")
        wait_until(lambda: client.stats().rejected, "it is refused")
        assert track(client, 2)
    assert "on_rejected failed" in caplog.text
    road.counted(views([2]))


NO_EVENTS: list[dict[str, Any]] = [
    {"entity_id": None},
    {"entity_id": True},
    {"entity_id": ""},
    {"entity_id": "x" * 256},
    {"entity_id": "\ud800"},
    {"action": 7},
    {"action": object()},
    {"value": 1.5},
    {"value": "1"},
    {"value": True},
    {"value": 10**5_000},
    {"event_id": ""},
    {"domain": ""},
    {"occurred_at": dt.datetime(2026, 2, 19)},  # noqa: DTZ001  (that is what is wrong with it)
    {"occurred_at": 7},
]


def test_track_refuses_what_can_be_no_event_and_never_raises(road: Road, folder: Path) -> None:
    with Client(road.url, **options(folder)) as client:
        for fields in NO_EVENTS:
            given: dict[str, Any] = {"action": "view", "entity_type": "movie", "entity_id": "7", **fields}
            names = [given.pop(name) for name in ("action", "entity_type", "entity_id")]
            assert client.track(*names, **given) is False
    assert (client.stats().refused, client.stats().tracked) == (len(NO_EVENTS), 0)


def test_an_id_may_be_a_number_or_a_uuid_and_an_instant_a_datetime(road: Road, folder: Path) -> None:
    movie = uuid.uuid4()
    at = dt.datetime(2026, 2, 19, 23, 30, tzinfo=dt.timezone(dt.timedelta(hours=-2)))
    with Client(road.url, **options(folder)) as client:
        assert client.track("view", "movie", 7, value=3)
        assert client.track("download", "movie", movie, occurred_at=at)
        assert client.track("view", "movie", 'a\u2028b"\\c\u00e9\U0001f600', occurred_at="2026-02-19T10:00:00Z")
    days = {document["_id"] for document in road.system.mongo["analytics_entity_daily"].find()}
    assert days == set()
    road.counted({("7", "view"): 3, (str(movie), "download"): 1, ('a\u2028b"\\c\u00e9\U0001f600', "view"): 1})
    days = {document["_id"] for document in road.system.mongo["analytics_entity_daily"].find()}
    assert f"jav:movie:{movie}:2026-02-20" in days


def test_an_event_with_the_id_of_another_is_counted_once(road: Road, folder: Path) -> None:
    with Client(road.url, **options(folder)) as client:
        for _ in range(10):
            assert track(client, 1, event_id="order-17")
    assert (client.stats().accepted, client.stats().duplicate) == (1, 9)
    road.counted(views([1]), resent=True)


# The ends of a process ------------------------------------------------------------------------------------------------

ENDS = {
    "returns": "for number in numbers: track(Client(url, **options), number)",
    "sys.exit": "client = Client(url, **options)\nfor number in numbers: track(client, number)\nsys.exit(3)",
    "exception": "client = Client(url, **options)\nfor number in numbers: track(client, number)\n1 / 0",
    "with, exception": "with Client(url, **options) as c:\n for number in numbers: track(c, number)\n 1 / 0",
    "KeyboardInterrupt": """
client = Client(url, **options)
for number in numbers: track(client, number)
os.kill(os.getpid(), signal.SIGINT)
time.sleep(10)
""",
    "SIGTERM handled": """
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
client = Client(url, **options)
for number in numbers: track(client, number)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(10)
""",
    "asyncio.run": """
import asyncio
async def main():
    client = AsyncClient(url, **options)
    for number in numbers: track(client, number)
asyncio.run(main())
""",
    "asyncio.run, idle before": """
import asyncio
async def main():
    client = AsyncClient(url, **{**options, "linger_s": 0.01})
    for number in numbers[:49]: track(client, number)
    await asyncio.sleep(1)
    track(client, numbers[49])
asyncio.run(main())
""",
    "async with, exception": """
import asyncio
async def main():
    async with AsyncClient(url, **options) as client:
        for number in numbers: track(client, number)
        1 / 0
asyncio.run(main())
""",
    "async, interrupted": """
import asyncio
async def main():
    client = AsyncClient(url, **options)
    for number in numbers: track(client, number)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(10)
asyncio.run(main())
""",
    "async, cancelled before it began": """
import asyncio
async def main():
    client = AsyncClient(url, **options)
    for number in numbers: track(client, number)
    for task in asyncio.all_tasks() - {asyncio.current_task()}: task.cancel()
asyncio.run(main())
""",
    "async, loop thrown away": """
import asyncio
async def main():
    client = AsyncClient(url, **options)
    for number in numbers: track(client, number)
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
loop.close()
""",
    "async, no loop": "client = AsyncClient(url, **options)\nfor number in numbers: track(client, number)",
    "async, two loops": """
import asyncio
client = AsyncClient(url, **options)
async def main(some):
    for number in some: track(client, number)
asyncio.run(main(numbers[:25]))
asyncio.run(main(numbers[25:]))
""",
}
"""Programs without a word about the end; the last thing they do is to track."""


def ending(road: Road, folders: Path | None, ends: Any, **changed: float) -> set[int]:
    """Programs that come to these ends, all at once: the numbers of their events."""
    producers = {
        end: Producer(road, folders and folders / end, f"options |= {changed}\n" + ENDS[end], FIRST=str(number * 100))
        for number, end in enumerate(ends)
    }
    tracked: set[int] = set()
    for end, producer in producers.items():
        producer.ended()
        assert len(producer.tracked) == 50, (end, producer.text)
        tracked |= producer.tracked
    return tracked


@pytest.mark.parametrize("in_memory", [False, True], ids=["disk", "memory"])
def test_every_end_in_order_sends_what_waits(road: Road, tmp_path: Path, in_memory: bool) -> None:
    tracked = ending(road, None if in_memory else tmp_path, ENDS, linger_s=60, timeout_s=10, exit_timeout_s=30)
    assert in_memory or [(end, files(tmp_path / end)) for end in ENDS] == [(end, []) for end in ENDS]
    road.counted(views(tracked))


def test_every_end_while_the_daemon_is_away_leaves_the_events_in_the_folder(road: Road, tmp_path: Path) -> None:
    road.away()
    tracked = ending(road, tmp_path, ENDS, exit_timeout_s=0.3)
    road.healed()
    for end in ENDS:
        assert files(tmp_path / end), end
        drain(road, tmp_path / end)
    road.counted(views(tracked))


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_a_close_that_meets_the_sender_at_any_moment_sends_all(road: Road, kind: str) -> None:
    async def main() -> None:
        for number in range(50):
            client = AsyncClient(road.url, **options(None, linger_s=60, timeout_s=10))
            assert track(client, number)
            await asyncio.sleep(number % 5 / 1_000)
            assert await client.close(30)

    if kind == "asyncio":
        asyncio.run(main())
    else:
        for number in range(50):
            client = Client(road.url, **options(None, linger_s=60, timeout_s=10))
            assert track(client, number)
            time.sleep(number % 5 / 1_000)
            assert client.close(30)
    road.counted(views(range(50)))


@pytest.mark.parametrize("in_memory", [False, True], ids=["disk", "memory"])
def test_an_event_that_meets_the_close_is_refused(
    folder: Path, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is closed after the beginning of `track`, and before the event is in the queue."""
    client = Client("http://127.0.0.1:9", **options(None if in_memory else folder))
    append = client._queue.append

    def late(line: bytes) -> tuple[bool, bool]:
        client.close(0)
        return append(line)

    monkeypatch.setattr(client._queue, "append", late)
    assert not track(client, 1)
    assert (client.stats().tracked, client.stats().refused, client.stats().waiting) == (0, 1, 0)
    assert in_memory or files(folder) == []


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_a_close_does_not_wait_for_a_daemon_that_is_silent(road: Road, folder: Path, kind: str) -> None:
    program = """
import asyncio
options |= {"timeout_s": 3_600}
async def main():
    client = AsyncClient(url, **options)
    track(client, 1)
    await asyncio.to_thread(stop)
    assert not await client.close(0.2)
def sync():
    client = Client(url, **options)
    track(client, 1)
    stop()
    assert not client.close(0.2)
sync() if os.environ["KIND"] == "sync" else asyncio.run(main())
"""
    trap = road.proxy.trap(BATCH.encode(), Fault.HOLD_REQUEST)
    producer = Producer(road, folder, program, KIND=kind)
    producer.stops()
    assert trap.tripped.wait(20)
    producer.go()
    assert producer.ended() == 0, producer.text
    road.healed()
    drain(road, folder)
    road.counted(views([1]))


def test_a_killed_process_without_a_folder_loses_what_it_had_not_sent(road: Road) -> None:
    road.away()
    producer = Producer(road, None, "client = Client(url, **options)\ntrack(client, 1)\nstop()")
    producer.stops()
    producer.kill()
    road.healed()
    road.counted({})


def test_a_cancelled_task_of_the_application_ends_nothing(road: Road, folder: Path) -> None:
    async def work(client: AsyncClient) -> None:
        for number in range(1_000):
            assert track(client, number)
            await asyncio.sleep(0.001)

    async def main() -> int:
        async with AsyncClient(road.url, **options(folder)) as client:
            task = asyncio.create_task(work(client))
            await asyncio.sleep(0.2)
            task.cancel()
            await asyncio.wait({task})
            return client.stats().tracked

    road.counted(views(range(asyncio.run(main()))))


def test_any_thread_may_track(road: Road, folder: Path) -> None:
    with Client(road.url, **options(folder)) as client:

        def work(first: int) -> None:
            for number in range(first, first + 200):
                assert track(client, number)

        threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 1_600, 200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert client.stats().accepted == client.stats().tracked == 1_600
    road.counted(views(range(1_600)))


def test_a_coroutine_is_not_held_up_by_the_network(road: Road, folder: Path) -> None:
    """While the daemon is silent, the loop goes on."""

    async def main() -> None:
        trap = road.proxy.trap(BATCH.encode(), Fault.HOLD_REQUEST)
        async with AsyncClient(road.url, **options(folder, timeout_s=3_600)) as client:
            assert track(client, 1)
            await asyncio.to_thread(trap.tripped.wait)
            for number in range(2, 100):
                assert track(client, number)
                await asyncio.sleep(0)
            assert client.stats().waiting == 99
            assert not await client.close(0)

    asyncio.run(main())
    road.healed()
    drain(road, folder)
    road.counted(views(range(1, 100)))


# The file itself ------------------------------------------------------------------------------------------------------


def command(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tallyd_client", *arguments],
        env={**os.environ, "PYTHONPATH": str(FOLDER), **env},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_sends_one_event_and_drains_a_folder(road: Road, folder: Path) -> None:
    to = ("--url", road.url, "--queue", str(folder))
    sent = command(*to, "--domain", "jav", "--value", "2", "view", "movie", "m")
    assert (sent.returncode, json.loads(sent.stdout)["accepted"]) == (0, 1), sent.stderr
    road.away()
    sent = command(*to, "--domain", "jav", "--timeout", "0.2", "view", "movie", "m")
    assert (sent.returncode, json.loads(sent.stdout)["waiting"]) == (1, 1), sent.stderr
    road.healed()
    sent = command(*to)
    assert (sent.returncode, json.loads(sent.stdout)["accepted"]) == (0, 1), sent.stderr
    assert files(folder) == []
    assert command(*to, "--domain", "jav", "view", "movie", "m", TALLYD_KEY="wrong").returncode == 1
    assert command("--url", road.url).returncode == 2
    assert "FOLDER" in command("--help").stdout
    road.counted({("m", "view"): 3})


def test_it_installs_by_path(tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    done = subprocess.run([*install, tmp_path, FOLDER], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / MODULE.name).read_bytes() == MODULE.read_bytes()


def test_it_needs_python_3_9_and_nothing_else() -> None:
    tree = ast.parse(MODULE.read_text(), feature_version=(3, 9))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in modules} <= {*sys.stdlib_module_names}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [call for call in calls if ast.unparse(call.func) == "print"]


def test_the_page_names_a_test_for_each_promise_and_all_that_stats_counts() -> None:
    page = (FOLDER / "README.md").read_text()
    code = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_python*.py"))
    tests = set(re.findall(r"^def (test_\w+)", code, re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert named <= tests, named - tests
    rows = [line for line in page.partition("## What it promises")[2].partition("\n## ")[0].splitlines() if "|" in line]
    assert len(rows) > 10
    assert all("`test_" in row for row in rows[2:])
    assert set(tallyd_client.Stats._fields) <= set(re.findall(r"`(\w+)`", page))
