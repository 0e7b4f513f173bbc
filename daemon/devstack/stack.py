"""The embedded stack as a whole: `up`, `down`, `status`, and the file `stack.json` with the addresses of the servers.

Called by `tallyd stack`, `tallyd dev`, the tests, and every command with `--data DIR` (through `load`). All files lie
in one directory, so two stacks never meet:

    DIR/stack.json               the addresses and pids, written whole or not at all
    DIR/run/NAME.sock            where the servers listen: no other user comes in, so they ask for no password
    DIR/redis  DIR/mongo  DIR/mysql      the data of the servers, which outlives `down`
    DIR/log/NAME.log             the log of each server

It stops only processes that it recognises by their command line. It never deletes data.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import msgspec
import psutil

from daemon.devstack import folder, process, programs
from daemon.devstack.folder import StackInfo, load
from daemon.devstack.servers import SERVERS, Server
from daemon.devstack.start import Start, start_all
from daemon.errors import StackError

__all__ = ["StackInfo", "bring_up", "down", "is_complete", "load", "status", "take_down", "up"]


class Raised(msgspec.Struct, frozen=True):
    """The result of `bring_up`: the stack, the servers that this call started, and those without a program."""

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
    """Starts the servers that do not run, and returns all addresses. Not for use inside a running event loop.

    If a server does not start, it raises StackError with the end of the log. All that this call started is then
    stopped.
    """
    return asyncio.run(bring_up(data_dir)).info


def down(data_dir: Path) -> tuple[str, ...]:
    """Stops the servers of `data_dir`, removes `stack.json`, and returns the names of those that were running."""
    return asyncio.run(take_down(data_dir))


def status(data_dir: Path) -> list[ServerStatus]:
    """Every server of the stack, as it is now."""
    data_dir = data_dir.resolve()
    info = load(data_dir)
    return [_status(server, data_dir, info) for server in SERVERS]


def is_complete(servers: list[ServerStatus]) -> bool:
    """Whether all servers run. An optional server without a program is left out."""
    required = {server.name for server in SERVERS if server.required}
    return all(each.state == "running" or (each.state == "absent" and each.name not in required) for each in servers)


async def bring_up(data_dir: Path, *, die_with_parent: bool = False) -> Raised:
    """`up`, for callers with an event loop.

    With `die_with_parent` the servers that it starts get SIGTERM when the calling thread ends in any way.
    """
    data_dir = folder.prepare(data_dir)
    async with folder.locked(data_dir):
        info = folder.load_or_none(data_dir)
        running = _running(data_dir, info)
        absent, jobs = [], []
        prefix = process.dies_with_parent() if die_with_parent else []
        for server in SERVERS:
            if server.name in running:
                continue
            program = programs.find(server.program)
            if program is not None:
                jobs.append(Start(server, program, data_dir, prefix))
            elif server.required:
                raise StackError(f"no {server.program.name} found; {server.program.install}")
            else:
                absent.append(server)
        if jobs or info is None or set(info.pids) != set(running):
            await start_all(jobs)
            info = _assemble(info, running, jobs)
            folder.write(data_dir, info)
        return Raised(info, tuple(job.server.name for job in jobs), tuple(absent))


async def take_down(data_dir: Path, names: Iterable[str] | None = None) -> tuple[str, ...]:
    """`down`, for callers with an event loop. `names`: only these servers.

    When the last server is stopped, the stack file is removed.
    """
    found = folder.existing(data_dir)
    if found is None:
        return ()
    data_dir = found
    async with folder.locked(data_dir):
        info = folder.load_or_none(data_dir)
        running = _running(data_dir, info, search_machine=True)
        chosen = running if names is None else {name: running[name] for name in names if name in running}
        timeouts_s = {server.name: server.stop_timeout_s for server in SERVERS}
        await asyncio.to_thread(process.stop, {each: timeouts_s[name] for name, each in chosen.items()})
        left = {name: each.pid for name, each in running.items() if name not in chosen}
        if info is not None and left:
            folder.write(data_dir, msgspec.structs.replace(info, pids=left))
        else:
            folder.remove(data_dir)
        return tuple(chosen)


def _running(data_dir: Path, info: StackInfo | None, *, search_machine: bool = False) -> dict[str, psutil.Process]:
    """The live servers of the stack file that are ours. `search_machine`: also those that the file lacks."""
    found = {}
    for server in SERVERS:
        known = _recognise(server, data_dir, info)
        if known is None and search_machine:
            known = process.search(server.marker(data_dir / server.name))
        if known is not None:
            found[server.name] = known
    return found


def _recognise(server: Server, data_dir: Path, info: StackInfo | None) -> psutil.Process | None:
    pid = None if info is None else info.pids.get(server.name)
    return None if pid is None else process.recognise(pid, server.marker(data_dir / server.name))


def _assemble(before: StackInfo | None, running: dict[str, psutil.Process], jobs: list[Start]) -> StackInfo:
    urls = {server.name: before.url(server.name) if before and server.name in running else "" for server in SERVERS}
    pids = {name: each.pid for name, each in running.items()}
    for job in jobs:
        assert job.process is not None
        urls[job.server.name] = job.server.address(job.data, job.port)
        pids[job.server.name] = job.process.pid
    return StackInfo(**urls, pids=pids)


def _status(server: Server, data_dir: Path, info: StackInfo | None) -> ServerStatus:
    log = str(folder.log_path(data_dir, server.name))
    known = _recognise(server, data_dir, info)
    if known is not None and info is not None:
        return ServerStatus(server.name, "running", info.url(server.name), known.pid, log)
    absent = programs.find(server.program) is None
    return ServerStatus(server.name, "absent" if absent else "stopped", "", None, log)
