"""Segments: append-only files. One worker writes a segment; the process that locks it replays it.

    <time>-<pid>-<token>.open   being written, or left by a killed writer
    <time>-<pid>-<token>.seg    sealed

The writer holds an exclusive flock on its file. The kernel drops the lock when the process dies in any way. So a
segment that can be locked has no writer, and the process that locks it may replay and delete it. Names sort by time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

OPEN, SEALED = ".open", ".seg"
HEADER = b"tallyd spool 1\n"


class Writer:
    """The open segment of one worker. Methods block, and may raise OSError."""

    def __init__(self, directory: Path) -> None:
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
                    self.append(HEADER)
                    sync_directory(directory)
                    return
            except BlockingIOError:
                pass
            except OSError:
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


def list_segments(directory: Path) -> list[Path]:
    """All segments, oldest first, also those in use. Empty if the directory does not exist."""
    try:
        return sorted(path for path in directory.iterdir() if path.suffix in (OPEN, SEALED))
    except FileNotFoundError:
        return []


@contextmanager
def locked(path: Path) -> Iterator[bytes | None]:
    """The content of a segment, locked within the block. None if another process holds it, or it is gone."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    with os.fdopen(fd, "rb") as file:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file.read() if os.fstat(fd).st_nlink else None


class Usage(Struct, frozen=True):
    """What a spool directory holds. `damaged`: files of bytes that were set aside."""

    segments: int
    bytes: int
    oldest_age_s: float | None
    damaged: int


def usage(directory: Path) -> Usage:
    sizes, damaged = [], 0
    segments = list_segments(directory)
    for path in segments:
        with contextlib.suppress(FileNotFoundError):  # replayed meanwhile
            sizes.append(path.stat().st_size)
    with contextlib.suppress(FileNotFoundError):
        damaged = sum(1 for _ in (directory / "damaged").iterdir())
    age_s = max(0.0, time.time() - int(segments[0].name[:20]) / 1e9) if segments else None
    return Usage(len(segments), sum(sizes), age_s, damaged)
