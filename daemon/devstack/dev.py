"""Runs the whole system in the foreground: servers, a demo table, ingest and flush.

Called only by `tallyd dev`. When it ends, no process that it started stays behind. An ordinary end stops all in order.
If it is killed by SIGKILL, `process.dies_with_parent` ends them. Never used in production.
"""

from __future__ import annotations

import asyncio
import fcntl
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO
from uuid import uuid4

import msgspec
import psutil
from rich.console import Console
from rich.text import Text

from daemon import config as configuration
from daemon.config import mysql_of
from daemon.config.stack import DATA_DEFAULT
from daemon.devstack import demo, folder, process, stack
from daemon.devstack.child import Child
from daemon.errors import ConfigError, StackError

DEFAULT_PORT = 8080
HEALTH_TIMEOUT_S = 30.0
HEALTH_POLL_S = 0.05
SERVER_POLL_S = 0.5
INGEST_STOP_TIMEOUT_S = 15.0  # above `http.drain_timeout_s`
FLUSH_STOP_TIMEOUT_S = 15.0
COLOURS = {"dev": "bold", "flush": "magenta", "ingest": "cyan"}

LOGGED = re.compile(r"\d{4}-\d\d-\d\dT\S+ (?P<level>[A-Z]+) +[\w.]+ \[[^]]*\] ")
"""The beginning of an entry in a daemon's log."""

console = Console(highlight=False, markup=False)


def run(data: Path, port: int | None, config: Path | None) -> None:
    """Runs until SIGINT, SIGTERM or SIGHUP. `port`: None means 8080, or a free port if 8080 is taken.

    Raises ConfigError if `port` is taken, StackError if a part does not start or ends by itself.
    """
    if port is not None and not process.port_is_free(port):
        raise ConfigError(f"--port {port}: {_who_has(port)}; without --port a free one is taken")
    asyncio.run(_until_asked_to_stop(data.resolve(), port, config))


async def _until_asked_to_stop(data: Path, wanted: int | None, config: Path | None) -> None:
    """Runs the system. A signal cancels the run, but never the clean-up."""
    with _only_one(data) as lock:
        port = wanted or _choose_port()
        lock.write(f"pid {os.getpid()}, http://127.0.0.1:{port}")
        lock.flush()
        async with AsyncExitStack() as running:
            running.enter_context(process.hold_port(port))  # ingest takes it seconds later
            work = asyncio.create_task(_run(running, data, port, config))
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(number, _stop_once, work)
            try:
                await work
            except asyncio.CancelledError:
                _show("dev", "stopping")
        _show("dev", f"stopped; the data stays in {data}")


def _stop_once(work: asyncio.Task[None]) -> None:
    # A second Ctrl-C would interrupt the clean-up. Every stop in it has its own deadline.
    if not work.cancelling():
        work.cancel()


async def _run(running: AsyncExitStack, data: Path, port: int, config: Path | None) -> None:
    """Starts all parts and watches them. `running` stops them in reverse order."""
    raised = await stack.bring_up(data, die_with_parent=True)
    running.push_async_callback(stack.take_down, data, raised.started)
    for server in raised.absent:
        _show("dev", server.absence)
    if len(raised.started) < len(raised.info.pids):
        _show("dev", f"uses servers that already run in {data}, and will leave them running")
    if raised.info.mysql:
        await demo.create(raised.info.mysql)

    run_id = uuid4().hex
    of_data = configuration.load(config, data=data)  # as every command with this --data has it
    environment = environment_of(raised.info, port, config, run_id) | {
        "TALLYD_SPOOL__DIR": of_data.spool.dir,
        "TALLYD_DASHBOARD__ENABLED": "true",
        "TALLYD_DASHBOARD__DEMO": "true",
        "TALLYD_LOG__COUNTS": "true",
    }
    if of_data.domains == configuration.DOMAINS_OF_STACK:
        environment["TALLYD_DOMAINS"] = msgspec.json.encode(of_data.domains).decode()
    if of_data.replica == configuration.REPLICA_OF_STACK:
        environment["TALLYD_REPLICA"] = msgspec.json.encode(of_data.replica).decode()
    flush = await running.enter_async_context(Child("flush", environment, _show, stop_timeout_s=FLUSH_STOP_TIMEOUT_S))
    ingest = await running.enter_async_context(
        Child("ingest", environment, _show, stop_timeout_s=INGEST_STOP_TIMEOUT_S)
    )
    servers = {name: psutil.Process(raised.info.pids[name]) for name in raised.started}
    try:
        async with asyncio.TaskGroup() as group:
            for each in (_watch_daemon(flush), _watch_daemon(ingest), _watch_servers(servers)):
                group.create_task(each)
            await healthy(port, run_id)
            _welcome(data, port, raised.info)
    except ExceptionGroup as ended:
        raise ended.exceptions[0] from None


def environment_of(info: stack.StackInfo, port: int, config: Path | None, run_id: str) -> dict[str, str]:
    environment = {
        "TALLYD_REDIS__URL": info.redis,
        "TALLYD_MONGO__URL": info.mongo,
        "TALLYD_MYSQL__URL": info.mysql,
        "TALLYD_HTTP__HOST": "127.0.0.1",
        "TALLYD_HTTP__PORT": str(port),
        "TALLYD_HTTP__UNIX_SOCKET": "",
        "TALLYD_RUN_ID": run_id,
    }
    if config is not None:
        environment["TALLYD_CONFIG"] = str(config.resolve())
    return environment


# Starting ---------------------------------------------------------------------------------------------------------


def _choose_port() -> int:
    # Checked first: by SO_REUSEPORT ingest would share the port with the other program, which would get half the
    # requests.
    if process.port_is_free(DEFAULT_PORT):
        return DEFAULT_PORT
    port = process.free_port()
    _show("dev", f"port {DEFAULT_PORT}: {_who_has(DEFAULT_PORT)}. This one counts at port {port}")
    return port


def _who_has(port: int) -> str:
    """As far as the system tells this user."""
    try:
        listening = [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
        pids = [each.pid for each in listening if each.laddr[1:] == (port,) and each.pid is not None]
        names = [f"{psutil.Process(pid).name()} (pid {pid})" for pid in pids]
    except (psutil.Error, OSError):
        names = []
    return f"{names[0]} listens there" if names else "another program listens there, or this user may not"


@contextmanager
def _only_one(data: Path) -> Iterator[IO[str]]:
    """Refuses to run twice in one directory: the first one to end would stop the servers of the other.

    Yields the file that says who runs there.
    """
    folder.prepare(data)
    with (data / "dev.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            who = lock.read()
            raise StackError(
                f"tallyd dev already runs in {data}{f' ({who})' if who else ''}; choose another --data directory"
            ) from error
        lock.truncate(0)
        yield lock


async def healthy(port: int, run_id: str) -> None:
    """Returns when ingest answers with the run id of this start."""
    deadline_s = time.monotonic() + HEALTH_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if await asyncio.to_thread(_run_id_at, port) == run_id:
            return
        await asyncio.sleep(HEALTH_POLL_S)
    raise StackError(
        f"ingest did not answer with its run id at http://127.0.0.1:{port}/healthz in {HEALTH_TIMEOUT_S:.0f} s"
    )


def _run_id_at(port: int) -> str | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        connection.request("GET", "/healthz")
        answer = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return answer.get("run_id") if isinstance(answer, dict) else None


def _welcome(data: Path, port: int, info: stack.StackInfo) -> None:
    """Prints what to try first, without wrapping, so that the curl line can be copied."""
    movie = demo.MOVIES[0]
    event = {
        "event_id": str(uuid4()),
        "domain": "jav",
        "entity_type": "movie",
        "entity_id": movie.uuid,
        "action": "view",
        "occurred_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    url = f"http://127.0.0.1:{port}/api/v1/analytics/events"
    here = "" if data == Path.cwd() / DATA_DEFAULT else f" --data {_shell_path(data)}"
    tallyd = _own_command()
    lines = [
        ("", ""),
        (f"tallyd counts at http://127.0.0.1:{port}", "bold green"),
        (f"Look at it: http://127.0.0.1:{port}/dashboard", "bold"),
        ("", ""),
        (f"A first view of “{movie.title}”:", ""),
        (f"  curl -s -H 'content-type: application/json' -d {shlex.quote(json.dumps(event))} {url}", "bold"),
        ("", ""),
        ("Then, in another terminal:", ""),
        (f"  {tallyd} status{here}", ""),
        (f"  {tallyd} top{here}", ""),
        (f"  {tallyd} series{here} {movie.uuid}", ""),
        *([(f"  {_mysql_client(info.mysql)} -e 'TABLE jav'", "")] if info.mysql else []),
        ("", ""),
        (f"Addresses of the servers: {data / 'stack.json'}   their logs: {data / 'log'}", ""),
        ("Ctrl-C stops everything and keeps the data.", ""),
        ("", ""),
    ]
    for line, style in lines:
        console.print(Text(line, style=style), soft_wrap=True)


def _mysql_client(url: str) -> str:
    """How to look into the database by hand."""
    at = mysql_of(url)
    return f"mariadb --socket={shlex.quote(at['unix_socket'] or '')} -u{at['user']} {at['db']}"


def _own_command() -> str:
    """How the user can type `tallyd`: the name if it is on PATH, else the path of this process."""
    started_as = Path(sys.argv[0])
    if shutil.which("tallyd") or started_as.name != "tallyd":
        return "tallyd"
    return _shell_path(started_as.absolute())


def _shell_path(path: Path) -> str:
    """The path as the user would type it: relative if it lies below the current directory."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


# Watching and stopping --------------------------------------------------------------------------------------------


async def _watch_daemon(daemon: Child) -> None:
    """Raises StackError when the daemon ends: it does not unless something is wrong."""
    raise StackError(f"{await daemon.ended()}. All other parts are stopped, too")


async def _watch_servers(servers: Mapping[str, psutil.Process]) -> None:
    """The same for the servers."""
    while True:
        for name, each in servers.items():
            if not process.is_alive(each):
                raise StackError(f"the {name} server ended by itself. All other parts are stopped, too")
        await asyncio.sleep(SERVER_POLL_S)


def _show(name: str, line: str) -> None:
    console.print(Text.assemble((f"{name:<6} │ ", COLOURS[name]), _message(line)), soft_wrap=True)


def _message(line: str) -> str:
    """The line of a daemon's log without what is the same in all: its time, logger and run. Another line as it is."""
    match = LOGGED.match(line)
    if match is None:
        return line
    level = "" if match["level"] == "INFO" else f"{match['level']}: "
    return level + line[match.end() :]
