"""The results of past comparisons: one document for each day, table and counter in `analytics_shadow`.

The last run of a day holds. Today's difference says how far the columns are apart. The growth of both since an earlier
day says whether the difference still grows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from daemon.rollups.collections import SHADOW
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import MongoSink
from daemon.verify.shadow.compare import Comparison, percent_of

WINDOWS_DAYS = (1, 7, 14, 30, 90)


class Snapshot(Struct, frozen=True):
    """One day's sums."""

    date: dt.date
    own: int
    tallyd: int
    apart: int
    differing: int


class Trend(Struct, frozen=True):
    """How much both grew since the oldest day in a window. `difference`: tallyd's growth minus the application's."""

    days: int
    since: dt.date
    own: int
    tallyd: int
    difference: int
    percent: float | None
    apart_before: int


async def record(mongo: MongoSink, comparison: Comparison, now: dt.datetime) -> None:
    """Keeps the result as the day's. Raises StoreError."""
    id_ = f"{comparison.entity_type}:{comparison.counter}:{now.date()}"
    names = ("entity_type", "counter", "own", "tallyd", "apart", "differing")
    found = {name: getattr(comparison, name) for name in names} | msgspec.structs.asdict(comparison.absolute)
    with store_error(mongo.address):
        await mongo.database[SHADOW].replace_one(
            {"_id": id_}, {**found, "date": now.date().isoformat(), "at": now}, upsert=True
        )


async def snapshots(mongo: MongoSink, comparison: Comparison, today: dt.date) -> list[Snapshot]:
    """The recorded days before `today` in the longest window, the oldest first. Raises StoreError."""
    first = f"{comparison.entity_type}:{comparison.counter}:{today - dt.timedelta(days=WINDOWS_DAYS[-1])}"
    before = f"{comparison.entity_type}:{comparison.counter}:{today}"
    with store_error(mongo.address):
        cursor = mongo.database[SHADOW].find({"_id": {"$gte": first, "$lt": before}}).sort("_id", 1)
        return [
            Snapshot(
                dt.date.fromisoformat(found["date"]),
                *(int(found[name]) for name in ("own", "tallyd", "apart", "differing")),
            )
            async for found in cursor
        ]


def trends(past: Sequence[Snapshot], comparison: Comparison, today: dt.date) -> list[Trend]:
    """The trend of each window that has a recorded day. `past`: as `snapshots` returns it."""
    found = []
    for days in WINDOWS_DAYS:
        start = next((each for each in past if each.date >= today - dt.timedelta(days=days)), None)
        if start is not None:
            own, tallyd = comparison.own - start.own, comparison.tallyd - start.tallyd
            found.append(Trend(days, start.date, own, tallyd, tallyd - own, percent_of(tallyd - own, own), start.apart))
    return found
