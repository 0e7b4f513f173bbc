"""How long daily and weekly documents are kept: which buckets are old enough to be given up. Pure."""

from __future__ import annotations

import datetime as dt

from daemon.domain.bucket import buckets_of
from daemon.domain.rollup import DAILY, WEEKLY, Kind


def kept_from(kind: Kind, today: dt.date, *, daily_days: int, weekly_weeks: int) -> str | None:
    """The oldest bucket that is kept, `today`'s being the first of `daily_days` days or `weekly_weeks` weeks. None: all
    are, because the number is 0 or the rollup is never given up."""
    kept = {DAILY: dt.timedelta(days=daily_days), WEEKLY: dt.timedelta(weeks=weekly_weeks)}.get(kind)
    if not kept or kind.bucket_field is None:
        return None
    one = dt.timedelta(days=1) if kind is DAILY else dt.timedelta(weeks=1)
    buckets = buckets_of((today - kept + one).isoformat())
    assert buckets is not None
    return str(getattr(buckets, kind.bucket_field))
