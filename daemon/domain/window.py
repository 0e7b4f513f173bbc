"""Windows: the stretch of UTC days or hours a top list is about, as the fewest buckets of one rollup."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from daemon.domain.rollup import DAILY, HOURLY, INSTANT_STEP, KINDS, TOTALS, YEARLY, Kind, end_of_day, start_of_day

Window = Literal["total", "day", "week", "month", "year", "24h", "7d", "14d", "30d", "90d"]
WINDOWS: tuple[Window, ...] = get_args(Window)
ROLLING: Window = "24h"
"""The only one of hours: this hour and the 23 before it, so it begins at a full hour. For domains with hours."""
ROLLING_HOURS = 24


class Span(NamedTuple):
    """The buckets of `kind` whose sum a window is; none: `kind` has no buckets."""

    kind: Kind
    buckets: tuple[str, ...]


def span_of(window: Window, now: dt.datetime) -> Span:
    """The window that ends today; of hours, with this one. `now` is in UTC. Week, month and year are the calendar's
    (ISO weeks), and have only begun."""
    if window == "total":
        return Span(TOTALS, ())
    if window == "year":
        return Span(YEARLY, (YEARLY.bucket_of(now),))
    if window == ROLLING:
        return Span(HOURLY, tuple(HOURLY.bucket_of(hour) for hour in rolling_hours(now)))
    today = now.date()
    days = {"day": 1, "week": today.isoweekday(), "month": today.day, "7d": 7, "14d": 14, "30d": 30, "90d": 90}[window]
    return Span(DAILY, tuple(days_between(today - dt.timedelta(days - 1), today)))


def span_before(span: Span, window: Window) -> Span | None:
    """The window before that of `span`, whole: of the week that has begun, the week before it. None: there is none."""
    if not span.kind.bucket_field:
        return None
    first = span.buckets[0]
    begin = dt.datetime.fromisoformat(f"{first}-01-01" if span.kind is YEARLY else first)
    return span_of(window, begin - INSTANT_STEP) if begin > start_of_day(dt.date.min) else None


def rolling_hours(now: dt.datetime) -> list[dt.datetime]:
    """An instant of each hour of ROLLING, in their order."""
    return [now - n * HOURLY.length_min for n in reversed(range(ROLLING_HOURS))]


def kinds_of(windows: Iterable[Window]) -> tuple[Kind, ...]:
    """The rollups that these windows are read from, in the order of KINDS."""
    kinds = {span_of(window, end_of_day(dt.date.max)).kind for window in windows}
    return tuple(kind for kind in KINDS if kind in kinds)


def days_between(first: dt.date, last: dt.date) -> list[str]:
    """Every UTC day from the first to the last, both included."""
    return [dt.date.fromordinal(day).isoformat() for day in range(first.toordinal(), last.toordinal() + 1)]


RANKED = kinds_of(WINDOWS)
