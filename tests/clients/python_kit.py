"""Programs with a Python client for its tests. Each says after a `track` what it returned."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import tallyd_client
from tallyd_client import AsyncClient, Client

from tests.kit.kill import AT_FILE
from tests.kit.system import ROOT, wait_until

if TYPE_CHECKING:
    from tests.clients.conftest import Road

FOLDER = ROOT / "ops/clients/python"
MODULE = FOLDER / "tallyd_client.py"
MOVIES = 7
BEGINNING = f"""
import os, signal, sys, time
from tallyd_client import AsyncClient, Client
tallyd = sys.modules["tallyd_client"]
url, queue = sys.argv[1], sys.argv[2] or None
numbers = range(int(os.environ.get("FIRST", "0")), int(os.environ.get("FIRST", "0")) + 50)
options = {{"queue": queue, "domain": "jav", "linger_s": 0.01, "timeout_s": 0.4}}

def track(client, number):
    print("begun", number, flush=True)
    if client.track("view", "movie", f"movie-{{number % {MOVIES}}}", event_id=f"event-{{number}}"):
        print("tracked", number, flush=True)

def stop():
    "Waits for the test."
    print("waits", flush=True)
    sys.stdin.readline()
"""
"""Of each program. An event's number decides what it is, so that another process can track it again."""


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Waits as a configuration for the machine next door would have them. No process outlives its test."""
    monkeypatch.setattr(tallyd_client, "BACKOFF_FIRST_S", 0.05)
    monkeypatch.setattr(tallyd_client, "BACKOFF_MAX_S", 0.2)
    yield
    for producer in Producer.all:
        producer.kill()
    Producer.all.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "queue"


def options(folder: Path | None, **other: Any) -> dict[str, Any]:
    return {"queue": folder, "domain": "jav", "linger_s": 0.01, "timeout_s": 0.4, **other}


def track(client: Client | AsyncClient, number: int, **fields: Any) -> bool:
    return client.track("view", "movie", f"movie-{number % MOVIES}", **{"event_id": f"event-{number}", **fields})


def views(numbers: Any) -> Counter[tuple[str, str]]:
    """What the stores must say of these events."""
    return Counter((f"movie-{number % MOVIES}", "view") for number in numbers)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


class Producer:
    """A Python program with a client. `begun` and `tracked`: the numbers of its events so far."""

    all: ClassVar[list[Producer]] = []

    def __init__(self, road: Road, folder: Path | None, program: str, **env: str) -> None:
        path = os.pathsep.join([str(FOLDER), *([str(AT_FILE)] if "HOLD" in env else [])])
        # Two files: in one, a warning can begin in the middle of a line.
        self._said = road.system.scratch / f"{uuid.uuid4().hex}.out"
        self._warned = self._said.with_suffix(".err")
        with self._said.open("wb") as said, self._warned.open("wb") as warned:
            self.process = subprocess.Popen(
                [sys.executable, "-c", BEGINNING + program, road.url, str(folder or "")],
                env={**os.environ, "PYTHONPATH": path, **env},
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=warned,
            )
        self.all.append(self)

    @property
    def text(self) -> str:
        return self._said.read_text() + self._warned.read_text()

    @property
    def begun(self) -> set[int]:
        return {int(number) for number in re.findall(r"^begun (\d+)$", self._said.read_text(), re.MULTILINE)}

    @property
    def tracked(self) -> set[int]:
        return {int(number) for number in re.findall(r"^tracked (\d+)$", self._said.read_text(), re.MULTILINE)}

    def stops(self) -> None:
        """Waits until it waits for `go`."""
        wait_until(lambda: "waits\n" in self._said.read_text() or self.process.poll() is not None, "it stops")
        assert self.process.poll() is None, self.text

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def ended(self, timeout_s: float = 30) -> int:
        """Waits for its end, and returns its exit code."""
        code = self.process.wait(timeout_s)
        assert self.process.stdin is not None
        self.process.stdin.close()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.ended()


def drain(road: Road, folder: Path, numbers: Any = ()) -> None:
    """Another process: it tracks these events (again), and sends all that is in the folder."""
    with Client(road.url, **options(folder)) as client:
        for number in numbers:
            assert track(client, number)
    wait_until(lambda: not files(folder) or _drained(road, folder), "the folder is empty")


def _drained(road: Road, folder: Path) -> bool:
    client = Client(road.url, **options(folder))
    client.close(2)
    return not files(folder)
