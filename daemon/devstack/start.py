"""Starts one server: sets it up, spawns it, waits until it answers, and says why if it does not.

Called by `daemon.devstack.stack`, under the directory's lock. A server that does not answer is never left running.
"""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import psutil

from daemon.devstack import folder, process
from daemon.devstack.servers import Server
from daemon.errors import StackError
from daemon.scheduling import give_way, shorten_slice

START_TIMEOUT_S = 60.0  # a server that replays a long log takes its time
POLL_INTERVAL_S = 0.02
PORT_ATTEMPTS_MAX = 5
CANCEL_TIMEOUT_S = 5.0


class Start:
    """Starts one server, and always knows which process it has started."""

    def __init__(
        self, server: Server, program: Path, data_dir: Path, prefix: list[str], wanted_port: int | None = 0
    ) -> None:
        """`wanted_port`: None for any port, 0 for the socket alone."""
        self.server = server
        self.program = program
        self.data = data_dir / server.name
        self.log = folder.log_path(data_dir, server.name)
        self.prefix = prefix
        keeps = wanted_port is not None and (wanted_port == 0 or process.port_is_free(wanted_port))
        self.port: int = wanted_port if keeps and wanted_port is not None else process.free_port()
        self.process: psutil.Process | None = None

    async def run(self) -> None:
        """Returns when the server answers. Tries another port if another program took the first one."""
        await self._stop_orphan()
        await asyncio.to_thread(self.server.initialise, self.program, self.data)
        for _ in range(PORT_ATTEMPTS_MAX):
            log_start_byte = self.log.stat().st_size if self.log.exists() else 0
            command = self.server.command(self.program, self.data, self.port)
            self.process = psutil.Process(process.spawn([*self.prefix, *command], self.log))
            if self.server.niceness:
                give_way(self.server.niceness, self.process.pid)
            if self.server.slice_us:
                shorten_slice(self.server.slice_us, self.process.pid)
            if await self._answers(self.process):
                return
            exit_code = self.process.wait(process.KILL_WAIT_S)
            if self.port == 0 or process.port_is_free(self.port):
                raise StackError(self._failure(exit_code, log_start_byte))
            self.port = process.free_port()
        raise StackError(f"{self.server.name} found its port taken {PORT_ATTEMPTS_MAX} times in a row; see {self.log}")

    async def _stop_orphan(self) -> None:
        # An `up` that was killed before it wrote stack.json left it. Two servers on one directory destroy the data.
        orphan = process.search(self.server.marker(self.data))
        if orphan is not None:
            await asyncio.to_thread(process.stop, {orphan: self.server.stop_timeout_s})

    async def _answers(self, started: psutil.Process) -> bool:
        """True when the server answers a ping, False when it has ended."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        url = self.server.address(self.data, self.port)
        while process.is_alive(started):
            if (self.port == 0 or process.listens(started, self.port)) and await self._pong(url):
                return True
            if time.monotonic() > deadline_s:
                raise StackError(f"{self.server.name} did not answer within {START_TIMEOUT_S:.0f} s; see {self.log}")
            await asyncio.sleep(POLL_INTERVAL_S)
        return False

    async def _pong(self, url: str) -> bool:
        try:
            await self.server.ping(url)
        except Exception:  # noqa: BLE001 - three clients, many errors, one meaning: not ready yet. The deadline decides
            return False
        return True

    def _failure(self, exit_code: int | None, log_start_byte: int) -> str:
        tail = process.log_tail(self.log, since_byte=log_start_byte)
        library = re.search(r"error while loading shared libraries: (\S+?):", tail)
        if library is not None:
            package = {"libcurl.so.4": "apt-get install libcurl4"}.get(library[1], f"install what holds {library[1]}")
            return f"{self.program} needs {library[1]}, which is missing; as root type: {package}"
        return f"{self.server.name} did not start (exit code {exit_code}). The end of {self.log}:\n{tail}"


async def start_all(jobs: list[Start]) -> None:
    """Starts all at once. If one fails, or the caller is cancelled, none of them is left running."""
    tasks = [asyncio.create_task(job.run()) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        if tasks:  # a client of a store that is cancelled while it connects may wait for itself
            await asyncio.wait(tasks, timeout=CANCEL_TIMEOUT_S)
        process.stop({job.process: job.server.stop_timeout_s for job in jobs if job.process is not None})
        raise
