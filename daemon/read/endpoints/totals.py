"""GET totals: the counters of one entity, or of many."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import UNSET, Meta, UnsetType

from daemon.domain.entity import Entity
from daemon.domain.window import Span, Window, span_of
from daemon.read.endpoint import Endpoint, Question
from daemon.read.gate import Kind
from daemon.read.parameters import Parameters
from daemon.read.slices import slices
from daemon.read.totals import counted
from daemon.response import Amount, Body


class Total(Body):
    domain: str
    entity_type: str
    entity_id: str
    fresh: bool
    """Whether the counters are exact at `as_of`."""
    counters: dict[str, Amount]


class EntityTotal(Body):
    entity_id: str
    counters: dict[str, Amount]
    previous: Annotated[
        dict[str, Amount] | UnsetType, Meta(description="With `compare`: the counters of the window before.")
    ] = UNSET


class Totals(Body):
    domain: str
    entity_type: str
    window: str
    totals: list[EntityTotal]
    """In the order asked for."""


class ReadTotal(Endpoint):
    summary = "An entity's counters"
    about: ClassVar[dict[str, str]] = {"fresh": "1: exact at this moment, at the price of asking Redis and MongoDB."}
    answer = Total

    @property
    def description(self) -> str:
        return f"{super().description} With `fresh=1` they are exact."

    def ask(self, place: Entity, parameters: Parameters) -> Question:
        fresh = parameters.flag("fresh")
        # An exact total must not be shared with a request that comes later.
        kind, ttl_ms = (Kind.FRESH, 0) if fresh else (Kind.TOTALS, self.ttl_ms)
        return self.question(kind, place, fresh=fresh, ttl_ms=ttl_ms)

    async def _read(self, entity: Entity, *, fresh: bool) -> Total:
        counters = self.counters(entity.domain)
        if fresh:
            sums = await self.stores.exact.read(entity, counters)
        else:
            sums = counted((await self.stores.totals.documents([entity.key])).get(entity.key), counters)
        return Total(*entity, fresh, sums)


class ReadTotals(Endpoint):
    summary = "The counters of up to {read.ids_max} entities, of all time or in one window"
    about: ClassVar[dict[str, str]] = {
        **Endpoint.ids_about,
        "compare": "1: also of the window before, which is as long, and whole.",
    }
    answer = Totals

    def ask(self, place: Entity, parameters: Parameters) -> Question:
        ids = parameters.entity_ids("ids", "id", self.limits.ids_max)
        offered: tuple[Window, ...] = ("total", *self.windows(place.domain))
        window = parameters.choice("window", tuple(dict.fromkeys(offered)), "total")
        compare = self.compares(parameters, window)
        documents = len(ids) * len(span_of(window, self.now()).buckets) * (1 + compare)
        kind = self.kind_of(documents) if documents else Kind.TOTALS
        return self.question(kind, place, window, ids, compare=compare, ttl_ms=self.ttl_ms)

    async def _read(self, place: Entity, window: Window, ids: list[str], *, compare: bool) -> Totals:
        span = span_of(window, self.now())
        if span.buckets and ids:
            return await self._of_window(place, window, ids, span, self.before(window) if compare else None)
        keys = [f"{place.domain}:{place.type}:{id_}" for id_ in ids]
        found, counters = await self.stores.totals.documents(keys), self.counters(place.domain)
        totals: list[EntityTotal] = []
        async for some in slices(zip(ids, keys, strict=True)):
            totals += [EntityTotal(id_, counted(found.get(key), counters)) for id_, key in some]
        return Totals(place.domain, place.type, window, totals)

    async def _of_window(
        self, place: Entity, window: Window, ids: list[str], span: Span, before: Span | None
    ) -> Totals:
        counters = self.counters(place.domain)
        zeros = dict.fromkeys(counters, 0)
        own, earlier = await self.window_sums(place, ids, counters, span, before)
        totals = [EntityTotal(id_, own.get(id_, zeros), earlier.get(id_, zeros) if before else UNSET) for id_ in ids]
        return Totals(place.domain, place.type, window, totals)
