"""Windows: which days and buckets each is made of."""

from __future__ import annotations

import datetime as dt

import pytest

from daemon.domain.rollup import DAILY, TOTALS, YEARLY
from daemon.domain.window import Window, span_before, span_of

FRIDAY = dt.date(2026, 11, 20)


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
    assert span_of("week", dt.date(2027, 1, 1)).buckets == (
        "2026-12-28", "2026-12-29", "2026-12-30", "2026-12-31", "2027-01-01"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("window", "first", "last", "days"),
    [
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
    assert span_before(span_of("day", dt.date.min), "day") is None
