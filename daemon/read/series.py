"""An entity's history out of the rollups: one query by id, zero where nothing was counted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

from pymongo.errors import PyMongoError

from daemon.domain.bucket import buckets_of
from daemon.domain.entity import Entity
from daemon.domain.rollup import DAILY, MONTHLY, WEEKLY, YEARLY, Kind
from daemon.errors import StoreError
from daemon.read.totals import counted
from daemon.rollups.mongo import Json, MongoSink

Bucket = Literal["daily", "weekly", "monthly", "yearly"]
POINTS_MAX = 10_000
"""Most points of one series."""


class Size(NamedTuple):
    """Days a bucket has at least, and points of a series whose first day nobody named."""

    kind: Kind
    days: int
    points: int


SIZES: dict[Bucket, Size] = {
    "daily": Size(DAILY, 1, 30),
    "weekly": Size(WEEKLY, 7, 12),
    "monthly": Size(MONTHLY, 28, 12),
    "yearly": Size(YEARLY, 365, 5),
}


def default_first(bucket: Bucket, last: dt.date) -> dt.date:
    """The first day of a series that ends on `last`, if nobody says which."""
    size = SIZES[bucket]
    return dt.date.fromordinal(max(1, last.toordinal() - size.days * (size.points - 1)))


def is_too_long(bucket: Bucket, first: dt.date, last: dt.date, points_max: int) -> bool:
    """Whether the series has more points (give or take one, where a bucket is cut by its ends)."""
    return (last - first).days >= points_max * SIZES[bucket].days


async def series(
    mongo: MongoSink, entity: Entity, bucket: Bucket, counters: Collection[str], first: dt.date, last: dt.date
) -> list[Json]:
    """One point a bucket from the one `first` is in to the one `last` is in. Raises StoreError."""
    kind = SIZES[bucket].kind
    assert kind.bucket_field is not None
    names = _bucket_names(SIZES[bucket], first, last)
    try:
        cursor = mongo.collection(kind).find({"_id": {"$in": [f"{entity.key}:{name}" for name in names]}})
        found: dict[str, Any] = {document[kind.bucket_field]: document async for document in cursor}
    except PyMongoError as error:
        raise StoreError(f"MongoDB: {error}") from None
    return [{kind.bucket_field: name, **counted(found.get(name), counters)} for name in names]


def _bucket_names(size: Size, first: dt.date, last: dt.date) -> list[str]:
    """A step no longer than the shortest bucket leaves none out."""
    assert size.kind.bucket_field is not None
    names: dict[str, None] = {}
    for day in (*range(first.toordinal(), last.toordinal(), size.days), last.toordinal()):
        buckets = buckets_of(dt.date.fromordinal(day).isoformat())
        assert buckets is not None
        names[getattr(buckets, size.kind.bucket_field)] = None
    return list(names)
