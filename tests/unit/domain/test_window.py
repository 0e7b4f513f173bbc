"""Windows: which days and buckets each is made of."""

from __future__ import annotations

import datetime as dt

import pytest

from daemon.domain.rollup import DAILY, HOURLY, TOTALS, YEARLY
from daemon.domain.window import Window, span_before, span_of

FRIDAY = dt.datetime(2026, 11, 20, 5, 59, 59, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("window", "first", "days"),
    [
        ("day", "2026-11-20", 1),
        ("week", "2026-11-16", 5),
        ("month", "2026-11-01", 20),
        ("7d", "2026-11-14", 7),
        ("14d", "2026-11-07", 14),
        ("30d", "2026-10-22", 30),
        ("90d", "2026-08-23", 90),
    ],
)
def test_a_window_of_days_ends_today(window: Window, first: str, days: int) -> None:
    span = span_of(window, FRIDAY)
    assert span.kind is DAILY
    assert (span.buckets[0], span.buckets[-1], len(span.buckets)) == (first, "2026-11-20", days)


def test_total_and_year_are_one_bucket() -> None:
    assert span_of("total", FRIDAY) == (TOTALS, ())
    assert span_of("year", FRIDAY) == (YEARLY, ("2026",))


def test_a_week_that_began_last_year_has_its_days() -> None:
    assert span_of("week", dt.datetime(2027, 1, 1, tzinfo=dt.UTC)).buckets == (
        "2026-12-28", "2026-12-29", "2026-12-30", "2026-12-31", "2027-01-01"
    )  # fmt: skip


def test_24_hours_are_this_one_and_the_23_before() -> None:
    kind, buckets = span_of("24h", FRIDAY)
    assert kind is HOURLY
    assert (buckets[0], buckets[-1], len(set(buckets))) == ("2026-11-19T06", "2026-11-20T05", 24)
    assert list(buckets) == sorted(buckets)


@pytest.mark.parametrize(
    ("window", "first", "last", "days"),
    [
        ("24h", "2026-11-18T06", "2026-11-19T05", 24),
        ("day", "2026-11-19", "2026-11-19", 1),
        ("week", "2026-11-09", "2026-11-15", 7),
        ("month", "2026-10-01", "2026-10-31", 31),
        ("7d", "2026-11-07", "2026-11-13", 7),
        ("90d", "2026-05-25", "2026-08-22", 90),
    ],
)
def test_the_window_before_is_whole_and_ends_where_the_window_begins(
    window: Window, first: str, last: str, days: int
) -> None:
    before = span_before(span_of(window, FRIDAY), window)
    assert before is not None
    assert (before.buckets[0], before.buckets[-1], len(before.buckets)) == (first, last, days)


def test_the_year_before_is_one_bucket_and_nothing_is_before_everything() -> None:
    assert span_before(span_of("year", FRIDAY), "year") == (YEARLY, ("2025",))
    assert span_before(span_of("total", FRIDAY), "total") is None
    for window in ("day", "24h"):
        first = dt.datetime(1, 1, 1, 23, tzinfo=dt.UTC)
        assert span_before(span_of(window, first), window) is None
