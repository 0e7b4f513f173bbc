"""The server processes: starts one detached, recognises it, stops it, and finds a port for it.

Called by `daemon.devstack`. It never signals a process by its pid alone: another program may have got the pid since.
The command line must name our data directory.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from daemon.errors import StackError

KILL_WAIT_S = 5.0
POLL_INTERVAL_S = 0.01
LOG_LINE_MAX = 400


def dies_with_parent() -> list[str]:
    """A command prefix: the program gets SIGTERM when the thread that started it ends in any way.

    It is no hook between fork and exec: Python cannot run one safely in a process with threads. The program replaces
    the prefix, so the pid is the program's.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise StackError("setpriv is missing. It ends the servers when this command ends. Install util-linux.")
    return [setpriv, "--pdeathsig", "TERM", "--"]


def spawn(command: list[str], log: Path) -> int:
    """Starts `command` in its own session, and appends its output to `log`. Returns its pid.

    Raises StackError if the program cannot be run. Later errors are in the log.
    """
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        return os.posix_spawnp(
            command[0],
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
            # Python ignores these two signals, and a program would inherit that.
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    except OSError as error:
        raise StackError(f"{command[0]} cannot be run: {error.strerror}") from error


def is_alive(process: psutil.Process) -> bool:
    """Whether the process runs. One that ended does not, even if its parent has not waited for it yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def recognise(pid: int, marker: Sequence[str]) -> psutil.Process | None:
    """The live process `pid` if its command line contains the arguments `marker`, else None."""
    try:
        process = psutil.Process(pid)
        return process if is_alive(process) and _contains(process.cmdline(), marker) else None
    except (psutil.NoSuchProcess, psutil.AccessDenied, ValueError):
        return None


def search(marker: Sequence[str]) -> psutil.Process | None:
    """The first live process on the machine with `marker` in its command line."""
    for process in psutil.process_iter():
        if (found := recognise(process.pid, marker)) is not None:
            return found
    return None


def _contains(cmdline: Sequence[str], marker: Sequence[str]) -> bool:
    width = len(marker)
    return any(list(cmdline[at : at + width]) == list(marker) for at in range(len(cmdline) - width + 1))


def stop(processes: Mapping[psutil.Process, float]) -> None:
    """Sends SIGTERM to all at once, and SIGKILL to each that outlives its seconds.

    psutil refuses to signal a pid that was given to another process meanwhile.
    """
    asked_s = time.monotonic()
    for process in processes:
        _signal(process, signal.SIGTERM)
    for process, timeout_s in processes.items():
        if not _ends_by(process, asked_s + timeout_s):
            _signal(process, signal.SIGKILL)
            _ends_by(process, time.monotonic() + KILL_WAIT_S)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied as error:
        raise StackError(f"process {process.pid} belongs to another user, so this user cannot stop it") from error


def _ends_by(process: psutil.Process, deadline_s: float) -> bool:
    """Whether the process ended in time. psutil would wait until a parent notices. In a container none may."""
    while is_alive(process):
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(POLL_INTERVAL_S)
    with suppress(psutil.TimeoutExpired):
        process.wait(0)  # this process has to notice if it is the parent
    return True


def listens(process: psutil.Process, port: int) -> bool:
    """Whether this process listens on `port`, and not another that was faster."""
    try:
        connections = process.net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections)


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have just ended do not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def hold_port(port: int) -> socket.socket:
    """Keeps a free port of 127.0.0.1 for a server of this user that shares it (SO_REUSEPORT), until it is closed.

    `port_is_free` then says no. It listens to nobody. If the port cannot be had now, nothing is kept.
    """
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    with suppress(OSError):
        held.bind(("127.0.0.1", port))
    return held


def free_port() -> int:
    """A port of 127.0.0.1 that is free now. Another program may take it before the server does."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def log_tail(log: Path, *, since_byte: int, lines_max: int = 15) -> str:
    """The last lines of a log after `since_byte`, for an error message."""
    try:
        with log.open("rb") as stream:
            stream.seek(since_byte)
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    lines = text.splitlines()[-lines_max:]
    return "\n".join(line if len(line) <= LOG_LINE_MAX else f"{line[:LOG_LINE_MAX]}…" for line in lines)
