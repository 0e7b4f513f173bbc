"""A program at a terminal: what it shows, as it shows it, and keys that are pressed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SHOWN_TIMEOUT_S = 30.0
LINES, COLUMNS = 50, 160
CTRL_C = b"\x03"


class Terminal:
    def __init__(self, descriptor: int, pid: int) -> None:
        self._descriptor = descriptor
        self._pid = pid
        self.shown = b""
        """Since the last `shows`."""

    def types(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    def shows(self, text: bytes) -> None:
        """Waits until it has shown this."""
        deadline_s = time.monotonic() + SHOWN_TIMEOUT_S
        while text not in self.shown:
            assert time.monotonic() < deadline_s, f"{text!r} is not in {self.shown!r}"
            if select.select([self._descriptor], [], [], 0.1)[0]:
                self.shown += os.read(self._descriptor, 65_536)
        self.shown = self.shown.partition(text)[2]

    def ends(self) -> int:
        """Waits for the program, and returns its exit code."""
        with contextlib.suppress(OSError):  # the other side was closed
            while os.read(self._descriptor, 65_536):
                pass
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


@contextlib.contextmanager
def terminal(command: Sequence[str], env: Mapping[str, str], cwd: Path) -> Iterator[Terminal]:
    """A running program. It has ended when the block has: it gets SIGHUP."""
    pid, descriptor = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        os.execvpe(command[0], list(command), {**env, "TERM": "xterm"})
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    try:
        yield Terminal(descriptor, pid)
    finally:
        os.close(descriptor)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
