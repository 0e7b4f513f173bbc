"""`tallyd dev` as a user has it: one command, a first event counted into MariaDB, and nothing left however it ends."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from daemon.devstack import stack
from daemon.devstack.demo import MOVIES
from daemon.devstack.folder import StackInfo
from tests.kit import commands
from tests.kit.commands import ROOT, TALLYD, inherited
from tests.kit.daemon import Daemon
from tests.kit.servers import living_in
from tests.kit.stores import run_sql
from tests.kit.wait import wait_until

READY_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
COUNTED_TIMEOUT_S = 20
READY = "Ctrl-C stops everything"


class Home:
    """Where a `tallyd dev` belongs."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch

    def environ(self, **env: str) -> dict[str, str]:
        return {"TALLYD_FLUSH__INTERVAL_S": "0.2", **env}


class Dev(Daemon):
    """A `tallyd dev` under way, in a process group of its own as a shell would start it."""

    def __init__(self, data: Path, *arguments: str, command: tuple[str, ...] = TALLYD) -> None:
        super().__init__(Home(data.parent), "dev", "--data", str(data), *arguments, command=command)
        self.data = data

    def __exit__(self, *_: object) -> None:
        """Leaves alone what the end of the command left."""
        if self.running:
            self.kill()
            wait_until(lambda: not left_of(self.data), "nothing is left", STOP_TIMEOUT_S)

    def wait_ready(self) -> StackInfo:
        self.says(READY, READY_TIMEOUT_S)
        info = stack.load(self.data)
        assert info is not None
        return info

    def wait(self) -> int:
        """For its exit code."""
        return self.process.wait(STOP_TIMEOUT_S)

    def curl(self) -> httpx.Response:
        """Sends what the printed curl line would send, read as a shell reads it."""
        [line] = [line for line in self.text().splitlines() if line.strip().startswith("curl ")]
        words = shlex.split(line)
        header, _, value = words[words.index("-H") + 1].partition(": ")
        return httpx.post(words[-1], content=words[words.index("-d") + 1], headers={header: value}, trust_env=False)


SEEN: dict[Path, set[str]] = {}


def stores_of(data: Path) -> set[str]:
    """The Redis addresses this stack has ever had: stack.json is gone when one looks for what is left."""
    seen = SEEN.setdefault(data, set())
    info = stack.load(data)
    if info is not None:
        seen.add(info.redis)
    return seen


def left_of(data: Path) -> dict[int, list[str]]:
    """The live processes of the stack in `data`: its servers known by their directory, its daemons by their stores."""
    return living_in(data, *stores_of(data))


def views(mysql_url: str) -> int:
    [(total,)] = run_sql(mysql_url, "SELECT SUM(views) FROM jav")
    return int(total)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "stack"
    yield folder
    stack.down(folder)


@pytest.fixture
def without_mariadb(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server less to start, for tests that count nothing."""
    monkeypatch.setenv("TALLYD_STACK_MARIADBD", "")


def test_the_printed_curl_line_is_counted_into_mariadb_and_stays_counted(data: Path) -> None:
    with Dev(data) as dev:
        info = dev.wait_ready()
        [address] = re.findall(r"tallyd counts at (\S+)", dev.text())
        assert httpx.get(f"{address}/healthz", trust_env=False).json()["run_id"]
        assert views(info.mysql) == 0
        page = httpx.get(address, follow_redirects=True, trust_env=False)
        assert (page.status_code, page.url.path, "data-demo" in page.text) == (200, "/dashboard", True)
        assert httpx.get(f"{address}/api/v1/analytics/status", trust_env=False).json()["trouble"] == []

        assert (dev.curl().status_code, dev.curl().status_code) == (202, 202), "the second is a duplicate"
        wait_until(lambda: views(info.mysql) == 1, "it is in the row", COUNTED_TIMEOUT_S)
        [top] = httpx.get(f"{address}/api/v1/analytics/top/jav/movie?enrich=1", trust_env=False).json()["rows"]
        assert top["row"] == {"code": MOVIES[0].code, "title": MOVIES[0].title}
        movie = f"1 view of jav:movie:{MOVIES[0].uuid}"
        for line in (f"ingest │ {movie}", "1 duplicate, not counted again", f"flush  │ MongoDB has {movie}\n"):
            dev.says(line)
        dev.says("flush  │ MySQL has the new totals of 1 rows")

        assert left_of(data)
        assert dev.end() == 0, dev.text()
    assert not left_of(data)
    assert stack.load(data) is None
    said = commands.run([*TALLYD, "top", "--data", data], env=inherited()).stderr
    assert said == f"tallyd: The stack in {data} is stopped: `./justw dev --data {data}` starts it.\n"

    with Dev(data) as dev:
        info = dev.wait_ready()
        assert views(info.mysql) == 1
        assert dev.curl().status_code == 202
        wait_until(lambda: views(info.mysql) == 2, "it is in the row", COUNTED_TIMEOUT_S)
        assert dev.end() == 0, dev.text()


def test_ctrl_c_stops_everything(data: Path) -> None:
    with Dev(data) as dev:
        dev.wait_ready()
        assert left_of(data)
        os.killpg(dev.process.pid, signal.SIGINT)
        time.sleep(0.05)
        os.killpg(dev.process.pid, signal.SIGINT)  # as an impatient hand does
        assert dev.wait() == 0, dev.text()
        assert "Traceback" not in dev.text()
    assert not left_of(data)


def test_ctrl_c_while_it_starts_stops_everything(data: Path) -> None:
    with Dev(data) as dev:
        wait_until(lambda: left_of(data), "something runs", READY_TIMEOUT_S)
        time.sleep(0.2)
        os.killpg(dev.process.pid, signal.SIGINT)
        assert dev.wait() == 0, dev.text()
    wait_until(lambda: not left_of(data), "nothing is left", 1)


def test_sigterm_to_the_wrapper_stops_everything(data: Path) -> None:
    with Dev(data, command=(str(ROOT / "justw"),)) as dev:
        dev.wait_ready()
        assert left_of(data)
        assert dev.end() == 0, dev.text()
    assert not left_of(data)


def test_sigkill_leaves_nothing_either(data: Path) -> None:
    with Dev(data) as dev:
        dev.wait_ready()
        assert left_of(data)
        dev.process.kill()
        dev.wait()
        wait_until(lambda: not left_of(data), "nothing is left", STOP_TIMEOUT_S)


@pytest.mark.usefixtures("without_mariadb")
def test_a_daemon_that_dies_ends_it_with_failure(data: Path) -> None:
    with Dev(data) as dev:
        dev.wait_ready()
        [ingest] = [each for each in psutil.Process(dev.process.pid).children() if each.cmdline()[-1] == "ingest"]
        ingest.kill()
        assert dev.wait() == 1
        assert "ingest was killed by signal 9" in dev.text()
        assert "Traceback" not in dev.text()
    assert not left_of(data), "a worker outlived its daemon"


def test_a_stack_that_was_up_is_used_and_left_running(data: Path) -> None:
    before = stack.up(data)
    with Dev(data) as dev:
        during = dev.wait_ready()
        assert during.pids == before.pids
        assert "uses servers that already run" in dev.text()
        assert dev.end() == 0, dev.text()
    assert stack.load(data) == before
    assert stack.is_complete(stack.status(data))
    assert len(left_of(data)) == len(before.pids)


@pytest.mark.usefixtures("without_mariadb")
def test_a_second_one_in_the_same_directory_is_refused(data: Path) -> None:
    with Dev(data) as dev:
        dev.wait_ready()
        with Dev(data) as second:
            assert second.wait() == 1
            [address] = re.findall(r"tallyd counts at (\S+)", dev.text())
            assert f"already runs in {data} (pid {dev.process.pid}, {address})" in second.text()
        assert dev.process.poll() is None
        assert dev.end() == 0, dev.text()


def test_a_port_that_is_taken_is_wrong_usage(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Dev(data, "--port", str(port)) as dev:
            assert dev.wait() == 2
            assert f"--port {port}: {psutil.Process().name()} (pid {os.getpid()}) listens there" in dev.text()
    assert not data.exists()
