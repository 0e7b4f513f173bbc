"""GET summary: what a dashboard shows of a domain: sums per counter and day over all its entities, and top lists.

The sums are those of whole domains, which the flusher keeps. The top lists are read like those of GET top.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from daemon.config import Config
from daemon.domain.entity import Entity
from daemon.domain.window import Window, days_between
from daemon.read.domains import domain_sums
from daemon.read.endpoint import Endpoint, Question
from daemon.read.endpoints.top import LIMIT_DEFAULT
from daemon.read.gate import Kind
from daemon.read.names import Names
from daemon.read.parameters import Parameters
from daemon.read.stores import Stores
from daemon.read.sums import window_sums
from daemon.read.top import Ranked, TopReader
from daemon.response import Amount, Body, Day

DAYS = (1, 7, 14, 30, 90)
DAYS_DEFAULT = 30


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
        days_of = await domain_sums(self.stores.mongo, domain, types, counters, labels[0], labels[-1])
        sums = {counter: [days_of.get(day, {}).get(counter, 0) for day in labels] for counter in counters}
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
