"""Finds where counting starts in a file: after all that an earlier import of it, or of a copy, has counted.

The first line finds the recorded places. The content up to each place is digested and compared. The furthest place that
agrees wins. With `--again` it is the first one behind which Redis still knows the id of every line: those that were
counted are duplicates. All but the question to Redis runs in a worker thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Iterator, Sequence

from msgspec import Struct, structs

from daemon.buffer.imports import Checkpoint
from daemon.importer.lines import Position, fresh_digest
from daemon.importer.source import Source, UnreadableError
from daemon.importer.store import Store

OPENING_BYTES = 16


class Start(Struct, frozen=True):
    """Where to begin, and the running digest there. `inside_line`: the rest of a line that was counted unfinished."""

    opening: bytes
    """The beginning of the file without blank lines: enough to recognise its format."""
    first_line: str
    """The digest under which the file's places are recorded."""
    position: Position
    digest: hashlib.blake2b
    inside_line: bool = False
    began: str = ""
    """When an earlier import may first have counted a line behind this place. "": none did."""


async def find_start(source: Source, store: Store, again_since: str | None = None) -> Start:
    """`again_since`: lines that were imported since then are read again. A UTC time as in a `Checkpoint`.

    Raises UnreadableError, StoppedError, StoreError."""
    opening, first_line = await asyncio.to_thread(_look, source)
    reached = await store.reached(first_line)
    start = Start(opening, first_line, Position(), fresh_digest())
    return await asyncio.to_thread(_furthest, source, start, reached, again_since) if reached else start


def _look(source: Source) -> tuple[bytes, str]:
    """The beginning of the file, and the digest up to the first newline or the end."""
    opening, digest = b"", fresh_digest()
    for chunk in source.chunks(0, again=True):
        opening = opening or chunk.lstrip()[:OPENING_BYTES]
        line, newline, _ = chunk.partition(b"\n")
        digest.update(line)
        if newline:
            break
    return opening, digest.hexdigest()


def _furthest(source: Source, start: Start, reached: Sequence[Checkpoint], again_since: str | None = None) -> Start:
    """`reached` is sorted. A place beyond the end of the content was recorded for another file."""
    digest, at = fresh_digest(), 0
    known: list[tuple[Start, str]] = []
    """The places that end a stretch of lines whose ids are known, each as the place before it and its `began`."""
    todo = list(reversed(reached))
    for chunk in _readable(source):
        begin = at
        while todo and todo[-1].bytes <= begin + len(chunk):
            checkpoint = todo.pop()
            digest.update(chunk[at - begin : checkpoint.bytes - begin])
            last_byte = chunk[checkpoint.bytes - begin - 1 : checkpoint.bytes - begin]
            at = checkpoint.bytes
            if digest.copy().hexdigest() == checkpoint.digest:
                position = Position(checkpoint.bytes, checkpoint.lines, checkpoint.digest)
                if again_since is not None:
                    known = [*known, (start, checkpoint.began)] if checkpoint.began >= again_since else []
                start = structs.replace(start, position=position, digest=digest.copy(), inside_line=last_byte != b"\n")
        if not todo:
            break
        digest.update(chunk[at - begin :])
        at = begin + len(chunk)
    return structs.replace(known[0][0], began=min(began for _, began in known)) if known else start


def _readable(source: Source) -> Iterator[bytes]:
    """The chunks up to damage. The reading of the content reports the damage."""
    with contextlib.suppress(UnreadableError):
        yield from source.chunks(0, again=True)
