"""Windows: the stretch of UTC days a top list is about, as the fewest buckets of one rollup."""

from __future__ import annotations

import datetime as dt
from typing import Literal, NamedTuple, get_args

from daemon.domain.rollup import DAILY, KINDS, TOTALS, YEARLY, Kind, start_of_day

Window = Literal["total", "day", "week", "month", "year", "7d", "14d", "30d", "90d"]
WINDOWS: tuple[Window, ...] = get_args(Window)


class Span(NamedTuple):
    """The buckets of `kind` whose sum a window is; none: `kind` has no buckets."""

    kind: Kind
    buckets: tuple[str, ...]
    first: dt.date | None
    last: dt.date | None


def kind_of(window: Window) -> Kind:
    """The rollup a window is read from."""
    kinds: dict[Window, Kind] = {"total": TOTALS, "year": YEARLY}
    return kinds.get(window, DAILY)


RANKED = tuple(kind for kind in KINDS if kind in {kind_of(window) for window in WINDOWS})
"""The rollups that some window is read from."""


def span_of(window: Window, today: dt.date) -> Span:
    """The window that ends today. Week, month and year are the calendar's (ISO weeks), and have only begun."""
    if window == "total":
        return Span(TOTALS, (), None, None)
    if window == "year":
        start = start_of_day(today)
        return Span(YEARLY, (YEARLY.bucket_of(start),), YEARLY.start_of(start).date(), today)
    days = {"day": 1, "week": today.isoweekday(), "month": today.day, "7d": 7, "14d": 14, "30d": 30, "90d": 90}[window]
    first = today - dt.timedelta(days - 1)
    return Span(DAILY, tuple(days_between(first, today)), first, today)


def days_between(first: dt.date, last: dt.date) -> list[str]:
    """Every UTC day from the first to the last, both included."""
    return [dt.date.fromordinal(day).isoformat() for day in range(first.toordinal(), last.toordinal() + 1)]
