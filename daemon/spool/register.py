"""Which spools there are, on all hosts, and what each one held when it last reported: the hash `anl:spools`.

A spool lies on one host's disk. So nobody else sees what waits in it, and a host that is lost takes it along. Each
worker reports the spool of its host, every few seconds. `status` and the audit read all reports.

A spool has a name of its own, in the file `name` of its folder. A folder that is copied to another host takes its name
along: whoever replays it there reports under that name, and takes the report off when the folder is empty. A daemon
that stops does the same. A report that stays is of a host that was lost, or that Redis cannot hear.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import socket
from pathlib import Path

import msgspec
from redis.asyncio import Redis

from daemon.buffer.connection import Connection
from daemon.buffer.keys import Keys
from daemon.errors import StoreError
from daemon.retry import jittered
from daemon.spool.segment import sync_directory, usage

REPORT_INTERVAL_S = 5.0
"""How often a worker reports."""
SILENT_S = 60.0
"""A spool without a report for so long is silent: nobody knows what it holds by now."""
NAME_FILE = "name"
_NAME = re.compile(r"[0-9a-f]{12}")


class Report(msgspec.Struct, frozen=True):
    """What a spool held, as its host said. `at`: seconds since the epoch, by the clock of Redis."""

    host: str
    dir: str
    at: float
    segments: int
    bytes: int
    damaged: int


class Known(msgspec.Struct, frozen=True):
    """A report, as it is read. `age_s`: since it was made."""

    name: str
    report: Report
    age_s: float

    @property
    def silent(self) -> bool:
        return self.age_s > SILENT_S


def own_name(directory: Path) -> str:
    """The spool's own name, "" if it has none yet, or if this user may not look."""
    try:
        name = (directory / NAME_FILE).read_text("ascii", "replace").strip()
    except OSError:
        return ""
    return name if _NAME.fullmatch(name) else ""


def named(directory: Path) -> str:
    """The spool's own name, which is made up once. Raises OSError, also if the file holds no name."""
    directory.mkdir(parents=True, exist_ok=True)
    new = directory / f"{NAME_FILE}.{secrets.token_hex(4)}"
    path = directory / NAME_FILE
    if not path.exists():
        try:
            with new.open("x") as file:
                file.write(secrets.token_hex(6) + "\n")
                os.fsync(file.fileno())
            os.link(new, path)
            sync_directory(directory)
        except FileExistsError:  # another worker was first
            pass
        finally:
            new.unlink(missing_ok=True)
    if not (name := own_name(directory)):
        raise OSError(f"{path} holds no name of a spool. Delete it.")
    return name


class Reporter:
    """Reports one host's spool until `close`. One a worker; create it in the running loop."""

    def __init__(self, connection: Connection, directory: Path) -> None:
        self._connection = connection
        self._directory = directory
        self._task = asyncio.create_task(self._report())

    async def close(self) -> None:
        """Call once nothing is written to the spool any more. Takes the report off if the folder is empty."""
        self._task.cancel()
        await asyncio.wait([self._task])
        with contextlib.suppress(StoreError, OSError):
            await say(self._connection, self._directory, leaving=True)

    async def _report(self) -> None:
        while True:
            with contextlib.suppress(StoreError, OSError):  # Redis is away; the spool's own trouble is told elsewhere
                await say(self._connection, self._directory)
            await asyncio.sleep(jittered(REPORT_INTERVAL_S))


async def say(connection: Connection, directory: Path, *, leaving: bool = False) -> None:
    """Reports what the spool holds. `leaving`: nobody writes to it any more, so an empty one is taken off.

    Raises StoreError, and OSError if the folder cannot be read.
    """
    name, found = await asyncio.to_thread(lambda: (named(directory), usage(directory)))
    if found.error:
        raise OSError(found.error)
    if leaving and not found.segments and not found.strays:
        await connection.command("HDEL", connection.keys.spools, name)
        return
    seconds, micros = await connection.command("TIME")
    at = int(seconds) + int(micros) / 1e6
    said = Report(socket.gethostname(), str(directory), at, found.segments, found.bytes, found.damaged)
    await connection.command("HSET", connection.keys.spools, name, msgspec.json.encode(said))


async def read_reports(redis: Redis, keys: Keys) -> list[Known]:
    """Of all spools, by their hosts. A foreign value is left out. Raises RedisError."""
    now_s = (await redis.time())[0]
    found = []
    for name, text in (await redis.hgetall(keys.spools)).items():
        try:
            said = msgspec.json.decode(text, type=Report)
        except msgspec.MsgspecError:
            continue
        found.append(Known(_text(name), said, max(0.0, now_s - said.at)))
    return sorted(found, key=lambda known: (known.report.host, known.report.dir, known.name))


def _text(name: bytes | str) -> str:
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else name
