"""Chunks into lines, and the digests that name them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from daemon.importer.lines import Lines, Position, fresh_digest

CONTENT = st.lists(st.sampled_from([b"\n", b"\r", b"a", b"bc", b"x" * 70, b"\x00\xff"]), max_size=40).map(b"".join)


def digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def read(chunks: Iterable[bytes], line_bytes_max: int = 1_000) -> tuple[list[tuple[bytes, str, Position]], Position]:
    """Every line with its id and the place behind it, and the boundary before the unterminated rest."""
    lines = Lines(line_bytes_max, Position(), fresh_digest())
    found = [(line, lines.line_id(), lines.position()) for chunk in chunks for line in lines.feed(chunk)]
    boundary = lines.boundary()
    if rest := lines.rest():
        found.append((rest, lines.line_id(), lines.position()))
    return found, boundary


def pieces(content: bytes, sizes: list[int]) -> list[bytes]:
    cut, at = [], 0
    for size in sizes:
        cut.append(content[at : at + size])
        at += size
    return [*cut, content[at:]]


@given(CONTENT, st.lists(st.integers(1, 90), max_size=30))
def test_how_the_content_is_cut_into_chunks_makes_no_difference(content: bytes, sizes: list[int]) -> None:
    assert read(pieces(content, sizes), 64) == read([content], 64)


@given(CONTENT)
def test_ids_and_places_are_digests_of_everything_before(content: bytes) -> None:
    found, boundary = read([content])
    assert b"".join(line + b"\n" for line, _, _ in found) in (content, content + b"\n")
    at = 0
    for number, (line, line_id, position) in enumerate(found, start=1):
        at += len(line)
        assert line_id == digest(content[:at])
        at = min(at + 1, len(content))
        assert position == Position(at, number, digest(content[:at]))
    complete = content.rfind(b"\n") + 1
    assert boundary == Position(complete, content.count(b"\n"), digest(content[:complete]))


@given(CONTENT, st.lists(st.integers(1, 90), max_size=30))
def test_a_line_that_is_too_long_is_cut_and_the_next_are_untouched(content: bytes, sizes: list[int]) -> None:
    found, _ = read(pieces(content, sizes), 64)
    whole, _ = read([content])
    assert [(line[:65], line_id, position) for line, line_id, position in whole] == found


def test_a_long_line_is_not_kept_in_memory() -> None:
    lines = Lines(64, Position(), fresh_digest())
    for _ in range(1_000):
        assert list(lines.feed(b"x" * 10_000)) == []
        assert len(lines._tail) + len(lines._cut or b"") <= 65
    assert [len(line) for line in lines.feed(b"x\nshort\n")] == [65, 5]


def test_going_on_in_the_middle_gives_what_reading_from_the_beginning_gives() -> None:
    content = b"one\ntwo\nthree\n"
    whole, end = read([content])
    start = whole[0][2]
    resumed = fresh_digest()
    resumed.update(content[: start.bytes])
    lines = Lines(1_000, start, resumed)
    rest = [(line, lines.line_id(), lines.position()) for line in lines.feed(content[start.bytes :])]
    assert rest == whole[1:]
    assert lines.boundary() == end


def test_the_rest_of_a_line_that_was_taken_in_unfinished_is_skipped() -> None:
    begun = b"one\ntw"
    resumed = fresh_digest()
    resumed.update(begun)
    lines = Lines(1_000, Position(len(begun), 2, digest(begun)), resumed, inside_line=True)
    assert list(lines.feed(b"o, gr")) == []
    assert lines.boundary() == Position(11, 2, digest(b"one\ntwo, gr"))
    assert [(line, lines.number, lines.line_id()) for line in lines.feed(b"own\nthree\n")] == [
        (b"three", 3, digest(b"one\ntwo, grown\nthree"))
    ]
    assert lines.boundary() == Position(21, 3, digest(b"one\ntwo, grown\nthree\n"))
    assert lines.rest() == b""
