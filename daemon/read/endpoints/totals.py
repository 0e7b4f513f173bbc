"""GET totals: the counters of one entity, or of many."""

from __future__ import annotations

from typing import ClassVar

from daemon.domain.entity import Entity
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


class Totals(Body):
    domain: str
    entity_type: str
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
    summary = "The counters of up to {read.ids_max} entities"
    about: ClassVar[dict[str, str]] = {"ids": "Separated by commas.", "id": "Repeated: ids that hold commas."}
    answer = Totals

    def ask(self, place: Entity, parameters: Parameters) -> Question:
        return self.question(
            Kind.TOTALS, place, parameters.entity_ids("ids", "id", self.limits.ids_max), ttl_ms=self.ttl_ms
        )

    async def _read(self, place: Entity, ids: list[str]) -> Totals:
        keys = [f"{place.domain}:{place.type}:{id_}" for id_ in ids]
        found, counters = await self.stores.totals.documents(keys), self.counters(place.domain)
        totals: list[EntityTotal] = []
        async for some in slices(zip(ids, keys, strict=True)):
            totals += [EntityTotal(id_, counted(found.get(key), counters)) for id_, key in some]
        return Totals(place.domain, place.type, totals)
