"""The README's commands do what it says: its first event is in the series, and its own events are counted and read."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from daemon.devstack import process, stack
from tests.kit.system import ROOT, System, wait_until

README = (ROOT / "README.md").read_text()
READY_TIMEOUT_S = 60
BLOCK = re.compile(r"^```(sh|toml|json|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TRY_IT, OWN_EVENTS = (
    [match.groups() for match in BLOCK.finditer(README, README.index(f"## {start}"), README.index(f"## {end}"))]
    for start, end in (("Try it", "Your own events"), ("Your own events", "Guarantees"))
)
TALLYD = f'#!/bin/sh\nexec {sys.executable} -m daemon.cli "$@"\n'


class Shell:
    """Runs the page's commands in a folder that looks like a checkout, all at one moment: no midnight is in between."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port
        self._now = int(time.time())
        program = folder / ".venv/bin/tallyd"
        program.parent.mkdir(parents=True)
        program.write_text(TALLYD)
        program.chmod(0o755)

    def run(self, commands: str) -> str:
        """Returns what they print."""
        one_moment = f'date() {{ command date -d @{self._now} "$@"; }}\n'
        here = commands.replace("127.0.0.1:8080", f"127.0.0.1:{self._port}")
        done = subprocess.run(
            ["bash", "-ec", one_moment + here],
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout + done.stderr


def without_dates(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d", "*", text)


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, without the time they were read at."""
    while text := text.strip():
        found, end = json.JSONDecoder().raw_decode(text)
        found.pop("as_of", None)
        yield found
        text = text[end:]


def test_the_first_event_is_in_the_series(tmp_path: Path) -> None:
    [(_, send), (_, answer), (_, look), (_, table)] = TRY_IT
    port = process.free_port()
    shell, data, log = Shell(tmp_path, port), tmp_path / ".tallyd", tmp_path / "log"
    with log.open("wb") as output:
        dev = subprocess.Popen(
            [sys.executable, "-m", "daemon.cli", "dev", "--data", str(data), "--port", str(port)],
            cwd=ROOT,
            env={**os.environ, "TALLYD_FLUSH__INTERVAL_S": "0.2"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        ready = f"tallyd counts at http://127.0.0.1:{port}"
        assert ready.replace(str(port), "8080") in README
        wait_until(lambda: ready in log.read_text() or dev.poll() is not None, "dev is ready", READY_TIMEOUT_S)
        assert shell.run(send) == answer, log.read_text()
        assert shell.run(send) == answer, "a duplicate"
        wait_until(lambda: without_dates(shell.run(look)) == without_dates(table), "the event is in the series")
    finally:
        dev.terminate()
        dev.wait()
        stack.down(data)


def test_own_events_are_counted_and_read(system: System, tmp_path: Path) -> None:
    [(_, toml), (_, commands), (_, answers)] = OWN_EVENTS
    file = tmp_path / "shop.toml"
    file.write_text(toml)
    with system.ingest(CONFIG=str(file)) as ingest:
        shell = Shell(tmp_path, int(ingest.url.rpartition(":")[2]))
        assert list(objects(shell.run(commands))) == list(objects(answers))
