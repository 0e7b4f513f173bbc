"""Windows: the stretch of UTC days a top list is about, as the fewest buckets of one rollup."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from daemon.domain.rollup import DAILY, KINDS, TOTALS, YEARLY, Kind, start_of_day

Window = Literal["total", "day", "week", "month", "year", "7d", "14d", "30d", "90d"]
WINDOWS: tuple[Window, ...] = get_args(Window)


class Span(NamedTuple):
    """The buckets of `kind` whose sum a window is; none: `kind` has no buckets."""

    kind: Kind
    buckets: tuple[str, ...]


def span_of(window: Window, today: dt.date) -> Span:
    """The window that ends today. Week, month and year are the calendar's (ISO weeks), and have only begun."""
    if window == "total":
        return Span(TOTALS, ())
    if window == "year":
        return Span(YEARLY, (YEARLY.bucket_of(start_of_day(today)),))
    days = {"day": 1, "week": today.isoweekday(), "month": today.day, "7d": 7, "14d": 14, "30d": 30, "90d": 90}[window]
    return Span(DAILY, tuple(days_between(today - dt.timedelta(days - 1), today)))


def span_before(span: Span, window: Window) -> Span | None:
    """The window before that of `span`, whole: of the week that has begun, the week before it. None: there is none."""
    if not span.kind.bucket_field:
        return None
    first = span.buckets[0]
    begin = dt.date(int(first), 1, 1) if span.kind is YEARLY else dt.date.fromisoformat(first)
    return span_of(window, begin - dt.timedelta(1)) if begin > dt.date.min else None


def kinds_of(windows: Iterable[Window]) -> tuple[Kind, ...]:
    """The rollups that these windows are read from, in the order of KINDS."""
    kinds = {span_of(window, dt.date.max).kind for window in windows}
    return tuple(kind for kind in KINDS if kind in kinds)


def days_between(first: dt.date, last: dt.date) -> list[str]:
    """Every UTC day from the first to the last, both included."""
    return [dt.date.fromordinal(day).isoformat() for day in range(first.toordinal(), last.toordinal() + 1)]


RANKED = kinds_of(WINDOWS)
