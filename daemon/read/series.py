"""An entity's history out of the rollups: one query by its natural key, zero where nothing was counted.

A series may have thousands of points, and most of them may be zeros: an entity that nobody knows has nothing else. So
the points are written as JSON at once, without an object for each, and the names of buckets are remembered.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from daemon.domain.entity import Entity
from daemon.domain.rollup import BUCKETED, HOURLY, INSTANT_STEP, Bucketed, end_of_day, start_of_day, total
from daemon.domain.window import rolling_hours
from daemon.read.slices import SLICE_ITEMS, batches, slices
from daemon.response import encode
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import Json, MongoSink

POINTS_MAX = 10_000
"""Most points of one series."""
Bucket = str
"""The name of a rollup with buckets, one of SIZES."""
SIZES = {kind.name: kind for kind in BUCKETED}

BLOCK_BUCKETS = 256
"""Buckets whose names are made, remembered and written at a time."""
ENCODED_AT_ONCE = 4
"""Entities whose amounts are made JSON at a time, each of a thousand points at most."""
BLOCKS_MAX = 128
"""Blocks whose names a process remembers: 2 MiB."""


class Stretch(NamedTuple):
    """The buckets of a series: from the one that `first` is in to the one that `last` is in."""

    kind: Bucketed
    first: dt.datetime
    last: dt.datetime

    @classmethod
    def of(cls, bucket: Bucket, first: dt.datetime, last: dt.datetime) -> Stretch:
        return cls(SIZES[bucket], first, last)

    @classmethod
    def of_days(cls, bucket: Bucket, first: dt.date, last: dt.date) -> Stretch:
        return cls(SIZES[bucket], start_of_day(first), end_of_day(last))

    @classmethod
    def rolling(cls, now: dt.datetime) -> Stretch:
        """The last 24 hours, this one included: the same all through an hour."""
        first, *_, last = map(HOURLY.start_of, rolling_hours(now))
        return cls(HOURLY, first, last)

    @property
    def begin(self) -> str:
        """The name of the first bucket."""
        return self.kind.bucket_of(self.first)

    @property
    def end(self) -> str:
        return self.kind.bucket_of(self.last)

    @property
    def points(self) -> int:
        return self.kind.count(self.first, self.last)

    def before(self) -> Stretch | None:
        """As many buckets right before, whole. None: they would begin before the year 1."""
        try:
            first = self.kind.back(self.first, self.points)
            return Stretch(self.kind, first, self.kind.start_of(self.first) - INSTANT_STEP)
        except OverflowError:
            return None

    async def names(self) -> AsyncIterator[list[str]]:
        """The names of its buckets, some at a time. Others have their turn after each."""
        begin, end = self.begin, self.end
        for number in range(_block_of(self.kind, self.first), _block_of(self.kind, self.last) + 1):
            names = _names(self.kind, number)
            yield names[bisect_left(names, begin) : bisect_right(names, end)]
            await asyncio.sleep(0)


def default_first(bucket: Bucket, last: dt.date) -> dt.date:
    """The first day of a series that ends on `last`, if the request names none."""
    kind = SIZES[bucket]
    return dt.date.fromordinal(max(1, last.toordinal() - (kind.length_min * (kind.points - 1)).days))


async def series(mongo: MongoSink, entity: Entity, counters: Collection[str], stretch: Stretch) -> list[Json]:
    """A point a bucket. Raises StoreError."""
    (made,) = await series_json(mongo, entity, counters, stretch)
    points: list[Json] = msgspec.json.decode(made)
    return points


async def series_json(
    mongo: MongoSink, entity: Entity, counters: Collection[str], *stretches: Stretch
) -> list[msgspec.Raw]:
    """The same as JSON, of stretches without a gap between them, the earliest first: one query. The loop is left after
    each block of points."""
    found: dict[str, dict[str, int]] = {}
    with store_error(mongo.address):
        async for documents in batches(_find(mongo, *entity, counters, *stretches)):
            for document in documents:
                name = document[stretches[0].kind.bucket_field]
                found[name] = {counter: total(document, counter) for counter in counters}
    return [await filled_json(stretch, counters, found) for stretch in stretches]


async def filled_json(
    stretch: Stretch, counters: Collection[str], found: Mapping[str, Mapping[str, int]]
) -> msgspec.Raw:
    """The points as JSON. `found`: the name of a bucket → counter → amount; 0 where there is none."""
    fields = [f'"{stretch.kind.bucket_field}":"%s"', *(f'"{counter}":%d' for counter in counters)]
    point = f"{{{','.join(fields)}}}"
    zeros = point.replace("%d", "0")
    blocks = []
    async for names in stretch.names():
        points = [point % (name, *map(found[name].get, counters)) if name in found else zeros % name for name in names]
        blocks.append(",".join(points))
    return msgspec.Raw(f"[{','.join(filter(None, blocks))}]".encode())


async def many_series(
    mongo: MongoSink, domain: str, entity_type: str, ids: Sequence[str], counters: Collection[str], stretch: Stretch
) -> tuple[list[str], list[msgspec.Raw]]:
    """The names of the buckets, and of each entity the amounts of each counter in them, as JSON; by one query. Raises
    StoreError."""
    kind = stretch.kind
    labels = [name async for names in stretch.names() for name in names]
    position = {name: n for n, name in enumerate(labels)}
    amounts: dict[str, dict[str, list[int]]] = {}
    with store_error(mongo.address):
        async for documents in batches(_find(mongo, domain, entity_type, {"$in": list(ids)}, counters, stretch)):
            for document in documents:
                at = position.get(document[kind.bucket_field])
                if at is None:
                    continue  # somebody edited it
                own = amounts.get(document["entity_id"])
                if own is None:
                    own = amounts[document["entity_id"]] = {counter: [0] * len(labels) for counter in counters}
                for counter in counters:
                    own[counter][at] = total(document, counter)
    zeros = {counter: [0] * len(labels) for counter in counters}
    made: list[msgspec.Raw] = []
    async for some in slices(ids, ENCODED_AT_ONCE):
        made += [msgspec.Raw(encode(amounts.get(id_, zeros))) for id_ in some]
    return labels, made


def _find(
    mongo: MongoSink, domain: str, entity_type: str, id_: object, counters: Collection[str], *stretches: Stretch
) -> Any:
    """A cursor, by the index of the natural key."""
    kind = stretches[0].kind
    return mongo.collection(kind).find(
        {
            "domain": domain, "entity_type": entity_type, "entity_id": id_,
            kind.bucket_field: {"$gte": stretches[0].begin, "$lte": stretches[-1].end},
        },
        {"_id": 0, "entity_id": 1, kind.bucket_field: 1, "base": 1, **dict.fromkeys(counters, 1)},
        batch_size=SLICE_ITEMS,
    )  # fmt: skip


def _block_of(kind: Bucketed, at: dt.datetime) -> int:
    """The block in which the instant's bucket begins."""
    return kind.start_of(at).toordinal() // _block_days(kind)


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
