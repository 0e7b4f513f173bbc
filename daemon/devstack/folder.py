"""The directory of an embedded stack: its lock, its log files, and `stack.json` with the addresses of the servers.

`daemon.devstack` reads and writes it. Others use only `load`, for the addresses. It never looks at a process.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from daemon.errors import StackError

LOCK_TIMEOUT_S = 120.0  # longer than another `up` may take
LOCK_POLL_S = 0.02


class StackInfo(msgspec.Struct, frozen=True):
    """The content of `stack.json`. `mysql` is empty without MariaDB."""

    redis: str
    mongo: str
    mysql: str
    pids: dict[str, int]

    def url(self, name: str) -> str:
        """The address of one server, by the name it has in `pids`."""
        return {"redis": self.redis, "mongo": self.mongo, "mysql": self.mysql}[name]


def load(data_dir: Path) -> StackInfo | None:
    """The content of `stack.json`, or None without the file. The servers may have died since: see `status`."""
    path = _stack_file(data_dir)
    try:
        return msgspec.json.decode(path.read_bytes(), type=StackInfo)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StackError(f"{path} cannot be read ({error}). `tallyd stack down` and `up` write it again") from error


def load_or_none(data_dir: Path) -> StackInfo | None:
    """Like `load`, but None for an unreadable file: the servers are found by their command lines."""
    try:
        return load(data_dir)
    except StackError:
        return None


def write(data_dir: Path, info: StackInfo) -> None:
    """Writes `stack.json`, whole or not at all."""
    text = msgspec.json.format(msgspec.json.encode(info), indent=2)
    draft = data_dir / "stack.json.new"
    draft.write_bytes(text + b"\n")
    draft.replace(_stack_file(data_dir))


def remove(data_dir: Path) -> None:
    """Removes `stack.json`, if it is there."""
    _stack_file(data_dir).unlink(missing_ok=True)


def log_path(data_dir: Path, name: str) -> Path:
    """The log file of a server of the stack."""
    return data_dir / "log" / f"{name}.log"


def prepare(data_dir: Path) -> Path:
    """The absolute directory. It is made if needed, for this user only: its servers ask for no password.

    Raises StackError if it cannot be made or written to.
    """
    data_dir = data_dir.resolve()
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (data_dir / "log").mkdir(exist_ok=True)
    except OSError as error:
        raise StackError(f"the data directory {data_dir} cannot be made: {error.strerror}") from error
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise StackError(f"this user cannot write to the data directory {data_dir}; choose another with --data")
    return data_dir


def existing(data_dir: Path) -> Path | None:
    """The absolute directory, or None if there is none. `down` must not make one."""
    return data_dir.resolve() if data_dir.is_dir() else None


@asynccontextmanager
async def locked(data_dir: Path) -> AsyncIterator[None]:
    """Locks the directory for one change. Waits for a process that holds it."""
    deadline_s = time.monotonic() + LOCK_TIMEOUT_S
    descriptor = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while not _locks(descriptor):
            if time.monotonic() > deadline_s:
                raise StackError(f"another tallyd command has held {data_dir} for too long")
            await asyncio.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stack_file(data_dir: Path) -> Path:
    return data_dir / "stack.json"
