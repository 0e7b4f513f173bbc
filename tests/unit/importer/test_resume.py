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


def recorded(content: bytes, began: str = "") -> Checkpoint:
    """What an import leaves that took in exactly this."""
    at = "2026-02-19T10:00:00+00:00"
    return Checkpoint(len(content), len(content.splitlines()), digest(content), "a.log", at, began)


def furthest(tmp_path: Path, content: bytes, *reached: Checkpoint, again_since: str | None = None) -> Start:
    file = tmp_path / "log"
    file.write_bytes(content)
    source = FileSource(file, threading.Event())
    opening, first_line = _look(source)
    assert first_line == digest(content.partition(b"\n")[0])
    start = Start(opening, first_line, Position(), fresh_digest())
    return _furthest(source, start, sorted(reached, key=lambda each: each.bytes), again_since)


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


@pytest.mark.parametrize(
    ("began", "size", "oldest"),
    [
        (("09", "10", "11"), 0, "09"),
        (("08", "10", "09"), 7, "09"),
        (("09", "08", "11"), 14, "11"),
        (("09", "10", "08"), 21, ""),
        (("09", "10", ""), 21, ""),  # written before 0.6.0
    ],
)
def test_again_it_is_the_first_place_behind_which_all_ids_are_known(
    tmp_path: Path, began: tuple[str, ...], size: int, oldest: str
) -> None:
    """And an import of it again says of those lines that the oldest of these imports counted them."""
    places = [recorded(CONTENT[: 7 * n], at) for n, at in enumerate(began, start=1)]
    start = furthest(tmp_path, CONTENT, *places, recorded(CONTENT[:9] + b"x", "11"), again_since="09")
    assert (start.position.bytes, start.began) == (size, oldest)
    assert start.digest.hexdigest() == digest(CONTENT[:size])


def test_going_on_from_there_reads_the_rest(tmp_path: Path) -> None:
    start = furthest(tmp_path, CONTENT, recorded(CONTENT[:300_000]))
    lines = Lines(1_000, start.position, start.digest, inside_line=start.inside_line)
    rest = list(lines.feed(CONTENT[300_000:]))
    assert lines.boundary() == Position(len(CONTENT), 100_000, digest(CONTENT))
    assert rest == CONTENT[300_000:].partition(b"\n")[2].splitlines()


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\n  {}\n", b"\xef\xbb\xbf{}"])
def test_the_opening_leaves_out_blank_lines(tmp_path: Path, content: bytes) -> None:
    assert furthest(tmp_path, content).opening == content.lstrip()[:16]
