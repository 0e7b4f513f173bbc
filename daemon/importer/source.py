"""Reads a file or standard input: opens it, unpacks gzip, and hands out chunks. It does not look at the content.

Gzip is recognised by its first bytes, not by the name, also on standard input. A worker thread makes the chunks while
the event loop parses the chunk before. So every read here may block. Waiting for standard input looks at `stopping`.

Not `gzip.open`: at a cut, its `read` raises and drops what it unpacked since the last full buffer. And the two bytes
that tell gzip from text cannot be put back into a pipe.
"""

from __future__ import annotations

import os
import select
import tempfile
import threading
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

CHUNK_BYTES = 262_144
GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
"""Tells zlib to expect gzip's header."""
SPOOL_MEMORY_BYTES = 8 * 1_048_576
POLL_S = 0.2


class StoppedError(Exception):
    """`stopping` was set while a source was read."""


class UnreadableError(Exception):
    """The content cannot be read further. The message says why. What was read before is good."""


class FileSource:
    """A regular file. It can be read from any place, any number of times.

    `size_bytes`, `done_bytes`: as stored, compressed or not.
    """

    def __init__(self, path: Path, stopping: threading.Event) -> None:
        """Raises OSError if the file can't be opened."""
        with path.open("rb") as file:
            self.size_bytes = os.fstat(file.fileno()).st_size
        self.name = str(path)
        self.done_bytes = 0
        self._path = path
        self._stopping = stopping

    def chunks(self, offset: int, *, again: bool = False) -> Iterator[bytes]:  # noqa: ARG002 - a file always can
        try:
            with self._path.open("rb", buffering=0) as file:
                magic = file.read(len(GZIP_MAGIC))
                if magic == GZIP_MAGIC:
                    file.seek(0)
                    yield from _skip(gunzip(self._read(file.fileno(), 0)), offset)
                else:
                    file.seek(offset)
                    yield from self._read(file.fileno(), offset)
        except OSError as error:
            raise UnreadableError(error.strerror or str(error)) from None

    def close(self) -> None:
        """Does nothing: no file stays open between two calls of `chunks`."""

    def _read(self, descriptor: int, offset: int) -> Iterator[bytes]:
        self.done_bytes = offset
        while chunk := os.read(descriptor, CHUNK_BYTES):
            if self._stopping.is_set():
                raise StoppedError
            self.done_bytes += len(chunk)
            yield chunk


class StreamSource:
    """Standard input or a pipe. Content that is read again is kept in memory, and beyond that in an unnamed file."""

    size_bytes = None
    """Of a stream it is not known."""

    def __init__(self, descriptor: int, name: str, stopping: threading.Event) -> None:
        self.name = name
        self.done_bytes = 0
        self._descriptor = descriptor
        self._stopping = stopping
        self._fresh = self._open()
        self._failure: UnreadableError | None = None
        self._spool = tempfile.SpooledTemporaryFile(max_size=SPOOL_MEMORY_BYTES)  # noqa: SIM115 - as long as the source

    def chunks(self, offset: int, *, again: bool = False) -> Iterator[bytes]:
        """The decompressed content from `offset` on. `again`: it will be read once more."""
        assert offset <= self._spool.seek(0, os.SEEK_END), "only content that was kept can be read again"
        self._spool.seek(offset)
        while chunk := self._spool.read(CHUNK_BYTES):
            yield chunk
        if self._failure is not None:
            raise self._failure
        try:
            for chunk in self._fresh:
                if again:
                    self._spool.write(chunk)
                yield chunk
        except UnreadableError as error:
            self._failure = error
            raise

    def close(self) -> None:
        self._spool.close()

    def _open(self) -> Iterator[bytes]:
        raw = self._read()
        head = b""
        while len(head) < len(GZIP_MAGIC) and (chunk := next(raw, b"")):
            head += chunk
        whole = chain([head] if head else [], raw)
        yield from gunzip(whole) if head.startswith(GZIP_MAGIC) else whole

    def _read(self) -> Iterator[bytes]:
        while True:
            try:
                ready = select.select([self._descriptor], [], [], POLL_S)[0]
                chunk = os.read(self._descriptor, CHUNK_BYTES) if ready else None
            except OSError as error:
                raise UnreadableError(error.strerror or str(error)) from None
            if chunk == b"":
                return
            if self._stopping.is_set():
                raise StoppedError
            if chunk:
                self.done_bytes += len(chunk)
                yield chunk


Source = FileSource | StreamSource


def _skip(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    """The chunks without their first `count` bytes."""
    for chunk in chunks:
        if count < len(chunk):
            yield chunk[count:]
        count = max(0, count - len(chunk))


def gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Decompresses gzip, one member or several in a row, into chunks of bounded size."""
    member = zlib.decompressobj(_GZIP_WINDOW)
    begun = False
    try:
        for packed in chunks:
            pending = packed
            while pending:
                if member.eof:
                    pending = pending.lstrip(b"\0")  # tapes pad with zeros
                    if not pending:
                        break
                    member, begun = zlib.decompressobj(_GZIP_WINDOW), False
                begun = True
                plain = member.decompress(pending, CHUNK_BYTES)
                pending = member.unused_data if member.eof else member.unconsumed_tail
                if plain:
                    yield plain
        while begun and not member.eof and (plain := member.decompress(b"", CHUNK_BYTES)):
            yield plain
    except zlib.error as error:
        raise UnreadableError(f"the gzip data is damaged ({error})") from None
    if begun and not member.eof:
        raise UnreadableError("the gzip data ends too early: the file is cut off")
