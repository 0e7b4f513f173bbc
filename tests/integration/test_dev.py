"""`tallyd dev` as a user has it: one command, a first event counted into MariaDB, and nothing left however it ends."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
import psutil
import pytest

from daemon.devstack import stack
from tests.kit.commands import ROOT, TALLYD
from tests.kit.stores import run_sql
from tests.kit.wait import wait_until

READY_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
COUNTED_TIMEOUT_S = 20
DEV = (*TALLYD, "dev")
READY = "Ctrl-C stops everything"


class Dev:
    """A `tallyd dev` under way, in a process group of its own as a shell would start it."""

    def __init__(self, data: Path, output: Path, *arguments: str, command: tuple[str, ...] = DEV) -> None:
        self.data = data
        self.output = output
        with output.open("wb") as stream:
            self.process = subprocess.Popen(
                [*command, "--data", str(data), *arguments],
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=ROOT,
                env={**os.environ, "TALLYD_FLUSH__INTERVAL_S": "0.2"},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            wait_until(lambda: not left_of(self.data), "nothing is left", STOP_TIMEOUT_S)

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_ready(self) -> Self:
        wait_until(lambda: READY in self.text() or self.process.poll() is not None, "it is ready", READY_TIMEOUT_S)
        assert READY in self.text(), self.text()
        return self

    def end(self) -> int:
        return self.process.wait(STOP_TIMEOUT_S)

    def curl(self) -> httpx.Response:
        """Sends what the printed curl line would send, read as a shell reads it."""
        [line] = [line for line in self.text().splitlines() if line.strip().startswith("curl ")]
        words = shlex.split(line)
        header, _, value = words[words.index("-H") + 1].partition(": ")
        return httpx.post(words[-1], content=words[words.index("-d") + 1], headers={header: value}, trust_env=False)


def left_of(data: Path) -> list[str]:
    """The live processes of the stack in `data`: its servers known by their directory, its daemons by their stores."""
    addresses = set(stores_of(data))
    found = []
    for each in psutil.process_iter():
        try:
            if each.status() == psutil.STATUS_ZOMBIE:
                continue
            ours = any(f"{data}/" in argument for argument in each.cmdline())
            if ours or each.environ().get("TALLYD_REDIS__URL") in addresses:
                found.append(f"{each.pid} {' '.join(each.cmdline())}")
        except psutil.Error:
            continue
    return found


SEEN: dict[Path, set[str]] = {}


def stores_of(data: Path) -> set[str]:
    """The Redis addresses this stack has ever had: stack.json is gone when one looks for what is left."""
    seen = SEEN.setdefault(data, set())
    info = stack.load(data)
    if info is not None:
        seen.add(info.redis)
    return seen


def views(mysql_url: str) -> int:
    [(total,)] = run_sql(mysql_url, "SELECT SUM(views) FROM jav")
    return int(total)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "stack"
    yield folder
    stack.down(folder)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def without_mariadb(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server less to start, for tests that count nothing."""
    monkeypatch.setenv("TALLYD_STACK_MARIADBD", "")


def test_the_printed_curl_line_is_counted_into_mariadb_and_stays_counted(data: Path, output: Path) -> None:
    with Dev(data, output) as dev:
        info = stack.load(dev.wait_ready().data)
        assert info is not None
        [address] = re.findall(r"tallyd counts at (\S+)", dev.text())
        assert httpx.get(f"{address}/healthz", trust_env=False).json()["run_id"]
        assert views(info.mysql) == 0

        assert (dev.curl().status_code, dev.curl().status_code) == (202, 202), "the second is a duplicate"
        wait_until(lambda: views(info.mysql) == 1, "it is in the row", COUNTED_TIMEOUT_S)

        assert left_of(data)
        dev.process.terminate()
        assert dev.end() == 0, dev.text()
    assert not left_of(data)
    assert stack.load(data) is None

    with Dev(data, output) as dev:
        info = stack.load(dev.wait_ready().data)
        assert info is not None
        assert views(info.mysql) == 1
        assert dev.curl().status_code == 202
        wait_until(lambda: views(info.mysql) == 2, "it is in the row", COUNTED_TIMEOUT_S)
        dev.process.terminate()
        assert dev.end() == 0, dev.text()


def test_ctrl_c_stops_everything(data: Path, output: Path) -> None:
    with Dev(data, output) as dev:
        dev.wait_ready()
        assert left_of(data)
        os.killpg(dev.process.pid, signal.SIGINT)
        time.sleep(0.05)
        os.killpg(dev.process.pid, signal.SIGINT)  # as an impatient hand does
        assert dev.end() == 0, dev.text()
        assert "Traceback" not in dev.text()
    assert not left_of(data)


def test_ctrl_c_while_it_starts_stops_everything(data: Path, output: Path) -> None:
    with Dev(data, output) as dev:
        wait_until(lambda: left_of(data), "something runs", READY_TIMEOUT_S)
        time.sleep(0.2)
        os.killpg(dev.process.pid, signal.SIGINT)
        assert dev.end() == 0, dev.text()
    wait_until(lambda: not left_of(data), "nothing is left", 1)


def test_sigterm_to_the_wrapper_stops_everything(data: Path, output: Path) -> None:
    with Dev(data, output, command=(str(ROOT / "justw"), "dev")) as dev:
        dev.wait_ready()
        assert left_of(data)
        dev.process.terminate()
        assert dev.end() == 0, dev.text()
    assert not left_of(data)


def test_sigkill_leaves_nothing_either(data: Path, output: Path) -> None:
    with Dev(data, output) as dev:
        dev.wait_ready()
        assert left_of(data)
        dev.process.kill()
        dev.end()
        wait_until(lambda: not left_of(data), "nothing is left", STOP_TIMEOUT_S)


@pytest.mark.usefixtures("without_mariadb")
def test_a_daemon_that_dies_ends_it_with_failure(data: Path, output: Path) -> None:
    with Dev(data, output) as dev:
        dev.wait_ready()
        [ingest] = [each for each in psutil.Process(dev.process.pid).children() if each.cmdline()[-1] == "ingest"]
        ingest.kill()
        assert dev.end() == 1
        assert "ingest was killed by signal 9" in dev.text()
        assert "Traceback" not in dev.text()
    assert not left_of(data), "a worker outlived its daemon"


def test_a_stack_that_was_up_is_used_and_left_running(data: Path, output: Path) -> None:
    before = stack.up(data)
    with Dev(data, output) as dev:
        during = stack.load(dev.wait_ready().data)
        assert during is not None
        assert during.pids == before.pids
        assert "uses servers that already run" in dev.text()
        dev.process.terminate()
        assert dev.end() == 0, dev.text()
    assert stack.load(data) == before
    assert stack.is_complete(stack.status(data))
    assert len(left_of(data)) == len(before.pids)


@pytest.mark.usefixtures("without_mariadb")
def test_a_second_one_in_the_same_directory_is_refused(data: Path, output: Path, tmp_path: Path) -> None:
    with Dev(data, output) as dev:
        dev.wait_ready()
        with Dev(data, tmp_path / "second") as second:
            assert second.end() == 1
            assert "already runs" in second.text()
        assert dev.process.poll() is None
        dev.process.terminate()
        assert dev.end() == 0, dev.text()


def test_a_port_that_is_taken_is_wrong_usage(data: Path, output: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Dev(data, output, "--port", str(port)) as dev:
            assert dev.end() == 2
            assert f"--port {port}" in dev.text()
    assert not data.exists()
