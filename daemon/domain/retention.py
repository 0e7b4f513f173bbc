"""How many buckets of a rollup are kept: which are old enough to be given up. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from daemon.domain.rollup import Bucketed


def kept_from(kind: Bucketed, now: dt.datetime, kept: Mapping[str, int]) -> str | None:
    """The oldest bucket that is kept; `now` (UTC) is in the newest. None: all buckets are kept.

    `kept`: the keys of `[retention]`, each a number of buckets; 0 keeps all.
    """
    buckets = kept.get(kind.retention_key, 0)
    return kind.bucket_of(now - (buckets - 1) * kind.length_min) if buckets else None
