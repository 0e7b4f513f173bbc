"""An entity's history out of the rollups: one query by its natural key, zero where nothing was counted.

A series may have thousands of points, and most of them may be zeros: an entity that nobody knows has nothing else. So
the points are written as JSON at once, without an object for each, and the names of buckets are remembered.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from bisect import bisect_left, bisect_right
from collections.abc import Collection
from functools import lru_cache

import msgspec

from daemon.domain.entity import Entity
from daemon.domain.rollup import BUCKETED, Bucketed, end_of_day, start_of_day, total
from daemon.read.slices import SLICE_ITEMS, batches
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import Json, MongoSink

POINTS_MAX = 10_000
"""Most points of one series."""
Bucket = str
"""The name of a rollup with buckets, one of SIZES."""
SIZES = {kind.name: kind for kind in BUCKETED}

BLOCK_BUCKETS = 256
"""Buckets whose names are made, remembered and written at a time."""
BLOCKS_MAX = 128
"""Blocks whose names a process remembers: 2 MiB."""


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
    points: list[Json] = msgspec.json.decode(await series_json(mongo, entity, bucket, counters, first, last))
    return points


async def series_json(
    mongo: MongoSink, entity: Entity, bucket: Bucket, counters: Collection[str], first: dt.date, last: dt.date
) -> msgspec.Raw:
    """The same as JSON. The loop is left after each block of points."""
    kind = SIZES[bucket]
    begin, end = kind.bucket_of(start_of_day(first)), kind.bucket_of(end_of_day(last))
    fields = [f'"{kind.bucket_field}":"%s"', *(f'"{counter}":%d' for counter in counters)]
    point = f"{{{','.join(fields)}}}"
    found: dict[str, str] = {}
    with store_error(mongo.address):
        cursor = mongo.collection(kind).find(
            {
                "domain": entity.domain, "entity_type": entity.type, "entity_id": entity.id,
                kind.bucket_field: {"$gte": begin, "$lte": end},
            },
            {"_id": 0, kind.bucket_field: 1, "base": 1, **dict.fromkeys(counters, 1)},
            batch_size=SLICE_ITEMS,
        )  # fmt: skip
        async for documents in batches(cursor):
            for document in documents:
                name = document[kind.bucket_field]
                found[name] = point % (name, *(total(document, counter) for counter in counters))
    zeros = point.replace("%d", "0")
    blocks = []
    for number in range(_block_of(kind, first), _block_of(kind, last) + 1):
        names = _names(kind, number)
        names = names[bisect_left(names, begin) : bisect_right(names, end)]
        blocks.append(",".join([found.get(name) or zeros % name for name in names]))
        await asyncio.sleep(0)
    return msgspec.Raw(f"[{','.join(filter(None, blocks))}]".encode())


def _block_of(kind: Bucketed, day: dt.date) -> int:
    """The block in which the day's bucket begins."""
    return kind.start_of(start_of_day(day)).toordinal() // _block_days(kind)


def _block_days(kind: Bucketed) -> int:
    return (BLOCK_BUCKETS * kind.length_min).days or 1


@lru_cache(BLOCKS_MAX)
def _names(kind: Bucketed, block: int) -> list[str]:
    """The names of the buckets that begin in a block, in their order."""
    days = _block_days(kind)
    first = start_of_day(dt.date.fromordinal(max(block * days, dt.date.min.toordinal())))
    last = end_of_day(dt.date.fromordinal(min(block * days + days - 1, dt.date.max.toordinal())))
    # A step no longer than the shortest bucket leaves none out.
    steps = range((last - first) // kind.length_min + 1)
    names = list(dict.fromkeys(map(kind.bucket_of, (*(first + n * kind.length_min for n in steps), last))))
    return names if kind.start_of(first) == first else names[1:]
