r"""Splits chunks into lines, with a running digest that names each line and each place in the file.

The digest is BLAKE2b (128 bits) over the decompressed content from the first byte. A line's id is the digest up to its
last byte, without its newline. So a line has the same id in every file that is equal up to there, under any name,
compressed or not. It keeps its id when its newline is written later. Two logs that begin with the same lines are the
same log up to the first difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from msgspec import Struct

DIGEST_BYTES = 16


class Position(Struct, frozen=True):
    """A place in a file's content. It is inside a line only if that line was read before it had a newline."""

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
        """`start`, `digest`: where the first chunk begins. `inside_line`: skip the rest of a line read before."""
        self.number = start.lines
        """The last line that was handed out, counted from 1."""
        self._bytes = start.bytes
        self._digest = digest
        self._line_bytes_max = line_bytes_max
        self._tail = b""
        """The beginning of the next line, not digested yet."""
        self._cut: bytes | None = b"" if inside_line else None
        """The beginning of a line whose rest is digested and dropped. Empty: it is not handed out."""
        self._boundary = start
        self._newline_due = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that end in this chunk. One that is too long is cut to `line_bytes_max + 1` bytes.

        While a line is handed out, `line_id` and `position` are about it.
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
        """What stands after the last newline of a file that was read to its end. Often nothing."""
        line = self._cut or self._tail
        self._take(self._tail)
        self._tail, self._cut = b"", None
        if line:
            self.number += 1
        return line

    def line_id(self) -> str:
        return self._digest.copy().hexdigest()

    def position(self) -> Position:
        """The place after the line that is handed out. Between two feeds: after the last newline (see `boundary`)."""
        digest = self._digest.copy()
        digest.update(self._newline_due)
        return Position(self._bytes + len(self._newline_due), self.number, digest.hexdigest())

    def boundary(self) -> Position:
        """Between two feeds: the place after the last line that was handed out or skipped."""
        return self._boundary if self._cut else self.position()

    def _take(self, content: bytes) -> bytes:
        """Digests content that is not handed out. Returns empty bytes."""
        self._digest.update(content)
        self._bytes += len(content)
        return b""
