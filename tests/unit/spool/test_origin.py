"""The first line of a segment: which Redis its events are for, and whether that is this one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.spool.origin import Origin, decode_head, encode_head, is_cut_head, redis_address

ORIGINS = st.builds(
    Origin,
    st.integers(0, 2**53),
    st.integers(1, 9),
    st.integers(1, 99),
    st.integers(1, 10**6),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://127.0.0.1:6379/0", "127.0.0.1:6379/0"),
        ("redis://user:secret@Cache.example", "cache.example:6379/0"),
        ("rediss://:secret@[::1]:7000/3?ssl_ca_certs=/x", "::1:7000/3"),
        ("redis://cache:7000?db=2", "cache:7000/2"),
        ("unix:///run/redis.sock", "/run/redis.sock/0"),
        ("unix://user:secret@/run/redis.sock?db=4", "/run/redis.sock/4"),
    ],
)
def test_an_address_has_no_user_and_no_password(url: str, address: str) -> None:
    assert redis_address(url) == address


@pytest.mark.parametrize(
    ("epoch", "redis", "is_ours"),
    [(7, "here", True), (7, "there", True), (8, "here", True), (0, "here", True), (8, "there", False),
     (0, "there", False)],
)  # fmt: skip
def test_a_segment_is_ours_by_its_epoch_or_its_address(epoch: int, redis: str, is_ours: bool) -> None:
    assert Origin(epoch, 1, 1, 1, redis).is_for(Origin(7, 1, 1, 1, "here")) is is_ours


def test_an_epoch_that_nobody_knows_is_no_epoch() -> None:
    assert not Origin(0, 1, 1, 1, "there").is_for(Origin(0, 1, 1, 1, "here"))


@given(ORIGINS, st.binary(max_size=50))
def test_a_first_line_comes_back_and_a_cut_one_is_told(origin: Origin, records: bytes) -> None:
    line = encode_head(origin)
    assert decode_head(line + records) == (len(line), origin)
    for cut in range(len(line)):
        assert decode_head(line[:cut]) is None
        assert is_cut_head(line[:cut])
    assert not is_cut_head(line)


def test_a_first_line_of_0_2_0_names_no_redis() -> None:
    assert decode_head(b"tallyd spool 1\nrecords") == (15, None)


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    for each in (data, b"tallyd spool 2 " + data, b"tallyd spool 2 " + data + b"\n"):
        decode_head(each)
        is_cut_head(each)
