"""Buckets: the UTC day, ISO week, month and year an event is counted under.

Weeks are ISO 8601: they start on Monday and belong to the year of their Thursday, so 2024-12-30 is in 2025-W01 and
2027-01-01 in 2026-W53.
"""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple


class Buckets(NamedTuple):
    """The four names of one day, as they are written to MongoDB."""

    date: str
    week: str
    month: str
    year: str


def buckets_of(date: str) -> Buckets | None:
    """The buckets of a UTC date `YYYY-MM-DD`, or None if there is no such day."""
    try:
        day = dt.date.fromisoformat(date)
    except ValueError:
        return None
    iso_year, iso_week, _ = day.isocalendar()
    return Buckets(date, f"{iso_year:04d}-W{iso_week:02d}", date[:7], date[:4])
