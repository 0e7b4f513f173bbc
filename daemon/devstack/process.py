"""The server processes: start one detached, know it again, stop it, and find it a port.

Called by `daemon.devstack`. Never signals a process by its number alone: a number may have been given to a stranger
since, so the command line has to name our data directory.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from daemon.errors import StackError

KILL_WAIT_S = 5.0
POLL_INTERVAL_S = 0.01


def dies_with_parent() -> list[str]:
    """The command prefix under which a program gets SIGTERM when the thread that started it ends, however it ends.

    A prefix, not a hook between fork and exec, which Python can't run safely in a process with threads. The program
    replaces it, so the pid is the program's.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise StackError("setpriv is missing, which ties the servers' lives to this command's: install util-linux")
    return [setpriv, "--pdeathsig", "TERM", "--"]


def spawn(command: list[str], log: Path) -> int:
    """Starts `command` in a session of its own, its output appended to `log`, and returns its pid.

    Raises StackError when the program can't be run. What goes wrong later is in the log.
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
            # Python ignores these two, and a program would inherit that.
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    except OSError as error:
        raise StackError(f"{command[0]} can't be run: {error.strerror}") from error


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs. One that ended and that nobody has waited for yet doesn't."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def recognise(pid: int, marker: Sequence[str]) -> psutil.Process | None:
    """The live process `pid` if `marker` stands in its command line, argument by argument; else None."""
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
        raise StackError(f"process {process.pid} belongs to another user and can't be stopped by this one") from error


def _ends_by(process: psutil.Process, deadline_s: float) -> bool:
    """Whether it ended in time. Not left to psutil: it waits for a parent to notice, and in a container none may."""
    while is_alive(process):
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(POLL_INTERVAL_S)
    with suppress(psutil.TimeoutExpired):
        process.wait(0)  # when the parent is this process, it has to notice
    return True


def listens(process: psutil.Process, port: int) -> bool:
    """Whether it is this very process that listens on `port`, and not another that was faster."""
    try:
        connections = process.net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections)


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that just ended don't count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port of 127.0.0.1 that is free at this moment; someone may take it before a server does."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def log_tail(log: Path, *, since_byte: int, lines_max: int = 15) -> str:
    """The last lines a server wrote to its log after `since_byte`, for an error message."""
    try:
        with log.open("rb") as stream:
            stream.seek(since_byte)
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(_shorten(text.splitlines()[-lines_max:]))


def _shorten(lines: Iterable[str], width: int = 400) -> Iterable[str]:
    return (line if len(line) <= width else f"{line[:width]}…" for line in lines)
