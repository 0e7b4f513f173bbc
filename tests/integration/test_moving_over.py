"""The page about moving an application over is true: its commands, run in order, print what it says they print."""

from __future__ import annotations

import datetime as dt
import difflib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from daemon.devstack import process
from tests.kit.system import ROOT, WAIT_TIMEOUT_S, System

PAGE = (ROOT / "ops/moving-over.md").read_text()
LEFT_OUT = "…"
A_WEEK_LATER = "# A week later\n"
STEP_ENDS = "=== the step ends ==="
COLUMNS = 110
VOLATILE = re.compile(r"\d{4}-\d\d-\d\d(?:T[\d:.]+Z)?|\d{8}_\d{6}|\d+\.\d\d seconds|\d+\.\d s ago *|[ ─━]{2,}")
"""Times, and with them the width of a table's columns."""

CREATE_TABLE = """
CREATE TABLE articles (
    slug VARCHAR(64) NOT NULL PRIMARY KEY, title VARCHAR(255) NOT NULL, views INT UNSIGNED NOT NULL DEFAULT 0)
"""
ROWS = """
INSERT INTO articles VALUES ('blue-lamp', 'Blue lamp', 1200), ('oak-table', 'Oak table', 870),
    ('old-clock', 'Old clock', 0), ('red-chair', 'Red chair', 433), ('wool-rug', 'Wool rug', 58)
"""
TALLYD = f"""#!/bin/sh
exec {sys.executable} -m daemon.cli "$@"
"""
SYSTEMCTL = """
systemctl() {  # as much of it as the page needs
    local unit name log reloads verb=$1
    for unit in "${@:2}"; do
        name=${unit#tallyd-} log=$unit.log
        case $verb in
        start)
            tallyd "$name" >"$log" 2>&1 &
            declare -g "pid_$name=$!"
            [ "$name" = flush ] || until curl -sf http://127.0.0.1:8080/healthz >/dev/null; do sleep 0.1; done ;;
        stop)
            local pid=pid_$name
            kill "${!pid}"
            wait "${!pid}" ;;
        reload)
            local pid=pid_$name
            reloads=$(grep -c Reloaded "$log")
            kill -HUP "${!pid}"
            until [ "$(grep -c Reloaded "$log")" -gt "$reloads" ]; do sleep 0.05; done ;;
        esac
    done
}
"""


class Step(NamedTuple):
    """A block of commands, and what the page says they print."""

    commands: str
    says: str


def steps(page: str) -> list[Step]:
    pattern = r"^```sh\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?"
    return [Step(*match.groups("")) for match in re.finditer(pattern, page, re.MULTILINE | re.DOTALL)]


def lines_of(text: str) -> list[str]:
    """Without what changes from run to run."""
    return [VOLATILE.sub("*", line.rstrip()) for line in text.splitlines()]


def is_said(printed: list[str], said: list[str]) -> bool:
    """Whether these lines were printed, with any others where the page leaves lines out."""
    pattern = "".join("(?:.*\n)*" if line == LEFT_OUT else re.escape(line) + "\n" for line in said)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed)) is not None


class Walk:
    """One shell that runs the page's commands as an operator would, in a folder that holds all they need."""

    def __init__(self, system: System, folder: Path) -> None:
        self._system = system
        self._folder = folder
        self._port = process.free_port()
        system.sql(CREATE_TABLE)
        system.sql(ROWS)
        program = folder / "bin/tallyd"
        program.parent.mkdir()
        program.write_text(TALLYD)
        program.chmod(0o755)
        mysql = urlsplit(system.stack.mysql)
        (folder / ".my.cnf").write_text(f"[client]\nhost={mysql.hostname}\nport={mysql.port}\nuser={mysql.username}\n")
        [toml] = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
        (folder / "tallyd.toml").write_text(toml)
        environment = system.environ(
            HTTP__PORT=str(self._port), FLUSH__INTERVAL_S="0.2", CONFIG=str(folder / "tallyd.toml")
        )
        del environment["TALLYD_RATE_LIMIT__PER_MINUTE"]
        self._shell = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env={
                **os.environ,
                **environment,
                "PATH": f"{program.parent}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "HOME": str(folder),
                "COLUMNS": str(COLUMNS),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.run(SYSTEMCTL)

    def run(self, commands: str) -> str:
        """Returns what they print."""
        if commands.startswith(A_WEEK_LATER):
            self._a_week_passes()
        for said, here in (
            ("127.0.0.1:8080", f"127.0.0.1:{self._port}"),
            ("mysql shop", f"mariadb {self._system.database}"),
        ):
            commands = commands.replace(said, here)
        (self._folder / "step.sh").write_text(commands)
        assert self._shell.stdin
        assert self._shell.stdout
        self._shell.stdin.write(f". ./step.sh </dev/null 2>&1\necho '{STEP_ENDS}'\n")
        self._shell.stdin.flush()
        printed = ""
        for line in self._shell.stdout:
            if line == f"{STEP_ENDS}\n":
                return printed
            printed += line
        raise AssertionError(f"The shell ended.\n{commands}{printed}")

    def _a_week_passes(self) -> None:
        """For the comparisons that were kept, each as its day's."""
        kept = self._system.mongo["analytics_shadow"]
        for found in list(kept.find()):
            day = (dt.date.fromisoformat(found["date"]) - dt.timedelta(days=7)).isoformat()
            kept.insert_one(found | {"_id": found["_id"].replace(found["date"], day), "date": day})
            kept.delete_one({"_id": found["_id"]})

    def end(self) -> None:
        """Stops the daemons that run."""
        self._shell.communicate("jobs -p | xargs -r kill; wait\n", timeout=WAIT_TIMEOUT_S)


@pytest.fixture
def walk(system: System, tmp_path: Path) -> Iterator[Walk]:
    walk = Walk(system, tmp_path)
    yield walk
    walk.end()


def test_the_commands_of_the_page_print_what_it_says(walk: Walk) -> None:
    for commands, says in steps(PAGE):
        printed, said = lines_of(walk.run(commands)), lines_of(says)
        difference = difflib.unified_diff(said, printed, "the page", "printed", lineterm="")
        assert is_said(printed, said), "\n".join([commands, *difference])
