"""Servers of a run's own: any one of the stack's, a Redis of a version, and the stack of all three.

A server can be stopped, killed, frozen and started again. It keeps its data, and its port if no other process takes it.
The servers get SIGTERM when the thread that started them ends, however it ends.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Self

import msgspec
import psutil
import redis

from daemon.devstack import folder as folders
from daemon.devstack import process, programs
from daemon.devstack.folder import StackInfo
from daemon.devstack.programs import REDIS_SERVER
from daemon.devstack.servers import SERVERS
from daemon.devstack.servers import Server as Description
from daemon.devstack.start import Start, start_all
from daemon.errors import StackError

REDIS, MONGO, MYSQL = SERVERS


def living_in(folder: Path, *redis_urls: str) -> dict[int, list[str]]:
    """The live processes that name a file of `folder`, or count in one of these Redis: pid → command line."""
    found = {}
    for each in psutil.process_iter():
        try:
            ours = any(f"{folder}/" in word for word in each.cmdline())
            if not ours and redis_urls:
                ours = each.environ().get("TALLYD_REDIS__URL") in redis_urls
            if ours and each.status() != psutil.STATUS_ZOMBIE:
                found[each.pid] = each.cmdline()
        except psutil.Error:
            continue
    return found


class Server:
    """One server. Its data lies in `folder`/NAME, its output in `folder`/log/NAME.log."""

    def __init__(self, description: Description, folder: Path, program: Path | None = None) -> None:
        """Raises StackError without a program for it on this machine."""
        self._folder = folders.prepare(folder)
        found = program or programs.find(description.program)
        if found is None:
            raise StackError(f"no {description.program.name}: run ./justw test, or {description.program.install}")
        self._program = found
        self._description = description
        self.data = self._folder / description.name
        self.stop_timeout_s = description.stop_timeout_s
        self.port = 0
        self.process: psutil.Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return self._description.url.format(port=self.port)

    @property
    def running(self) -> bool:
        return self.process is not None and process.is_alive(self.process)

    def start(self) -> None:
        """Returns once it answers; nothing to do if it runs. Not for use inside a running event loop."""
        if not self.running:
            job = self.job()
            asyncio.run(job.run())
            self.has_started(job)

    def job(self) -> Start:
        """The work of starting it."""
        return Start(self._description, self._program, self._folder, process.dies_with_parent(), self.port or None)

    def has_started(self, job: Start) -> None:
        self.process, self.port = job.process, job.port

    def stop(self) -> None:
        """SIGTERM, also to a frozen one, and waits."""
        if self.process is not None and self.running:
            self.process.resume()
            process.stop({self.process: self.stop_timeout_s})

    def kill(self) -> None:
        """SIGKILL, and waits."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def freeze(self) -> None:
        """SIGSTOP: it does not answer. It carries out requests once it is thawed."""
        assert self.process is not None
        self.process.suspend()

    def thaw(self) -> None:
        if self.process is not None and self.running:
            self.process.resume()


class RedisServer(Server):
    """One private Redis of a major version: 6 is the wheel's, 7 the system's. Without persistence by default."""

    def __init__(self, major: int, folder: Path, *options: str) -> None:
        def command(program: Path, data: Path, port: int) -> list[str]:
            # By itself it takes its port + 10,000, which may be too high.
            by_itself = "--cluster-enabled" in options and "--cluster-port" not in options
            bus = ["--cluster-port", str(process.free_port())] if by_itself else []
            return [
                *(str(program), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(data), "--save", ""),
                *("--set-proc-title", "no", *options, *bus),
            ]

        found = programs.in_wheel(REDIS_SERVER) if major == 6 else programs.on_path(REDIS_SERVER.name)
        if found is None:
            raise StackError(f"no Redis {major}: run ./justw test, or {REDIS_SERVER.install}")
        super().__init__(msgspec.structs.replace(REDIS, command=command, slice_us=0), folder, found)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)


class Stack:
    """Redis, MongoDB and, unless told otherwise, MariaDB in one folder; `tallyd … --data FOLDER` finds them there.

    Raises StackError without a program for one of them.
    """

    def __init__(self, folder: Path, *, mysql: bool = True, appendfsync: str = "everysec") -> None:
        def command(*args: Any) -> list[str]:
            return [appendfsync if word == "everysec" else word for word in REDIS.command(*args)]

        chosen = (msgspec.structs.replace(REDIS, command=command), MONGO, *([MYSQL] if mysql else []))
        self.folder = folders.prepare(folder)
        self.servers = {each.name: Server(each, self.folder) for each in chosen}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def redis(self) -> str:
        return self.servers["redis"].url

    @property
    def mongo(self) -> str:
        return self.servers["mongo"].url

    @property
    def mysql(self) -> str:
        """The URL, "" without MariaDB."""
        return self.servers["mysql"].url if "mysql" in self.servers else ""

    def start(self) -> None:
        """Starts those that don't run, all at once, and writes where they are."""
        jobs = {name: each.job() for name, each in self.servers.items() if not each.running}
        asyncio.run(start_all(list(jobs.values())))
        for name, job in jobs.items():
            self.servers[name].has_started(job)
        pids = {name: each.process.pid for name, each in self.servers.items() if each.process is not None}
        folders.write(self.folder, StackInfo(self.redis, self.mongo, self.mysql, pids))

    def stop(self) -> None:
        """SIGTERM to all at once, and waits."""
        running = {each.process: each.stop_timeout_s for each in self.servers.values() if each.process and each.running}
        for frozen in running:
            frozen.resume()
        process.stop(running)
        folders.remove(self.folder)
