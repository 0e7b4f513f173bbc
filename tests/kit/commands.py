"""Running a command to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TALLYD = (sys.executable, "-P", "-m", "daemon.cli")
"""-P: modules of the folder it runs in must not be imported in place of ours."""
COMMAND_TIMEOUT_S = 300.0
UNPRIVILEGED: tuple[str, ...] = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
"""In front of a command: it has none of root's privileges, as in a unit. Who runs the tests as a user has none."""


def inherited() -> dict[str, str]:
    """This process' environment without tallyd's configuration."""
    return {name: text for name, text in os.environ.items() if not name.startswith("TALLYD_") or "_STACK_" in name}


def run(
    command: Sequence[str | Path], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None, check: bool = False
) -> subprocess.CompletedProcess[str]:
    """Returns the output and the exit code. With `check`, a code other than 0 is an AssertionError."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done
