"""The servers of the embedded stack. Each has one literal description: program, command line, first set-up, ping.

`daemon.devstack.stack` starts and stops all of them in the same way: SIGTERM stops each of them cleanly. Nothing here
decides when a server runs. No server reads a configuration file of the machine. They ask for no password: each listens
on a unix socket in a folder of this user alone. Tests and benchmarks have them listen on a port of 127.0.0.1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncmy
import msgspec
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from daemon.config import mysql_of
from daemon.devstack import folder, programs
from daemon.devstack.programs import MARIADBD, MONGOD, REDIS_SERVER, Program
from daemon.errors import StackError

PING_TIMEOUT_S = 2.0
INITIALISE_TIMEOUT_S = 60.0
HISTORY_NICENESS = 10
"""Of servers that ingest does not wait for (nice(1)). A flush then hardly delays an answer if all share two cores."""
HOT_SLICE_US = 100
"""Of servers that ingest waits for: see `daemon.scheduling`."""
MONGO_CACHE_GB = 0.5  # mongod's own default is half of the machine's memory
MONGO_JOURNAL_FILE_MB = 32  # of which there are three from the start; the default is 100
MYSQL_BUFFER_POOL_MB = 64
MYSQL_LOG_FILE_MB = 16  # the default of 96 would be written out in full for every new data directory


class Server(msgspec.Struct, frozen=True):
    """How to run one server.

    `place` is the part of the command line that names the data directory. A process is recognised as ours by it.
    So `command(program, dir, port)` must contain it in this order, and no other program may have it. Port 0: no port,
    but the socket. `url` is the address at a port, `socket_url` at the socket.
    `initialise(program, dir)` prepares a data directory. It is called before every start, and does nothing the second
    time. `ping(url)` uses the real protocol, and raises while the server is not ready.
    """

    name: str
    program: Program
    url: str
    socket_url: str
    place: tuple[str, ...]
    command: Callable[[Path, Path, int], list[str]]
    initialise: Callable[[Path, Path], None]
    ping: Callable[[str], Awaitable[None]]
    stop_timeout_s: float
    required: bool = True
    niceness: int = 0
    slice_us: int = 0
    """Scheduler slices that are shorter than the kernel's. 0: the kernel's own."""

    def marker(self, data: Path) -> list[str]:
        """`place` with this data directory."""
        return [word.format(dir=data) for word in self.place]

    def address(self, data: Path, port: int) -> str:
        """Where its clients find it."""
        if port:
            return self.url.format(port=port)
        socket = str(_socket(data))
        return self.socket_url.format(path=quote(socket), host=quote(socket, safe=""))

    @property
    def absence(self) -> str:
        """What a missing optional server means, and how to install it."""
        return (
            f"no {self.program.name} on this machine: {self.name} is left out and the replica sync is off. "
            f"To have it, as root: {self.program.install}"
        )


def _socket(data: Path) -> Path:
    return folder.socket_path(data.parent, data.name)


# Redis ------------------------------------------------------------------------------------------------------------


def _redis_command(program: Path, data: Path, port: int) -> list[str]:
    socket = () if port else ("--unixsocket", str(_socket(data)), "--unixsocketperm", "700")
    return [
        str(program),
        *("--dir", str(data)),
        *("--port", str(port), "--bind", "127.0.0.1", "--protected-mode", "yes", *socket),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--maxmemory-policy", "noeviction"),
        # Otherwise Redis overwrites its command line, and with it the data directory it is known by.
        *("--set-proc-title", "no"),
    ]


def _redis_initialise(program: Path, data: Path) -> None:
    data.mkdir(exist_ok=True)
    if (data / "appendonlydir").exists() and _redis_major(program) < 7:
        # Redis 6 does not know the append-only directory of Redis 7. It would start empty, without an error.
        raise StackError(
            f"{data} was written by Redis 7, and {program} is older and cannot read it: install redis-server 7, or use "
            "another --data directory"
        )


def _redis_major(program: Path) -> int:
    answer = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False, timeout=10)
    found = re.search(r"v=(\d+)\.", answer.stdout)
    if found is None:
        raise StackError(f"{program} --version is not that of a Redis server: {answer.stdout or answer.stderr}")
    return int(found[1])


async def _redis_ping(url: str) -> None:
    client = Redis.from_url(url, socket_timeout=PING_TIMEOUT_S, socket_connect_timeout=PING_TIMEOUT_S)
    async with client:
        await client.ping()


# MongoDB ----------------------------------------------------------------------------------------------------------


def _mongo_command(program: Path, data: Path, port: int) -> list[str]:
    at_port = ("--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket")
    at_socket = ("--bind_ip", str(_socket(data)), "--nounixsocket", "--filePermissions", "0700")
    return [
        str(program),
        *("--dbpath", str(data)),
        *(at_port if port else at_socket),
        *("--wiredTigerCacheSizeGB", str(MONGO_CACHE_GB)),
        *("--wiredTigerEngineConfigString", f"log=(file_max={MONGO_JOURNAL_FILE_MB}MB)"),
        *("--quiet", "--setParameter", "diagnosticDataCollectionEnabled=false"),
    ]


def _mongo_initialise(_program: Path, data: Path) -> None:
    data.mkdir(exist_ok=True)


async def _mongo_ping(url: str) -> None:
    timeout_ms = int(PING_TIMEOUT_S * 1000)
    async with AsyncMongoClient[dict[str, object]](
        url, serverSelectionTimeoutMS=timeout_ms, socketTimeoutMS=timeout_ms
    ) as client:
        await client.admin.command("ping")


# MariaDB ----------------------------------------------------------------------------------------------------------


def _mysql_options(data: Path) -> list[str]:
    """Options of both the set-up and the server. `--no-defaults` comes first, so /etc/mysql is not read."""
    # The server refuses to run as root unless told so. The prefix hides the option from mariadb-install-db, which
    # passes unknown options on. It would otherwise change the owners of files of the system's MariaDB.
    user = ["--loose-user=root"] if os.geteuid() == 0 else []
    return ["--no-defaults", f"--datadir={data}", *user, f"--innodb-log-file-size={MYSQL_LOG_FILE_MB}M"]


def _mysql_temporary(data: Path) -> Path:
    """A folder for temporary tables. A starting MariaDB deletes all files in it, also those of another server."""
    return data.parent / "mysql.tmp"


def _mysql_command(program: Path, data: Path, port: int) -> list[str]:
    at_port = (f"--port={port}", "--bind-address=127.0.0.1", "--socket=")
    return [
        str(program),
        *_mysql_options(data),
        *(at_port if port else ("--skip-networking", f"--socket={_socket(data)}")),
        *("--skip-name-resolve", f"--tmpdir={_mysql_temporary(data)}", f"--secure-file-priv={_mysql_temporary(data)}"),
        f"--pid-file={data / 'mariadbd.pid'}",
        f"--init-file={data.parent / 'mysql-init.sql'}",
        *("--character-set-server=utf8mb4", "--collation-server=utf8mb4_general_ci"),
        *(f"--innodb-buffer-pool-size={MYSQL_BUFFER_POOL_MB}M", "--innodb-buffer-pool-dump-at-shutdown=OFF"),
        *("--key-buffer-size=1M", "--aria-pagecache-buffer-size=8M", "--performance-schema=OFF"),
    ]


def _mysql_initialise(program: Path, data: Path) -> None:
    _mysql_temporary(data).mkdir(exist_ok=True)
    # Run by the server at every start, before it takes connections.
    (data.parent / "mysql-init.sql").write_text("CREATE DATABASE IF NOT EXISTS tallyd CHARACTER SET utf8mb4;\n")
    if data.exists():
        return
    # Prepared beside it and renamed: an interrupted set-up is never taken for a finished one.
    fresh = data.with_name(f"{data.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    installer = programs.on_path("mariadb-install-db")
    if installer is None or programs.on_path("my_print_defaults") is None:
        raise StackError(f"{program} is there, but not all of its set-up programs; as root type: {MARIADBD.install}")
    answer = subprocess.run(
        [str(installer), *_mysql_options(fresh), "--auth-root-authentication-method=normal", "--skip-test-db"],
        # TMPDIR in place of --tmpdir, which the script does not quote.
        env={**os.environ, "PATH": programs.search_path(), "TMPDIR": str(_mysql_temporary(data))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        start_new_session=True,  # Ctrl-C must not reach it: it would report that the set-up failed
        timeout=INITIALISE_TIMEOUT_S,
    )
    if answer.returncode != 0:
        said = answer.stdout.partition("\n\nInstallation of system tables failed")[0]  # what follows is general advice
        raise StackError(f"{installer} failed and said:\n{said.strip()}")
    fresh.rename(data)


async def _mysql_ping(url: str) -> None:
    async with mysql_cursor(url, PING_TIMEOUT_S):
        pass


@asynccontextmanager
async def mysql_cursor(url: str, timeout_s: float) -> AsyncIterator[Any]:
    """A cursor on a connection of its own, where each statement commits. Raises asyncmy's errors."""
    connection = await asyncmy.connect(
        **mysql_of(url), connect_timeout=timeout_s, read_timeout=timeout_s, autocommit=True
    )
    try:
        async with connection.cursor() as cursor:
            yield cursor
    finally:
        await connection.ensure_closed()


SERVERS = (
    Server(
        name="redis",
        program=REDIS_SERVER,
        url="redis://127.0.0.1:{port}/0",
        socket_url="unix://{path}?db=0",
        place=("--dir", "{dir}"),
        command=_redis_command,
        initialise=_redis_initialise,
        ping=_redis_ping,
        stop_timeout_s=10.0,
        slice_us=HOT_SLICE_US,
    ),
    Server(
        name="mongo",
        program=MONGOD,
        url="mongodb://127.0.0.1:{port}/tallyd",
        socket_url="mongodb://{host}/tallyd",
        place=("--dbpath", "{dir}"),
        command=_mongo_command,
        initialise=_mongo_initialise,
        ping=_mongo_ping,
        stop_timeout_s=20.0,
        niceness=HISTORY_NICENESS,
    ),
    Server(
        name="mysql",
        program=MARIADBD,
        url="mysql://root@127.0.0.1:{port}/tallyd",
        socket_url="mysql://root@/tallyd?unix_socket={path}",
        place=("--datadir={dir}",),
        command=_mysql_command,
        initialise=_mysql_initialise,
        ping=_mysql_ping,
        stop_timeout_s=20.0,
        required=False,  # without it the replica sync is off
        niceness=HISTORY_NICENESS,
    ),
)
