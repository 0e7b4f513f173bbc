"""A domain's sums per counter and day, over all its entities.

No document holds them, so MongoDB adds up a day's documents, reading nothing but the `top_` index (0.4 s a million
documents). A worker remembers each day: the last two for moments, those that are over for longer, because only late
events change them.
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
from daemon.sinks.mongo import Json, MongoSink

OPEN_DAYS = 2
"""Today, and yesterday, of which events still arrive."""
QUERY_DAYS_MAX = 10
"""What was added up is remembered after each query, so a summary that did not get done in time goes on at the next."""


class _Day(NamedTuple):
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
        """`timeout_s`: of one query; the other two: how long a day that is not over, or is, is remembered."""
        self._mongo = mongo
        self._timeout_s = timeout_s
        self._open_ttl_s = open_ttl_s
        self._closed_ttl_s = closed_ttl_s
        self._monotonic = monotonic
        self._days: dict[tuple[str, str], _Day] = {}
        """(domain, day)."""
        self._adding = asyncio.Lock()
        """One at a time: this is the most a reader can ask of MongoDB."""

    async def read(
        self, domain: str, entity_types: Sequence[str], counters: Collection[str], days: Sequence[str], today: dt.date
    ) -> dict[str, list[int]]:
        """Counter → its sum on each of these days."""
        async with self._adding:
            now_s = self._monotonic()
            self._days = {key: day for key, day in self._days.items() if day.until > now_s}
            missing = [day for day in days if (domain, day) not in self._days]
            for start in range(0, len(missing), QUERY_DAYS_MAX):
                part = missing[start : start + QUERY_DAYS_MAX]
                sums = await self._add_up(domain, entity_types, counters, part)
                for day in part:
                    is_open = (today - dt.date.fromisoformat(day)).days < OPEN_DAYS
                    ttl_s = self._open_ttl_s if is_open else self._closed_ttl_s
                    self._days[domain, day] = _Day(sums[day], self._monotonic() + ttl_s)
            return {counter: [self._days[domain, day].sums[counter] for day in days] for counter in counters}

    async def _add_up(
        self, domain: str, entity_types: Sequence[str], counters: Collection[str], days: Sequence[str]
    ) -> dict[str, dict[str, int]]:
        sums = {day: dict.fromkeys(counters, 0) for day in days}
        of_days: Json = {"domain": domain, "entity_type": {"$in": list(entity_types)}, "date": {"$in": list(days)}}
        try:
            with pymongo.timeout(self._timeout_s):
                for counter in counters:
                    for field in (counter, f"base.{counter}"):
                        cursor = await self._mongo.collection(DAILY).aggregate(
                            [
                                {"$match": {**of_days, field: {"$gt": 0}}},
                                {"$group": {"_id": "$date", "sum": {"$sum": f"${field}"}}},
                            ]
                        )
                        async for line in cursor:
                            sums[line["_id"]][counter] += int(line["sum"])
        except PyMongoError as error:
            raise StoreError(f"MongoDB: {error}") from None
        return sums
