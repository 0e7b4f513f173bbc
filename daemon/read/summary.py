"""A domain's sums per counter and day, over all its entities.

No document holds them, so MongoDB adds up a day's documents, reading nothing but the `top_` indexes (1.4 s for a day of
a million documents and two counters). A worker remembers each day: the last two for moments, those that are over for
longer, because only late events change them. What did not get done in time goes on where it was at the next request.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import pymongo
from pymongo.errors import PyMongoError

from daemon.domain.rollup import DAILY
from daemon.errors import StoreError
from daemon.rollups.mongo import Json, MongoSink

OPEN_DAYS = 2
"""Today, and yesterday, of which events still arrive."""
REST_FACTOR = 20
"""A day is remembered at least so many times as long as adding it up took, so that it keeps a core of MongoDB's busy
for 5 % of the time at most."""


class _DaySum(NamedTuple):
    sums: dict[str, int]
    until: float


class DaySums:
    """One worker's. Raises StoreError."""

    def __init__(
        self,
        mongo: MongoSink,
        *,
        timeout_s: float,
        open_ttl_s: float,
        closed_ttl_s: float,
        monotonic: Callable[[], float],
    ) -> None:
        """`timeout_s`: of one day's query, and after which no other is begun; the other two: how long a day that is not
        over, or is, is remembered."""
        self._mongo = mongo
        self._timeout_s = timeout_s
        self._open_ttl_s = open_ttl_s
        self._closed_ttl_s = closed_ttl_s
        self._monotonic = monotonic
        self._days: dict[tuple[str, str], _DaySum] = {}
        """(domain, day)."""
        self._adding = asyncio.Lock()
        """One at a time: this is the most a reader can ask of MongoDB."""

    async def read(
        self, domain: str, entity_types: Sequence[str], counters: Collection[str], days: Sequence[str], today: dt.date
    ) -> dict[str, list[int]]:
        """Counter → its sum on each of these days."""
        async with self._adding:
            started_s = self._monotonic()
            self._days = {key: day for key, day in self._days.items() if day.until > started_s}
            for day in days:
                if (domain, day) in self._days:
                    continue
                if self._monotonic() - started_s > self._timeout_s:
                    raise StoreError(f"MongoDB was still adding up the days of {domain!r}; asked again, it goes on.")
                began_s = self._monotonic()
                sums = await self._add_up(domain, entity_types, counters, day)
                now_s = self._monotonic()
                is_open = (today - dt.date.fromisoformat(day)).days < OPEN_DAYS
                ttl_s = self._open_ttl_s if is_open else self._closed_ttl_s
                self._days[domain, day] = _DaySum(sums, now_s + max(ttl_s, REST_FACTOR * (now_s - began_s)))
            return {counter: [self._days[domain, day].sums[counter] for day in days] for counter in counters}

    async def _add_up(
        self, domain: str, entity_types: Sequence[str], counters: Collection[str], day: str
    ) -> dict[str, int]:
        of_day: Json = {"domain": domain, "entity_type": {"$in": list(entity_types)}, "date": day}
        first, *others = [
            [
                {"$match": {**of_day, field: {"$gt": 0}}},
                {"$group": {"_id": counter, "sum": {"$sum": f"${field}"}}},
            ]
            for counter in counters
            for field in (counter, f"base.{counter}")
        ]
        union = [{"$unionWith": {"coll": DAILY.collection, "pipeline": other}} for other in others]
        sums = dict.fromkeys(counters, 0)
        try:
            with pymongo.timeout(self._timeout_s):
                async for line in await self._mongo.collection(DAILY).aggregate([*first, *union]):
                    sums[line["_id"]] += int(line["sum"])
        except PyMongoError as error:
            raise StoreError(f"MongoDB: {error}") from None
        return sums
