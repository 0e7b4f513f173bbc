"""Chunks into lines, with the running digest that names each line and each place in the file.

The digest is BLAKE2b (128 bits) over the decompressed content from the file's first byte. A line's id is the digest up to
its last byte, its newline left out, so a line that is written again with everything before it has the same id, in
whatever file, under whatever name, compressed or not; and it keeps its id when a newline is added later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from msgspec import Struct

DIGEST_BYTES = 16


class Position(Struct, frozen=True):
    """A place in a file's content. Inside a line it is only ever at the end of one that had no newline yet."""

    bytes: int
    lines: int
    digest: str


def fresh_digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=DIGEST_BYTES)


class Lines:
    """Splits at newlines (`\\n` only). Memory is bounded by a chunk and `line_bytes_max`, whatever the content."""

    def __init__(
        self,
        line_bytes_max: int,
        start: Position | None = None,
        digest: hashlib.blake2b | None = None,
        *,
        inside_line: bool = False,
    ) -> None:
        """`start`, `digest`: where the first chunk begins; `inside_line`: skip the rest of a line that was taken in."""
        self.number = start.lines if start else 0
        """The line last yielded, counted from 1."""
        self._bytes = start.bytes if start else 0
        self._digest = digest or fresh_digest()
        self._line_bytes_max = line_bytes_max
        self._skip_rest = inside_line
        self._tail = b""
        self._dropped = 0
        """Bytes of an overlong line that were digested and forgotten, beyond those kept in the tail."""
        self._ended_by_newline = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that end in this chunk; one that is too long is cut to `line_bytes_max + 1` bytes.

        While a line is handed out, `line_id` and `position` speak of it.
        """
        if self._skip_rest:
            rest, newline, chunk = chunk.partition(b"\n")
            self._digest.update(rest + newline)
            self._bytes += len(rest) + len(newline)
            self._skip_rest = not newline
        if self._dropped:
            chunk = self._drop(chunk)
        *whole, tail = (self._tail + chunk).split(b"\n") if self._tail else chunk.split(b"\n")
        self._tail = tail
        self._ended_by_newline = True
        digest, line_bytes_max = self._digest, self._line_bytes_max
        for line in whole:
            digest.update(line)
            self._bytes += len(line) + 1
            self.number += 1
            yield line if len(line) <= line_bytes_max else line[: line_bytes_max + 1]
            digest.update(b"\n")
        if len(self._tail) > line_bytes_max:
            self._begin_drop()
