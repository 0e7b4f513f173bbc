"""A counter's field in Redis and its amount, as text."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.counter import INT64_MAX, RESERVED, field_name, parse_amount, parse_field
from daemon.domain.rollup import BUCKETED, FINEST

names = st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True)


@given(names.filter(lambda name: name not in RESERVED), st.datetimes())
def test_a_field_is_read_as_it_was_written(counter: str, at: dt.datetime) -> None:
    field = parse_field(field_name(counter, FINEST.bucket_of(at)))
    assert field is not None
    assert (field.counter, field.at) == (counter, FINEST.start_of(at))
    assert field.buckets == (None, *(kind.bucket_of(at) for kind in BUCKETED))


def test_a_field_names_a_counter_and_a_bucket() -> None:
    assert field_name("view", "2026-02-19") == "view:2026-02-19"


@pytest.mark.parametrize(
    "name",
    [
        "", "view", "view:", ":2026-02-19", "view:2026-02-30", "view:2026-2-19", "view:2026-02-19 ",
        "view:2026-02-19\n", " view:2026-02-19", "View:2026-02-19", "view.x:2026-02-19", "$inc:2026-02-19",
        "_id:2026-02-19", "1view:2026-02-19", "view:20260219", "view:2026-W08-4", "view:٢٠٢٦-02-19",
        "view:2026-02-19:x", "a" * 33 + ":2026-02-19", "view:0000-01-01",
        *(f"{name}:2026-02-19" for name in sorted(RESERVED)),
    ],
)  # fmt: skip
def test_a_field_that_is_not_ours_is_none(name: str) -> None:
    assert parse_field(name) is None


@given(st.text(max_size=40))
def test_no_text_is_too_odd_for_a_field_or_amount(text: str) -> None:
    parse_field(text)
    parse_amount(text)


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_64_bit_amount_is_read_to_the_last_digit(amount: int) -> None:
    assert parse_amount(str(amount)) == amount


@pytest.mark.parametrize(
    "text",
    [
        "", "-", "+1", "1.0", "1e3", " 1", "1 ", "1\n", "0x1", "٣", "²",
        str(INT64_MAX + 1), str(-INT64_MAX - 2), "9" * 400,
    ],
)  # fmt: skip
def test_an_amount_that_is_no_64_bit_number_is_none(text: str) -> None:
    assert parse_amount(text) is None
