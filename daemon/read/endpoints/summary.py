"""GET summary: what a dashboard shows of a domain: sums per counter and day over all its entities, and top lists.

No document holds a day's sums, so MongoDB adds up the day's documents out of the `top_` indexes, and a worker remembers
the sums. A request that runs out of time leaves the days it has added up to the next one.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, ClassVar, NamedTuple

import pymongo
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from daemon.config import Config, Read
from daemon.domain.entity import Entity
from daemon.domain.rollup import DAILY
from daemon.domain.window import Window, days_between
from daemon.errors import StoreError
from daemon.read.endpoint import Endpoint, Question
from daemon.read.endpoints.top import LIMIT_DEFAULT
from daemon.read.gate import Kind
from daemon.read.names import Names
from daemon.read.parameters import Parameters
from daemon.read.stores import Stores
from daemon.read.sums import window_sums
from daemon.read.top import Ranked, TopReader
from daemon.response import Amount, Body, Day
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import Json, MongoSink

DAYS = (1, 7, 14, 30, 90)
DAYS_DEFAULT = 30
OPEN_DAYS = 2
"""Today, and yesterday: its events still arrive."""
REST_FACTOR = 20
"""A day is remembered for at least 20 times as long as adding it up took. So it keeps a core of MongoDB busy for 5 % of
the time at most."""


class Before(Body):
    """The days before, as many."""

    labels: list[Day]
    counters: dict[str, list[Amount]]
    sums: dict[str, Amount]


class Summary(Body, kw_only=True):
    """Per counter its sum on each day of `labels`, and on all of them; per entity type and counter a top list."""

    domain: str
    entity_type: Annotated[str | UnsetType, Meta(description="With `type`: the one that all is about.")] = UNSET
    days: int
    labels: list[Day]
    counters: dict[str, list[Amount]]
    sums: dict[str, Amount]
    previous: Annotated[Before | UnsetType, Meta(description="With `compare`.")] = UNSET
    top_window: str
    top: Annotated[dict[str, dict[str, list[Ranked]]] | UnsetType, Meta(description="Absent with `top=0`.")] = UNSET


class ReadSummary(Endpoint):
    summary = "What a dashboard shows: sums per day, and top lists"
    about: ClassVar[dict[str, str]] = {
        "days": "The last days, today included. 1: today so far.",
        "type": "Only this entity type.",
        "top": "0: without top lists.",
        "compare": "1: with the days before, as many, each whole; rows with their amount in the window before.",
        "enrich": "1: rows with the configured columns of the MySQL row.",
    }
    answer = Summary
    ttl_key = "top_cache_ttl_ms"

    def __init__(self, config: Config, stores: Stores, now: Callable[[], dt.datetime]) -> None:
        super().__init__(config, stores, now)
        self._reader = TopReader(stores.mongo, self.limits.sum_timeout_ms / 1000)
        self._day_sums = DaySums(stores.mongo, self.limits, time.monotonic)
        self._names = Names(config, stores)

    def ask(self, place: Entity, parameters: Parameters) -> Question:
        days = parameters.number("days", DAYS, DAYS_DEFAULT)
        entity_type = parameters.choice("type", self.types(place.domain), "")
        flags = {"top": parameters.flag("top", True)}  # noqa: FBT003  (its default)
        flags |= {name: parameters.flag(name) for name in ("compare", "enrich")}
        if not flags["top"]:
            flags["enrich"] = False
        return self.question(Kind.SUMMARY, place.domain, entity_type, days, **flags, ttl_ms=self.ttl_ms)

    async def _read(
        self, domain: str, entity_type: str, days: int, *, top: bool, compare: bool, enrich: bool
    ) -> Summary:
        today = self.today()
        types = (entity_type,) if entity_type else self.types(domain)
        counters = self.counters(domain)
        labels = days_between(today - dt.timedelta(days * (1 + compare) - 1), today)
        sums = await self._day_sums.read(domain, types, counters, labels, today)
        own = {counter: amounts[-days:] for counter, amounts in sums.items()}
        before = {counter: amounts[:-days] for counter, amounts in sums.items()}
        named = f"{days}d" if days > 1 else "day"
        windows = self.windows(domain)
        window = next((window for window in windows if window == named), windows[0])
        return Summary(
            domain=domain,
            entity_type=entity_type or UNSET,
            days=days,
            labels=labels[-days:],
            counters=own,
            sums=_added(own),
            previous=Before(labels[:-days], before, _added(before)) if compare else UNSET,
            top_window=window,
            top=await self._top(domain, types, window, compare=compare, enrich=enrich) if top else UNSET,
        )

    async def _top(
        self, domain: str, types: Sequence[str], window: Window, **flags: bool
    ) -> dict[str, dict[str, list[Ranked]]]:
        return {entity_type: await self._lists(domain, entity_type, window, **flags) for entity_type in types}

    async def _lists(
        self, domain: str, entity_type: str, window: Window, *, compare: bool, enrich: bool
    ) -> dict[str, list[Ranked]]:
        """Counter → the top list of an entity type."""
        counters, now = self.counters(domain), self.now()
        lists = {
            counter: await self._reader.read(domain, entity_type, counter, window, LIMIT_DEFAULT, now)
            for counter in counters
        }
        ids = {row.entity_id for ranked in lists.values() for row in ranked}
        rows = await self._names.rows(domain, entity_type, ids) if enrich and ids else {}
        span = self.before(window) if compare else None
        mongo = self.stores.mongo
        sums = (await window_sums(mongo, domain, entity_type, ids, counters, span))[0] if span and ids else {}
        return {
            counter: [
                replace(
                    row,
                    previous=sums.get(row.entity_id, {}).get(counter, 0) if span else UNSET,
                    row=(rows or {}).get(row.entity_id) if enrich else UNSET,
                )
                for row in ranked
            ]
            for counter, ranked in lists.items()
        }


def _added(counters: dict[str, list[int]]) -> dict[str, int]:
    return {counter: sum(amounts) for counter, amounts in counters.items()}


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
        self._days: dict[tuple[str, Sequence[str], str], _DaySum] = {}
        """(domain, entity types, day)."""
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
                if (domain, entity_types, day) in self._days:
                    continue
                if self._monotonic() - started_s > self._timeout_s:
                    raise StoreError(f"MongoDB was still adding up the days of {domain!r}; asked again, it goes on.")
                began_s = self._monotonic()
                sums = await self._add_up(domain, entity_types, counters, day)
                now_s = self._monotonic()
                is_open = (today - dt.date.fromisoformat(day)).days < OPEN_DAYS
                ttl_s = self._limits.top_cache_ttl_ms / 1000 if is_open else self._limits.closed_day_ttl_s
                until_s = now_s + max(ttl_s, REST_FACTOR * (now_s - began_s))
                self._days[domain, entity_types, day] = _DaySum(sums, until_s)
            of_day = [self._days[domain, entity_types, day].sums for day in days]
            return {counter: [sums[counter] for sums in of_day] for counter in counters}

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
