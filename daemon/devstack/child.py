"""Runs a tallyd daemon as a child process: passes on its lines, notices its end, and leaves no process behind.

Called by `daemon.devstack.dev` and `daemon.move.drill`. In production systemd starts the daemons.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from daemon.devstack import process

LINE_BYTES_MAX = 1 << 20
LAST_LINES_TIMEOUT_S = 1.0


class Child:
    """One running daemon: an async context manager that stops it at the end.

    It runs in its own session. So Ctrl-C at the terminal reaches only `tallyd dev`, which stops all in order. It gets
    SIGTERM if `tallyd dev` dies without stopping it. `show(name, line)` is called for each line that it prints.
    """

    def __init__(
        self, name: str, environment: Mapping[str, str], show: Callable[[str, str], None], *, stop_timeout_s: float
    ) -> None:
        self.name = name
        self._environment = environment
        self._show = show
        self._stop_timeout_s = stop_timeout_s

    async def __aenter__(self) -> Self:
        lines, output = await _pipe()
        try:
            # -P: a folder named `daemon` in the current directory must not be imported instead of ours.
            self._process = await asyncio.create_subprocess_exec(
                *process.dies_with_parent(),
                *(sys.executable, "-P", "-m", "daemon.cli", self.name),
                env={**os.environ, **self._environment, "PYTHONUNBUFFERED": "1"},
                stdin=DEVNULL,
                stdout=output,
                stderr=STDOUT,
                start_new_session=True,
            )
        finally:
            os.close(output)
        self._reader = asyncio.create_task(self._pass_on(lines))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(self._stop_timeout_s):
                await self._process.wait()
        except TimeoutError:
            self._show(self.name, f"did not stop within {self._stop_timeout_s:.0f} s and is killed")
            self._process.kill()
            await self._process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # workers that outlived their daemon
        await asyncio.wait([self._reader], timeout=LAST_LINES_TIMEOUT_S)
        self._reader.cancel()

    def reload(self) -> None:
        """Makes the daemon read its configuration again. It then logs `Reloaded`."""
        self._process.send_signal(signal.SIGHUP)

    async def ended(self) -> str:
        """Waits for the daemon to end, and says how it ended."""
        code = await self._process.wait()
        return (
            f"{self.name} ended by itself with exit code {code}"
            if code >= 0
            else f"{self.name} was killed by signal {-code}"
        )

    async def _pass_on(self, lines: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await lines.readline()
            except ValueError:
                line = b"(a line longer than 1 MiB was left out)\n"
            if not line:
                return
            self._show(self.name, line.decode(errors="replace").rstrip("\n"))


async def _pipe() -> tuple[asyncio.StreamReader, int]:
    """A pipe: the reading end, and the descriptor that a program may write to.

    With asyncio's own pipe, `Process.wait` also waits for the pipe to close. A worker that outlives its daemon keeps it
    open.
    """
    reading, writing = os.pipe()
    lines = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(reading, "rb")
    )
    return lines, writing
