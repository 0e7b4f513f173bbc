"""The directory of an embedded stack: its lock, its log files, and `stack.json` with the addresses of the servers.

`daemon.devstack` reads and writes it. Others use only `load`, for the addresses. It never looks at a process.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from daemon.errors import StackError

LOCK_TIMEOUT_S = 120.0  # longer than another `up` may take
LOCK_POLL_S = 0.02
SOCKET_PATH_BYTES_MAX = 107
"""Of a unix socket: `sun_path` has 108, with a zero at the end."""
SOCKET_NAME_BYTES = len("/redis.sock")
"""No server's is longer."""


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
    """Removes `stack.json` and the folder of the sockets, if they are there."""
    _stack_file(data_dir).unlink(missing_ok=True)
    sockets = socket_path(data_dir, "").parent
    for left in sockets.glob("*.sock"):  # of a server that was killed
        left.unlink(missing_ok=True)
    with suppress(OSError):
        sockets.rmdir()


def log_path(data_dir: Path, name: str) -> Path:
    """The log file of a server of the stack."""
    return data_dir / "log" / f"{name}.log"


def socket_path(data_dir: Path, name: str) -> Path:
    """Where a server of the stack listens: in `data_dir`/run, or, if that path is too long for a socket, in a folder of
    this user among the temporary files."""
    inside = data_dir / "run"
    # mongod takes a comma for the end of a path.
    if len(os.fsencode(inside)) + SOCKET_NAME_BYTES > SOCKET_PATH_BYTES_MAX or "," in str(inside):
        digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
        inside = Path(tempfile.gettempdir()) / f"tallyd-{os.geteuid()}-{digest}"
    return inside / f"{name}.sock"


def prepare(data_dir: Path) -> Path:
    """The absolute directory. It is made if needed, for this user only: its servers ask for no password.

    Raises StackError if it cannot be made or written to, or if others may reach the sockets in it.
    """
    data_dir = data_dir.resolve()
    sockets = socket_path(data_dir, "").parent
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (data_dir / "log").mkdir(exist_ok=True)
        sockets.mkdir(mode=0o700, exist_ok=True)
        found = sockets.lstat()
    except OSError as error:
        raise StackError(f"the data directory {data_dir} cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise StackError(
            f"{sockets} is to hold the servers' sockets, and others may reach them there: remove it, or choose another"
            " --data directory"
        )
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
