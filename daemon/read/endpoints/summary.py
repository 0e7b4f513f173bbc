"""GET summary: what a dashboard shows of a domain: sums per counter and day over all its entities, and top lists.

No document holds a day's sums, so MongoDB adds up the day's documents out of the `top_` indexes, and a worker remembers
the sums. A request that runs out of time leaves the days it has added up to the next one.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import pymongo

from daemon.config import Config, Read
from daemon.domain.entity import Entity
from daemon.domain.rollup import DAILY
from daemon.domain.window import days_between
from daemon.errors import StoreError
from daemon.read.endpoint import Endpoint, Question
from daemon.read.endpoints.top import LIMIT_DEFAULT, windows
from daemon.read.gate import Kind
from daemon.read.parameters import Parameters
from daemon.read.stores import Stores
from daemon.read.top import Ranked, TopReader
from daemon.response import Amount, Body, Day
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import Json, MongoSink

DAYS = (7, 14, 30, 90)
DAYS_DEFAULT = 30
OPEN_DAYS = 2
"""Today, and yesterday: its events still arrive."""
REST_FACTOR = 20
"""A day is remembered for at least 20 times as long as adding it up took. So it keeps a core of MongoDB busy for 5 % of
the time at most."""


class Summary(Body):
    """Per counter its sum on each day of `labels`; per entity type and counter a top list."""

    domain: str
    days: int
    labels: list[Day]
    counters: dict[str, list[Amount]]
    top_window: str
    top: dict[str, dict[str, list[Ranked]]]


class ReadSummary(Endpoint):
    summary = "What a dashboard shows: sums per day, and top lists"
    answer = Summary
    ttl_key = "top_cache_ttl_ms"

    def __init__(self, config: Config, stores: Stores, today: Callable[[], dt.date]) -> None:
        super().__init__(config, stores, today)
        self._reader = TopReader(stores.mongo, self.limits.sum_timeout_ms / 1000)
        self._day_sums = DaySums(stores.mongo, self.limits, time.monotonic)
        self._types = {name: section.entity_types for name, section in config.domains.items()}
        self._windows = windows(self.limits)

    def ask(self, place: Entity, parameters: Parameters) -> Question:
        return self.question(
            Kind.SUMMARY, place.domain, parameters.number("days", DAYS, DAYS_DEFAULT), ttl_ms=self.ttl_ms
        )

    async def _read(self, domain: str, days: int) -> Summary:
        today = self.today()
        types, counters = self._types[domain], self.counters(domain)
        labels = days_between(today - dt.timedelta(days - 1), today)
        sums = await self._day_sums.read(domain, types, counters, labels, today)
        window = next((window for window in self._windows if window == f"{days}d"), self._windows[0])
        top: dict[str, dict[str, list[Ranked]]] = {entity_type: {} for entity_type in types}
        for entity_type in types:
            for counter in counters:
                ranked = await self._reader.read(domain, entity_type, counter, window, LIMIT_DEFAULT, today)
                top[entity_type][counter] = ranked
        return Summary(domain, days, labels, sums, window, top)


class _DaySum(NamedTuple):
    sums: dict[str, int]
    until: float


class DaySums:
    """The sums of one worker. Raises StoreError."""

    def __init__(self, mongo: MongoSink, limits: Read, monotonic: Callable[[], float]) -> None:
        """`limits`: how long one day's query may take, after which time no other begins, and how long a day is
        remembered."""
        self._mongo = mongo
        self._limits = limits
        self._timeout_s = limits.sum_timeout_ms / 1000
        self._monotonic = monotonic
        self._days: dict[tuple[str, str], _DaySum] = {}
        """(domain, day)."""
        self._adding = asyncio.Lock()
        """One day at a time: no read asks more of MongoDB."""

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
                ttl_s = self._limits.top_cache_ttl_ms / 1000 if is_open else self._limits.closed_day_ttl_s
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
        with store_error(self._mongo.address), pymongo.timeout(self._timeout_s):
            async for line in await self._mongo.collection(DAILY).aggregate([*first, *union]):
                sums[line["_id"]] += int(line["sum"])
        return sums
