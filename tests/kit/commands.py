"""Running a command to its end: any one in a process of its own, and `tallyd` in ours."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

from daemon.cli import main

ROOT = Path(__file__).resolve().parents[2]
TALLYD = (sys.executable, "-P", "-m", "daemon.cli")
"""-P: modules of the folder it runs in must not be imported in place of ours."""
COMMAND_TIMEOUT_S = 300.0
_RUNS_HERE = threading.Lock()
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


def run_here(
    args: Sequence[str], *, cwd: Path, env: Mapping[str, str], check: bool = False
) -> subprocess.CompletedProcess[str]:
    """Runs `tallyd` as `run` would, with this folder, this environment and no terminal, but without a process' start,
    which costs more than most commands. What a command sets for its process is set back.

    One at a time, and where no other thread prints: output, folder and environment are the whole process'.
    """
    assert _RUNS_HERE.acquire(blocking=False), "another command runs in this process: run this one apart"
    gc.freeze()  # what is there already: only what the command leaves is looked through
    try:
        return _run_here(args, cwd, env, check=check)
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # the end of a process would close what is left open
            gc.collect()
        gc.unfreeze()
        _RUNS_HERE.release()


def _run_here(
    args: Sequence[str], cwd: Path, env: Mapping[str, str], *, check: bool
) -> subprocess.CompletedProcess[str]:
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", newline="", write_through=True) for _ in ("output", "errors")]
    loggers = [logging.getLogger(name) for name in ("", "pymongo", "daemon.cli")]
    levels = [each.level for each in loggers]
    with (
        Path(os.devnull).open() as nothing,
        contextlib.chdir(cwd),
        patch.dict(os.environ, env, clear=True),
        patch.object(sys, "argv", ["tallyd", *args]),
        patch.object(sys, "stdin", nothing),
        patch.object(sys, "stdout", streams[0]),
        patch.object(sys, "stderr", streams[1]),
        patch.object(loggers[0], "handlers", []),
    ):
        code: int | str | None = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
    output, errors = (each.buffer.getvalue().decode().replace("\r\n", "\n") for each in streams)
    assert isinstance(code, int), code
    assert not check or code == 0, output + errors
    return subprocess.CompletedProcess(["tallyd", *args], code, output, errors)
