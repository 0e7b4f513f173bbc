"""Top lists and series out of the rollups. One indexed query each."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

from pymongo import DESCENDING
from pymongo.errors import PyMongoError

from daemon.domain.bucket import buckets_of
from daemon.domain.entity import Entity
from daemon.domain.rollup import DAILY, MONTHLY, TOTALS, WEEKLY, YEARLY, Kind, total
from daemon.errors import StoreError
from daemon.sinks.mongo import Json, MongoSink

BUCKET_KINDS = {"daily": DAILY, "weekly": WEEKLY, "monthly": MONTHLY, "yearly": YEARLY}
POINTS_MAX = 10_000
"""Most points of one series."""


async def top(mongo: MongoSink, domain: str, entity_type: str, counter: str, limit: int) -> list[Json]:
    """The entities with the highest totals of a counter, highest first. Served by the `top_` index."""
    cursor = (
        mongo.collection(TOTALS)
        .find({"domain": domain, "entity_type": entity_type}, {"_id": 0, "entity_id": 1, counter: 1})
        .sort([(counter, DESCENDING)])
        .limit(limit)
    )
    try:
        return [{"entity_id": d["entity_id"], counter: int(d.get(counter, 0))} async for d in cursor]
    except PyMongoError as error:
        raise StoreError(f"MongoDB: {error}") from None


async def series(
    mongo: MongoSink, entity: Entity, kind: Kind, counters: tuple[str, ...], first: dt.date, last: dt.date
) -> list[Json]:
    """One point a bucket from the one `first` is in to the one `last` is in, zero where nothing was counted."""
    assert kind.bucket_field is not None
    names = list(dict.fromkeys(_bucket_names(kind, first, last)))
    try:
        cursor = mongo.collection(kind).find({"_id": {"$in": [f"{entity.key}:{name}" for name in names]}})
        found: dict[str, Any] = {document[kind.bucket_field]: document async for document in cursor}
    except PyMongoError as error:
        raise StoreError(f"MongoDB: {error}") from None
    return [
        {kind.bucket_field: name, **{counter: total(found.get(name, {}), counter) for counter in counters}}
        for name in names
    ]


def _bucket_names(kind: Kind, first: dt.date, last: dt.date) -> Iterator[str]:
    for day in range(first.toordinal(), last.toordinal() + 1):
        buckets = buckets_of(dt.date.fromordinal(day).isoformat())
        assert buckets is not None
        assert kind.bucket_field is not None
        yield getattr(buckets, kind.bucket_field)
