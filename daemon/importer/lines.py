r"""Chunks into lines, with the running digest that names each line and each place in the file.

The digest is BLAKE2b (128 bits) over the decompressed content from the file's first byte. A line's id is the digest up
to its last byte, its newline left out. So a line that stands again behind everything that stood before it has the same
id, in a file of whatever name, compressed or not; and it keeps its id when its newline is written later than itself.
Two logs that begin with the same lines are the same log up to where they part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from msgspec import Struct

DIGEST_BYTES = 16


class Position(Struct, frozen=True):
    """A place in a file's content. It is inside a line only behind one that was taken in before it had a newline."""

    bytes: int = 0
    lines: int = 0
    digest: str = ""


def fresh_digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=DIGEST_BYTES)


class Lines:
    r"""Splits at `\n` only. Holds no more than a chunk and `line_bytes_max`, whatever the content."""

    def __init__(
        self, line_bytes_max: int, start: Position, digest: hashlib.blake2b, *, inside_line: bool = False
    ) -> None:
        """`start`, `digest`: where the first chunk begins; `inside_line`: skip the rest of a line taken in earlier."""
        self.number = start.lines
        """The line last handed out, counted from 1."""
        self._bytes = start.bytes
        self._digest = digest
        self._line_bytes_max = line_bytes_max
        self._tail = b""
        """The beginning of the next line, not digested yet."""
        self._cut: bytes | None = b"" if inside_line else None
        """The beginning of a line of which the rest is digested and dropped; empty: it is not handed out at all."""
        self._boundary = start
        self._newline_due = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that end in this chunk; one that is too long is cut to `line_bytes_max + 1` bytes.

        While a line is handed out, `line_id` and `position` speak of it.
        """
        self._newline_due = b"\n"
        if self._cut is not None:
            rest, newline, chunk = chunk.partition(b"\n")
            self._take(rest)
            if newline:
                if self._cut:
                    self.number += 1
                    yield self._cut
                self._take(newline)
                self._cut = None
        if self._cut is None:
            *whole, self._tail = (self._tail + chunk if self._tail else chunk).split(b"\n")
            digest, line_bytes_max = self._digest, self._line_bytes_max
            for line in whole:
                digest.update(line)
                self._bytes += len(line)
                self.number += 1
                yield line if len(line) <= line_bytes_max else line[: line_bytes_max + 1]
                digest.update(b"\n")
                self._bytes += 1
        self._newline_due = b""
        if len(self._tail) > self._line_bytes_max:
            self._boundary = self.position()
            self._cut, self._tail = self._tail[: self._line_bytes_max + 1], self._take(self._tail)

    def rest(self) -> bytes:
        """What stands behind the last newline of a file that was read to its end; often nothing."""
        line = self._cut or self._tail
        self._take(self._tail)
        self._tail, self._cut = b"", None
        if line:
            self.number += 1
        return line

    def line_id(self) -> str:
        return self._digest.copy().hexdigest()

    def position(self) -> Position:
        """The place behind the line handed out, or between two feeds behind the last newline (see `boundary`)."""
        digest = self._digest.copy()
        digest.update(self._newline_due)
        return Position(self._bytes + len(self._newline_due), self.number, digest.hexdigest())

    def boundary(self) -> Position:
        """Between two feeds: the place behind the last line that was handed out or skipped."""
        return self._boundary if self._cut else self.position()

    def _take(self, content: bytes) -> bytes:
        """Digests content that is not handed out; returns nothing, as bytes."""
        self._digest.update(content)
        self._bytes += len(content)
        return b""
