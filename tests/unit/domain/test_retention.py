"""Which buckets are kept: today's is the first of as many as are configured."""

from __future__ import annotations

import datetime as dt

import pytest

from daemon.domain.retention import kept_from
from daemon.domain.rollup import DAILY, MONTHLY, WEEKLY, YEARLY, Bucketed

NOW = dt.datetime.fromisoformat("2027-01-02T03:04")  # a Saturday of 2026-W53


@pytest.mark.parametrize(
    ("kind", "days", "weeks", "oldest"),
    [
        (DAILY, 1, 0, "2027-01-02"),
        (DAILY, 3, 0, "2026-12-31"),
        (DAILY, 0, 5, None),
        (WEEKLY, 0, 1, "2026-W53"),
        (WEEKLY, 0, 53, "2026-W01"),
        (WEEKLY, 0, 54, "2025-W52"),
        (WEEKLY, 5, 0, None),
        (MONTHLY, 1, 1, None),
        (YEARLY, 1, 1, None),
    ],
)
def test_the_oldest_bucket_that_is_kept(kind: Bucketed, days: int, weeks: int, oldest: str | None) -> None:
    assert kept_from(kind, NOW, {"daily_days": days, "weekly_weeks": weeks}) == oldest
