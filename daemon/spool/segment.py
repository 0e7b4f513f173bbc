"""Segments: append-only files. One worker writes a segment; the process that locks it replays it.

    <time>-<pid>-<token>.open   being written, or left by a killed writer
    <time>-<pid>-<token>.seg    sealed

The writer holds an exclusive flock on its file. The kernel drops the lock when the process dies in any way. So a
segment that can be locked has no writer, and the process that locks it may replay and delete it. Names sort by time.

The first line names the Redis that the events are for (`origin.py`).

Other files may lie in the folder by mistake. A regular file with such a name and our first line is a segment. Every
other file that ends like one is a stray: it is reported, never replayed, and never deleted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
import time
from pathlib import Path
from typing import NamedTuple, Self

import msgspec
from msgspec import Struct

from daemon.spool.origin import HEAD_BYTES_MAX, Origin, decode_head, encode_head, is_cut_head, printable
from daemon.spool.record import PAYLOAD_BYTES_MAX

OPEN, SEALED = ".open", ".seg"
SEGMENT_BYTES_MAX = 268_435_456 + 2 * PAYLOAD_BYTES_MAX
"""The highest `spool.segment_bytes`, and the records of the group commit that passes it."""
USAGE_STRAYS_MAX = 100
"""So many strays are listed. The others are only counted."""

_NAME = re.compile(r"[0-9]{20}-[0-9]{1,20}-[0-9a-f]{8}\.(?:open|seg)")
# A link is not followed. Opening a FIFO does not wait for its other end.
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Writer:
    """The open segment of one worker. Methods block, and may raise OSError."""

    def __init__(self, directory: Path, origin: Origin) -> None:
        """Creates the file, locked and durable."""
        while True:
            name = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}"
            self.path = directory / (name + OPEN)
            self._fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Between the two calls a replayer may have deleted the empty file as that of a dead writer.
                if os.fstat(self._fd).st_nlink:
                    self.size = 0
                    self.append(encode_head(origin))
                    sync_directory(directory)
                    return
            except BlockingIOError:
                pass
            except BaseException:
                os.close(self._fd)
                self.path.unlink(missing_ok=True)
                raise
            os.close(self._fd)

    def append(self, data: bytes) -> None:
        """Writes and fsyncs. On OSError the file is cut back to its durable length."""
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            os.fsync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.size)
            raise
        self.size += len(data)

    def seal(self) -> None:
        """Ends the segment. From now on any process may replay it."""
        try:
            self.path.rename(self.path.with_suffix(SEALED))
            sync_directory(self.path.parent)
        finally:
            os.close(self._fd)


def sync_directory(directory: Path) -> None:
    """Makes creations, renames and deletions in a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Stray(Struct, frozen=True):
    """A file that ends like a segment and is none, or cannot be read. `name` is printable."""

    name: str
    why: str


class StrayError(OSError):
    """A file is no segment, or cannot be read; the text says why. It stays as it is."""


class Contents(NamedTuple):
    """What a spool directory holds. `segments`: oldest first, also those in use. `bytes`: of these."""

    segments: list[Path]
    bytes: int
    strays: list[Stray]


def list_contents(directory: Path) -> Contents:
    """Empty if the directory does not exist. Opens no file. Raises OSError if the directory cannot be read."""
    segments, size, strays = [], 0, []
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return Contents([], 0, [])
    for entry in entries:
        if not entry.name.endswith((OPEN, SEALED)):
            continue
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # replayed meanwhile
            continue
        if why := _why_stray(entry.name, found):
            strays.append(Stray(printable(entry.name), why))
        else:
            segments.append(directory / entry.name)
            size += found.st_size
    return Contents(sorted(segments), size, sorted(strays, key=lambda stray: stray.name))


def _why_stray(name: str, found: os.stat_result) -> str:
    """Why a file is no segment; "" if it may be one."""
    if not _NAME.fullmatch(name):
        return "its name is not a segment's"
    if not stat.S_ISREG(found.st_mode):
        return "it is not a regular file"
    if found.st_size > SEGMENT_BYTES_MAX:
        return f"it has {found.st_size:,} bytes, more than a segment can have"
    return ""


def _open(path: Path, flags: int) -> int:
    """Raises FileNotFoundError, and StrayError for a file that is no segment."""
    try:
        fd = os.open(path, flags | _SAFELY)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StrayError(f"it cannot be opened: {error.strerror}") from None
    if why := _why_stray(path.name, os.fstat(fd)):
        os.close(fd)
        raise StrayError(why)
    return fd


class Taken:
    """A segment that this process has locked, and its content.

    `start`: where its records begin. `origin`: None if its first line does not say which Redis it is for.
    """

    def __init__(self, path: Path, *, any_head: bool = False) -> None:
        """`any_head`: a first line that is not ours is damage like any other, and not a reason to leave the file.

        Blocks while the file is read. Raises BlockingIOError if another process holds it, FileNotFoundError if it is
        not there, StrayError if it is no segment, and OSError."""
        self.path = path
        self._file = os.fdopen(_open(path, os.O_RDWR), "rb", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking it, another process may have replayed and deleted it.
            self.gone = not os.fstat(self._file.fileno()).st_nlink
            self.data = self._file.read(os.fstat(self._file.fileno()).st_size)
            self.start, self.origin = _head_of(path, self.data, any_head=any_head)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def delete(self) -> None:
        """Its events are counted, or set aside."""
        self.path.unlink(missing_ok=True)
        sync_directory(self.path.parent)


def _head_of(path: Path, data: bytes, *, any_head: bool = False) -> tuple[int, Origin | None]:
    """Where the records begin, and which Redis they are for. Raises StrayError without a first line of ours."""
    if (head := decode_head(data)) is not None:
        return head
    if path.suffix == OPEN and is_cut_head(data):
        return len(data), None  # its writer was killed before the first record
    if any_head:
        return 0, None
    raise StrayError("its first line is not a segment's")


class Usage(Struct, frozen=True):
    """What a spool directory holds. `damaged`: files of bytes that were set aside. `error`: why it cannot be read.

    `foreign`: segments for another Redis. They are among the strays, and not among the `segments`.
    """

    segments: int
    bytes: int
    oldest_age_s: float | None
    damaged: int
    strays: list[Stray] = []
    strays_more: int = 0
    error: str | None = None
    foreign: int = 0


NO_USAGE = Usage(0, 0, None, 0)


def usage(directory: Path, here: Origin | None = None) -> Usage:
    """Looks into each file, too. Raises nothing: a directory that cannot be read is part of the answer.

    `here`: the Redis of the configuration. Without it, every segment is taken for ours.
    """
    try:
        contents = list_contents(directory)
        damaged = _count_files(directory / "damaged")
    except OSError as error:
        return msgspec.structs.replace(NO_USAGE, error=f"{directory} cannot be read: {error.strerror}")
    ours, strays, foreign = [], contents.strays, 0
    for path in contents.segments:
        try:
            origin = _look_into(path)
            if here is not None and origin is not None and not origin.is_for(here):
                foreign += 1
                strays.append(Stray(path.name, origin.foreign_to(here)))
            else:
                ours.append(path)
        except FileNotFoundError:  # replayed meanwhile
            continue
        except OSError as error:
            strays.append(Stray(path.name, error.strerror or str(error)))
    age_s = max(0.0, time.time() - int(ours[0].name[:20]) / 1e9) if ours else None
    more = max(0, len(strays) - USAGE_STRAYS_MAX)
    return Usage(len(ours), contents.bytes, age_s, damaged, strays[:USAGE_STRAYS_MAX], more, foreign=foreign)


def _look_into(path: Path) -> Origin | None:
    """Raises StrayError unless it begins like a segment."""
    with os.fdopen(_open(path, os.O_RDONLY), "rb", buffering=0) as file:
        return _head_of(path, file.read(HEAD_BYTES_MAX))[1]


def _count_files(directory: Path) -> int:
    try:
        return sum(1 for _ in directory.iterdir())
    except FileNotFoundError:
        return 0
