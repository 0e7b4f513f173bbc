"""A counter's field in Redis and its amount, as text."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.counter import INT64_MAX, RESERVED, field_name, parse_amount, parse_field
from daemon.domain.rollup import DAILY, HOURLY, KINDS, TOTALS, Bucketed, Kind

names = st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True)


def buckets(kind: Bucketed, at: dt.datetime) -> dict[Kind, str | None]:
    """Where the amount goes that a field of the instant's bucket has."""
    field = parse_field(field_name("view", kind.bucket_of(at)))
    assert field is not None
    assert field.at == kind.start_of(at)
    return {KINDS[number]: bucket for number, bucket in field.buckets}


@given(st.datetimes())
def test_an_amount_of_an_hour_goes_to_every_rollup_and_one_of_a_day_to_all_but_the_hours(at: dt.datetime) -> None:
    every = {kind: kind.bucket_of(at) if isinstance(kind, Bucketed) else None for kind in KINDS}
    assert buckets(HOURLY, at) == every
    assert buckets(DAILY, at) == {kind: bucket for kind, bucket in every.items() if kind is not HOURLY}
    assert every[TOTALS] is None


@given(names.filter(lambda name: name not in RESERVED), st.datetimes(), st.sampled_from([HOURLY, DAILY]))
def test_a_field_is_read_as_it_was_written(counter: str, at: dt.datetime, kind: Bucketed) -> None:
    field = parse_field(field_name(counter, kind.bucket_of(at)))
    assert field is not None
    assert (field.counter, field.at) == (counter, kind.start_of(at))


def test_a_field_names_a_counter_and_a_bucket() -> None:
    assert field_name("view", "2026-02-19") == "view:2026-02-19"


@pytest.mark.parametrize(
    "name",
    [
        "", "view", "view:", ":2026-02-19", "view:2026-02-30", "view:2026-2-19", "view:2026-02-19 ",
        "view:2026-02-19\n", " view:2026-02-19", "View:2026-02-19", "view.x:2026-02-19", "$inc:2026-02-19",
        "_id:2026-02-19", "1view:2026-02-19", "view:20260219", "view:2026-W08-4", "view:٢٠٢٦-02-19",
        "view:2026-02-19:x", "view:2026-02-19T24", "view:2026-02-19T5", "view:2026-02-19t05", "view:2026-02-19 05",
        "view:2026-02-19T05:00", "view:2026-02-19T05Z", "view:2026-02-19T\N{ARABIC-INDIC DIGIT ZERO}5",
        "view:2026-02-30T05", "a" * 33 + ":2026-02-19", "view:0000-01-01",
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
