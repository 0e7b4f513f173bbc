"""The embedded stack as a whole: `up`, `down`, `status`, and the file `stack.json` that says where the servers are.

Called by `tallyd stack`, `tallyd dev`, the tests, and every command that is given `--data DIR` (through `load`).
Everything lies under one directory, so two stacks never meet:

    DIR/stack.json               the addresses and pids, written whole or not at all
    DIR/redis  DIR/mongo  DIR/mysql      what the servers store; it outlives `down`
    DIR/log/NAME.log             what each server says

It never stops a process it doesn't know by its command line, and never deletes data.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import psutil

from daemon.errors import StackError
from daemon.stack import process, programs
from daemon.stack.servers import SERVERS, Server

START_TIMEOUT_S = 60.0  # a server that replays a long log takes its time
LOCK_TIMEOUT_S = 120.0  # longer than another `up` may take
POLL_INTERVAL_S = 0.02
PORT_ATTEMPTS_MAX = 5


class StackInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of `stack.json`. `mysql` is empty without MariaDB; `http` is there while `tallyd dev` answers."""

    redis: str
    mongo: str
    mysql: str
    pids: dict[str, int]
    http: str | None = None

    def url(self, name: str) -> str:
        """The address of one server, by the name it has in `pids`."""
        return {"redis": self.redis, "mongo": self.mongo, "mysql": self.mysql}[name]


class Raised(msgspec.Struct, frozen=True):
    """What `bring_up` did: the stack as it is now, the servers this call started, the ones no program was found for."""

    info: StackInfo
    started: tuple[str, ...]
    absent: tuple[Server, ...]


class ServerStatus(msgspec.Struct, frozen=True):
    """One server as `tallyd stack status` shows it. `state` is running, stopped, or absent (no program for it)."""

    name: str
    state: str
    url: str
    pid: int | None
    log: str


def up(data_dir: Path) -> StackInfo:
    """Starts what isn't running and returns where everything is. Not for use inside a running event loop.

    Raises StackError with the end of that server's log when one doesn't start; what this call had started is then
    stopped again.
    """
    return asyncio.run(bring_up(data_dir)).info


def down(data_dir: Path) -> tuple[str, ...]:
    """Stops the servers of `data_dir`, removes `stack.json`, and returns the names of those that were running."""
    return asyncio.run(take_down(data_dir))


def load(data_dir: Path) -> StackInfo | None:
    """What `stack.json` says, or None without one. The servers may have died since; `status` looks."""
    path = _stack_file(data_dir)
    try:
        return msgspec.json.decode(path.read_bytes(), type=StackInfo)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StackError(f"{path} can't be read ({error}); `tallyd stack down` and `up` make it anew") from error


def status(data_dir: Path) -> list[ServerStatus]:
    """Every server of the stack, as it is now."""
    data_dir = data_dir.resolve()
    info = load(data_dir)
    return [_status(server, data_dir, info) for server in SERVERS]


def is_complete(servers: list[ServerStatus]) -> bool:
    """Whether all run that can: an optional server without a program doesn't count."""
    required = {server.name for server in SERVERS if server.required}
    return all(each.state == "running" or (each.state == "absent" and each.name not in required) for each in servers)


async def bring_up(data_dir: Path, *, die_with_parent: bool = False) -> Raised:
    """`up`, for callers with an event loop.

    With `die_with_parent` the servers it starts get SIGTERM when the thread that called it ends, however it ends.
    """
    data_dir = prepare(data_dir)
    async with _locked(data_dir):
        info = _load_or_none(data_dir)
        running = _running(data_dir, info)
        absent, jobs = [], []
        prefix = process.dies_with_parent() if die_with_parent else []
        for server in SERVERS:
            if server.name in running:
                continue
            program = programs.find(server.program, data_dir)
            if program is not None:
                jobs.append(_Start(server, program, data_dir, prefix, _port_of(info, server)))
            elif server.required:
                raise StackError(f"no {server.program.name} found; {server.program.install}")
            else:
                absent.append(server)
        if jobs or info is None or set(info.pids) != set(running):
            await _start_all(jobs)
            info = _assemble(info, running, jobs)
            _write(data_dir, info)
        return Raised(info, tuple(job.server.name for job in jobs), tuple(absent))


async def take_down(data_dir: Path, names: Iterable[str] | None = None) -> tuple[str, ...]:
    """Stops the named servers (None: all), gracefully first; returns the names of those that were running.

    The stack file is removed with the last of them.
    """
    found = _existing(data_dir)
    if found is None:
        return ()
    data_dir = found
    async with _locked(data_dir):
        info = _load_or_none(data_dir)
        running = _running(data_dir, info, search_machine=True)
        chosen = running if names is None else {name: running[name] for name in names if name in running}
        timeouts_s = {server.name: server.stop_timeout_s for server in SERVERS}
        await asyncio.to_thread(process.stop, {each: timeouts_s[name] for name, each in chosen.items()})
        left = {name: each.pid for name, each in running.items() if name not in chosen}
        if info is not None and left:
            _write(data_dir, msgspec.structs.replace(info, pids=left, http=None))
        else:
            _stack_file(data_dir).unlink(missing_ok=True)
        return tuple(chosen)


async def publish_http(data_dir: Path, http: str | None) -> None:
    """Writes the address of the ingest daemon into `stack.json`, or takes it out (None)."""
    async with _locked(data_dir):
        info = load(data_dir)
        if info is not None:
            _write(data_dir, msgspec.structs.replace(info, http=http))


def log_path(data_dir: Path, name: str) -> Path:
    """Where a server of the stack writes what it has to say."""
    return data_dir / "log" / f"{name}.log"


# One server's start -----------------------------------------------------------------------------------------------


class _Start:
    """Starts one server and knows, whatever happens, which process it has started."""

    def __init__(
        self, server: Server, program: Path, data_dir: Path, prefix: list[str], wanted_port: int | None
    ) -> None:
        self.server = server
        self.program = program
        self.data = data_dir / server.name
        self.log = log_path(data_dir, server.name)
        self.prefix = prefix
        self.port = (
            wanted_port if wanted_port is not None and process.port_is_free(wanted_port) else process.free_port()
        )
        self.process: psutil.Process | None = None

    async def run(self) -> None:
        """Returns once the server answers. Tries another port when someone else took the one it was given."""
        await self._stop_orphan()
        await asyncio.to_thread(self.server.initialise, self.program, self.data)
        for _ in range(PORT_ATTEMPTS_MAX):
            log_start_byte = self.log.stat().st_size if self.log.exists() else 0
            command = self.server.command(self.program, self.data, self.port)
            self.process = psutil.Process(process.spawn([*self.prefix, *command], self.log))
            if await self._answers(self.process):
                return
            exit_code = self.process.wait(process.KILL_WAIT_S)
            if process.port_is_free(self.port):
                raise StackError(self._failure(exit_code, log_start_byte))
            self.port = process.free_port()
        raise StackError(f"{self.server.name} found its port taken {PORT_ATTEMPTS_MAX} times in a row; see {self.log}")

    async def _stop_orphan(self) -> None:
        # Left by an `up` that was killed before it could write stack.json. Two servers on one directory destroy it.
        orphan = process.search(self.server.place(self.data))
        if orphan is not None:
            await asyncio.to_thread(process.stop, {orphan: self.server.stop_timeout_s})

    async def _answers(self, started: psutil.Process) -> bool:
        """True once it answers a ping, False once it has ended."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        url = self.server.url.format(port=self.port)
        while process.is_alive(started):
            if process.listens(started, self.port) and await self._pong(url):
                return True
            if time.monotonic() > deadline_s:
                raise StackError(f"{self.server.name} didn't answer within {START_TIMEOUT_S:.0f} s; see {self.log}")
            await asyncio.sleep(POLL_INTERVAL_S)
        return False

    async def _pong(self, url: str) -> bool:
        try:
            await self.server.ping(url)
        except Exception:  # noqa: BLE001 - three clients, many errors, one meaning: not ready yet, and the deadline decides
            return False
        return True

    def _failure(self, exit_code: int | None, log_start_byte: int) -> str:
        tail = process.log_tail(self.log, since_byte=log_start_byte)
        library = re.search(r"error while loading shared libraries: (\S+?):", tail)
        if library is not None:
            package = {"libcurl.so.4": "apt-get install libcurl4"}.get(library[1], f"install what holds {library[1]}")
            return f"{self.program} needs {library[1]}, which is missing; as root type: {package}"
        return f"{self.server.name} didn't start (exit code {exit_code}). The end of {self.log}:\n{tail}"


async def _start_all(jobs: list[_Start]) -> None:
    """Starts all at once. If one fails, or the caller is cancelled, none of them is left running."""
    tasks = [asyncio.create_task(job.run()) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        process.stop({job.process: job.server.stop_timeout_s for job in jobs if job.process is not None})
        raise


# The directory ----------------------------------------------------------------------------------------------------


def prepare(data_dir: Path) -> Path:
    """The absolute directory, made if need be: only for this user, since the servers in it ask for no password.

    Raises StackError when it can't be made or written to.
    """
    data_dir = data_dir.resolve()
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (data_dir / "log").mkdir(exist_ok=True)
    except OSError as error:
        raise StackError(f"the data directory {data_dir} can't be made: {error.strerror}") from error
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise StackError(f"the data directory {data_dir} can't be written to by this user; choose another with --data")
    return data_dir


def _existing(data_dir: Path) -> Path | None:
    """The absolute directory, or None: `down` in a place where nothing was ever up makes none."""
    return data_dir.resolve() if data_dir.is_dir() else None


@asynccontextmanager
async def _locked(data_dir: Path) -> AsyncIterator[None]:
    """Holds the directory for one change at a time; waits for another process that is at it."""
    deadline_s = time.monotonic() + LOCK_TIMEOUT_S
    with _directory(data_dir) as descriptor:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline_s:
                    raise StackError(f"another tallyd command has been busy with {data_dir} for too long") from error
            await asyncio.sleep(POLL_INTERVAL_S)
        yield


@contextmanager
def _directory(data_dir: Path) -> Iterator[int]:
    descriptor = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _stack_file(data_dir: Path) -> Path:
    return data_dir / "stack.json"


def _write(data_dir: Path, info: StackInfo) -> None:
    text = msgspec.json.format(msgspec.json.encode(info), indent=2)
    draft = data_dir / "stack.json.new"
    draft.write_bytes(text + b"\n")
    draft.replace(_stack_file(data_dir))


def _load_or_none(data_dir: Path) -> StackInfo | None:
    """Like `load`, but an unreadable file counts as none: the servers are found by their command lines all the same."""
    try:
        return load(data_dir)
    except StackError:
        return None


def _running(data_dir: Path, info: StackInfo | None, *, search_machine: bool = False) -> dict[str, psutil.Process]:
    """The live servers that the stack file names and that really are ours; with `search_machine` those it lost, too."""
    found = {}
    for server in SERVERS:
        known = _recognise(server, data_dir, info)
        if known is None and search_machine:
            known = process.search(server.place(data_dir / server.name))
        if known is not None:
            found[server.name] = known
    return found


def _recognise(server: Server, data_dir: Path, info: StackInfo | None) -> psutil.Process | None:
    pid = None if info is None else info.pids.get(server.name)
    return None if pid is None else process.recognise(pid, server.place(data_dir / server.name))


def _port_of(info: StackInfo | None, server: Server) -> int | None:
    """The port it had: a server that died comes back where its clients look for it."""
    found = re.search(r":(\d+)/", info.url(server.name)) if info is not None else None
    return int(found[1]) if found else None


def _assemble(before: StackInfo | None, running: dict[str, psutil.Process], jobs: list[_Start]) -> StackInfo:
    urls = {server.name: before.url(server.name) if before and server.name in running else "" for server in SERVERS}
    pids = {name: each.pid for name, each in running.items()}
    for job in jobs:
        assert job.process is not None
        urls[job.server.name] = job.server.url.format(port=job.port)
        pids[job.server.name] = job.process.pid
    # With no server left running, an address of the ingest daemon is a leftover of one that was killed.
    return StackInfo(**urls, pids=pids, http=before.http if before and running else None)


def _status(server: Server, data_dir: Path, info: StackInfo | None) -> ServerStatus:
    log = str(log_path(data_dir, server.name))
    known = _recognise(server, data_dir, info)
    if known is not None and info is not None:
        return ServerStatus(server.name, "running", info.url(server.name), known.pid, log)
    absent = programs.find(server.program, data_dir) is None
    return ServerStatus(server.name, "absent" if absent else "stopped", "", None, log)
