"""The dedupe memory: the hash of an id, and the size of a window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.buffer import dedupe, scripts
from daemon.buffer.dedupe import EVENTS_PER_BUCKET, bucket_bits, digest_parts, hash_id


def hashed(*ids: str) -> list[tuple[int, int]]:
    """The (member, bucket) of each id."""
    return [digest_parts(hash_id(id_.encode()).digest()) for id_ in ids]


@given(st.lists(st.text(min_size=1, max_size=255), unique=True, min_size=2, max_size=50))
def test_an_id_has_always_the_same_hash_and_none_another_has(ids: list[str]) -> None:
    first = hashed(*ids)
    assert len(set(first)) == len(ids)
    assert hashed(*ids) == first


def test_the_hash_of_an_id_never_changes() -> None:
    """Every release must find the ids that another one stored."""
    assert hashed("e1", "01234567-89ab-cdef-0123-456789abcdef") == [
        (-2348327296642523729, 582917507),
        (5182302545470916911, 2153848483),
    ]


def test_hashes_are_spread_evenly() -> None:
    members, buckets = zip(*hashed(*(f"e{n}" for n in range(16_000))), strict=True)
    assert all(800 < [bucket % 16 for bucket in buckets].count(number) < 1_200 for number in range(16))
    assert 7_000 < sum(member < 0 for member in members) < 9_000


@given(st.integers(1, 2**31 - 1))
def test_the_first_window_is_laid_out_for_what_is_expected(expected: int) -> None:
    bits = bucket_bits(expected)
    assert 4 <= bits <= 28
    assert expected <= EVENTS_PER_BUCKET * 2**bits
    assert bits == 4 or expected > EVENTS_PER_BUCKET * 2 ** (bits - 1)


def test_the_script_has_the_same_bounds() -> None:
    assert f"EVENTS_PER_BUCKET = {EVENTS_PER_BUCKET} " in scripts.INGEST.source
    assert f"BITS_MAX = {dedupe._BITS_MAX}\n" in scripts.INGEST.source
