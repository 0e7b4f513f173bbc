"""Windows: which days and buckets each is made of."""

from __future__ import annotations

import datetime as dt

import pytest

from daemon.domain.rollup import DAILY, TOTALS, YEARLY
from daemon.domain.window import Window, span_of

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
