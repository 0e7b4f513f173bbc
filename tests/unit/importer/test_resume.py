"""Where counting starts, given what was recorded of earlier imports."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from daemon.buffer.imports import Checkpoint
from daemon.importer.lines import Lines, Position, fresh_digest
from daemon.importer.resume import Start, _furthest, _look
from daemon.importer.source import CHUNK_BYTES, FileSource

CONTENT = b"".join(b"line %d\n" % n for n in range(100_000))
assert len(CONTENT) > 3 * CHUNK_BYTES


def digest(content: bytes) -> str:
    running = fresh_digest()
    running.update(content)
    return running.hexdigest()


def recorded(content: bytes) -> Checkpoint:
    """What an import leaves that took in exactly this."""
    return Checkpoint(len(content), len(content.splitlines()), digest(content), "a.log", "2026-02-19T10:00:00+00:00")


def furthest(tmp_path: Path, content: bytes, *reached: Checkpoint) -> Start:
    file = tmp_path / "log"
    file.write_bytes(content)
    source = FileSource(file, threading.Event())
    opening, first_line = _look(source)
    assert first_line == digest(content.partition(b"\n")[0])
    return _furthest(
        source, Start(opening, first_line, Position(), fresh_digest()), sorted(reached, key=lambda each: each.bytes)
    )


@pytest.mark.parametrize("size", [7, CHUNK_BYTES, CHUNK_BYTES + 1, len(CONTENT) - 7, len(CONTENT)])
def test_a_place_is_found_wherever_it_lies(tmp_path: Path, size: int) -> None:
    place = CONTENT[:size]
    start = furthest(tmp_path, CONTENT, recorded(place))
    assert start.position == Position(size, len(place.splitlines()), digest(place))
    assert start.digest.hexdigest() == digest(place)
    assert start.inside_line is not place.endswith(b"\n")


def test_the_furthest_place_that_agrees_wins(tmp_path: Path) -> None:
    places = [recorded(CONTENT[:n]) for n in (7, 14, 300_000)]
    foreign = [recorded(CONTENT[: size - 1] + b"x") for size in (7, 20, 300_000, 500_000)]
    beyond = recorded(CONTENT + b"more\n")
    assert furthest(tmp_path, CONTENT, *places, *foreign, beyond).position.bytes == 300_000


def test_other_content_starts_at_the_beginning(tmp_path: Path) -> None:
    start = furthest(tmp_path, CONTENT, recorded(CONTENT[:13] + b"x"), recorded(CONTENT + b"more\n"))
    assert start.position == Position()
    assert start.digest.hexdigest() == digest(b"")


def test_going_on_from_there_reads_the_rest(tmp_path: Path) -> None:
    start = furthest(tmp_path, CONTENT, recorded(CONTENT[:300_000]))
    lines = Lines(1_000, start.position, start.digest, inside_line=start.inside_line)
    rest = list(lines.feed(CONTENT[300_000:]))
    assert lines.boundary() == Position(len(CONTENT), 100_000, digest(CONTENT))
    assert rest == CONTENT[300_000:].partition(b"\n")[2].splitlines()


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\n  {}\n", b"\xef\xbb\xbf{}"])
def test_the_opening_leaves_out_blank_lines(tmp_path: Path, content: bytes) -> None:
    assert furthest(tmp_path, content).opening == content.lstrip()[:16]
