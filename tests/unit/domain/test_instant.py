"""Instants: RFC 3339 with an offset, and nothing that only looks like it."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.domain.instant import parse_instant

UTC = dt.UTC


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-02-19T10:00:00Z", dt.datetime(2026, 2, 19, 10, tzinfo=UTC)),
        ("2026-02-19t10:00:00z", dt.datetime(2026, 2, 19, 10, tzinfo=UTC)),
        ("2026-02-19T10:00:00+07:00", dt.datetime(2026, 2, 19, 3, tzinfo=UTC)),
        ("2026-02-19T23:30:00-02:00", dt.datetime(2026, 2, 20, 1, 30, tzinfo=UTC)),
        ("2026-02-19T10:00:00-00:00", dt.datetime(2026, 2, 19, 10, tzinfo=UTC)),
        ("2026-02-19T10:00:00+23:59", dt.datetime(2026, 2, 18, 10, 1, tzinfo=UTC)),
        ("1970-01-01T00:00:00Z", dt.datetime(1970, 1, 1, tzinfo=UTC)),
        ("2024-02-29T00:00:00Z", dt.datetime(2024, 2, 29, tzinfo=UTC)),
        ("2026-02-19T10:00:00.5Z", dt.datetime(2026, 2, 19, 10, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-12-31T23:59:59.999999999Z", dt.datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", dt.datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("2016-12-31T23:59:60.75Z", dt.datetime(2016, 12, 31, 23, 59, 59, 750_000, tzinfo=UTC)),
        ("2017-01-01T08:59:60+09:00", dt.datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", dt.datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59Z", dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_an_instant_is_read_as_utc(text: str, instant: dt.datetime) -> None:
    found = parse_instant(text)
    assert found == instant
    assert found is not None
    assert found.utcoffset() == dt.timedelta(0)


offsets = st.integers(-(23 * 60 + 59), 23 * 60 + 59).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))


@given(st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1), timezones=offsets))  # noqa: DTZ001  (hypothesis adds the zone)
def test_every_instant_is_read_back(instant: dt.datetime) -> None:
    assert parse_instant(instant.isoformat()) == instant


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "2026-02-19", "10:00:00Z", "2026-02-19T10:00:00", "2026-02-19 10:00:00Z", "2026-02-19T10:00Z",
        "2026-02-19T10Z", "2026-02-19T100000Z", "20260219T100000Z", "2026-W08-4T10:00:00Z", "2026-050T10:00:00Z",
        "2026-2-19T10:00:00Z", "26-02-19T10:00:00Z", "02026-02-19T10:00:00Z", "-2026-02-19T10:00:00Z",
        "2025-02-29T10:00:00Z", "2026-00-19T10:00:00Z", "2026-13-19T10:00:00Z", "2026-02-00T10:00:00Z",
        "2026-02-32T10:00:00Z", "0000-01-01T00:00:00Z", "2026-02-19T24:00:00Z", "2026-02-19T25:00:00Z",
        "2026-02-19T10:60:00Z", "2026-02-19T10:00:61Z", "2026-02-19T10:00:99Z", "2026-02-19T10:00:00.Z",
        "2026-02-19T10:00:00,5Z", "2026-02-19T10:00:00+7:00", "2026-02-19T10:00:00+0700", "2026-02-19T10:00:00+07",
        "2026-02-19T10:00:00+24:00", "2026-02-19T10:00:00+07:60", "2026-02-19T10:00:00+07:00:00",
        "2026-02-19T10:00:00 Z", "2026-02-19T10:00:00Z ", " 2026-02-19T10:00:00Z", "2026-02-19T10:00:00Z\n",
        "2026-02-19T10:00:00ZZ", "2026-02-19T10:00:00Z+07:00", "2026-02-19T10:00:00UTC", "2026-02-19T10:00:00.1.2Z",
        "٢٠٢٦-02-19T10:00:00Z", "2026\u201302\u201319T10:00:00Z", "2026-02-19T10:00:00\uff3a",
        "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "2026-02-30T10:00:00Z", "10000-01-01T00:00:00Z",
        "+2026-02-19T10:00:00Z", "2026-02-19T10:00:00Z[UTC]", "2026-02-19T10:00:00+07:00:30",
    ],
)  # fmt: skip
def test_what_is_no_rfc_3339_instant_with_an_offset_is_none(text: str) -> None:
    assert parse_instant(text) is None


@given(st.text(max_size=60) | st.text("0123456789TtZz:+-., W", max_size=40))
@example("9" * 40)
@example("2026-02-19T10:00:00." + "9" * 10_000 + "Z")
def test_no_text_is_too_odd(text: str) -> None:
    parse_instant(text)
