"""Instants: RFC 3339 date-times with an offset, as clients send them, turned into UTC.

Stricter than `datetime.fromisoformat` (which takes week dates and missing offsets) and than msgspec's decoder (which
takes a space for the `T` and rounds 23:59:59.9999999 up into the next day).
"""

from __future__ import annotations

import datetime as dt
import re

_SHAPE = re.compile(
    r"(\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:)([0-5]\d|60)(\.\d+)?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)\Z",
    re.ASCII | re.IGNORECASE,
)


is_utc = re.compile(r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?Z\Z", re.ASCII).match
"""Truthy if the text has the shape most clients send: `YYYY-MM-DDTHH:MM:SS[.fraction]Z`, with a time of day that
exists. Its date may still be no day. Such texts sort like their instants, as far as whole seconds go."""


def moment(us: int) -> str:
    """A seq or an epoch, both microseconds of Redis' clock, with the moment that it names. "none" for 0."""
    if not us:
        return "none"
    try:
        return f"{us} ({dt.datetime.fromtimestamp(us / 1e6, dt.UTC):%Y-%m-%d %H:%M:%S} UTC)"
    except (ValueError, OverflowError, OSError):  # beyond the year 9999: Redis' clock was wrong once
        return str(us)


def parse_instant(text: str) -> dt.datetime | None:
    """The instant in UTC, or None if the text is not an RFC 3339 date-time with an offset.

    A fraction is cut after microseconds. A leap second (`:60`) is read as the second before it: the same UTC day.
    Source: RFC 3339, section 5.6.
    """
    match = _SHAPE.match(text)
    if match is None:
        return None
    if match[2] == "60":
        text = f"{match[1]}59{text[match.end(2) :]}"
    try:
        instant = dt.datetime.fromisoformat(text.upper())
        return instant if instant.tzinfo is dt.UTC else instant.astimezone(dt.UTC)
    except (ValueError, OverflowError):  # no such day or hour; or year 1 or 9999 leaves the calendar in UTC
        return None
