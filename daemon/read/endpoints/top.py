"""GET top: the most counted entities of a window."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from heapq import nsmallest
from typing import Annotated, ClassVar

from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from daemon.config import Config
from daemon.domain.entity import Entity
from daemon.domain.window import Window, span_of
from daemon.read.endpoint import Endpoint, Question
from daemon.read.gate import Kind
from daemon.read.names import Names
from daemon.read.parameters import Parameters
from daemon.read.stores import Stores
from daemon.read.top import Ranked, TopReader
from daemon.response import Body

LIMIT_DEFAULT = 10


class Top(Body, kw_only=True):
    """The most counted first."""

    domain: str
    entity_type: str
    counter: str
    window: str
    enriched: Annotated[bool | UnsetType, Meta(description="Whether MySQL was asked and answered.")] = UNSET
    rows: list[Ranked]


class ReadTop(Endpoint):
    summary = "The most counted entities"
    about: ClassVar[dict[str, str]] = {
        **Endpoint.ids_about,
        "window": "24h begins at a full hour. Windows of days begin at midnight UTC.",
        "ids": "Only these entities, separated by commas.",
        "compare": "1: rows with their amount in the window before, which is as long, and whole.",
        "enrich": "1: with the configured columns of the MySQL row.",
    }
    answer = Top
    ttl_key = "top_cache_ttl_ms"

    def __init__(self, config: Config, stores: Stores, now: Callable[[], dt.datetime]) -> None:
        super().__init__(config, stores, now)
        self._reader = TopReader(stores.mongo, self.limits.sum_timeout_ms / 1000)
        self._names = Names(config, stores)

    def ask(self, place: Entity, parameters: Parameters) -> Question:
        counters, limit_max = self.counters(place.domain), self.limits.top_limit_max
        default = "view" if "view" in counters else next(iter(counters), "")
        counter = parameters.choice("counter", counters, default)
        limit = parameters.integer("limit", 1, limit_max, min(LIMIT_DEFAULT, limit_max))
        windows = self.windows(place.domain)
        window = parameters.choice("window", windows, windows[0])
        flags = {"compare": self.compares(parameters, window), "enrich": parameters.flag("enrich")}
        ids = parameters.entity_ids("ids", "id", self.limits.ids_max)
        documents = len(ids) * max(1, len(span_of(window, self.now()).buckets)) * (1 + flags["compare"])
        kind = self.kind_of(documents) if ids else Kind.TOP
        return self.question(kind, place, counter, window, limit, ids, **flags, ttl_ms=self.ttl_ms)

    async def _read(
        self, place: Entity, counter: str, window: Window, limit: int, ids: list[str], *, compare: bool, enrich: bool
    ) -> Top:
        domain, entity_type, _ = place
        span = span_of(window, self.now())
        before = self.before(window) if compare else None
        if ids:
            sums, earlier = await self.window_sums(place, ids, (counter,), span, before)
            amounts = {id_: counted[counter] for id_, counted in sums.items() if counted[counter] > 0}
            ranked = [Ranked(*item) for item in nsmallest(limit, amounts.items(), key=lambda item: (-item[1], item[0]))]
        else:
            ranked = await self._reader.read(domain, entity_type, counter, window, limit, self.now())
            listed = [row.entity_id for row in ranked]
            earlier = (await self.window_sums(place, listed, (counter,), before))[0] if before and listed else {}
        if before:
            ranked = [replace(row, previous=earlier.get(row.entity_id, {}).get(counter, 0)) for row in ranked]
        top = Top(domain=domain, entity_type=entity_type, counter=counter, window=window, rows=ranked)
        if not enrich:
            return top
        described = await self._names.rows(domain, entity_type, [row.entity_id for row in ranked])
        rows = [replace(row, row=(described or {}).get(row.entity_id)) for row in ranked]
        return replace(top, enriched=described is not None, rows=rows)
