"""An entity's history out of the rollups: one query by id, zero where nothing was counted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Any

from daemon.domain.entity import Entity
from daemon.domain.rollup import BUCKETED, Bucketed, end_of_day, start_of_day
from daemon.read.totals import counted
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import Json, MongoSink

POINTS_MAX = 10_000
"""Most points of one series."""
Bucket = str
"""The name of a rollup with buckets, one of SIZES."""
SIZES = {kind.name: kind for kind in BUCKETED}


def default_first(bucket: Bucket, last: dt.date) -> dt.date:
    """The first day of a series that ends on `last`, if the request names none."""
    kind = SIZES[bucket]
    return dt.date.fromordinal(max(1, last.toordinal() - (kind.length_min * (kind.points - 1)).days))


def is_too_long(bucket: Bucket, first: dt.date, last: dt.date, points_max: int) -> bool:
    """Whether the series has more points (give or take one, where a bucket is cut by its ends)."""
    return last - first >= points_max * SIZES[bucket].length_min


async def series(
    mongo: MongoSink, entity: Entity, bucket: Bucket, counters: Collection[str], first: dt.date, last: dt.date
) -> list[Json]:
    """One point a bucket from the one `first` is in to the one `last` is in. Raises StoreError."""
    kind = SIZES[bucket]
    names = _bucket_names(kind, first, last)
    with store_error(mongo.address):
        cursor = mongo.collection(kind).find({"_id": {"$in": [f"{entity.key}:{name}" for name in names]}})
        found: dict[str, Any] = {document[kind.bucket_field]: document async for document in cursor}
    return [{kind.bucket_field: name, **counted(found.get(name), counters)} for name in names]


def _bucket_names(kind: Bucketed, first: dt.date, last: dt.date) -> list[str]:
    """A step no longer than the shortest bucket leaves none out."""
    at, end = start_of_day(first), end_of_day(last)
    steps = range((end - at) // kind.length_min + 1)
    return list(dict.fromkeys(map(kind.bucket_of, (*(at + n * kind.length_min for n in steps), end))))
