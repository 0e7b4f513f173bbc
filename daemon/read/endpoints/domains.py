"""GET domains: what is counted, and how much may be asked for at once. It asks no store."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Annotated

from msgspec import Meta

from daemon.config import Config, domain_actions, replica_tables
from daemon.domain.entity import Entity
from daemon.read.endpoint import Endpoint, Question
from daemon.read.gate import Kind
from daemon.read.parameters import Parameters
from daemon.read.stores import Stores
from daemon.response import Body

KEEP_MS = 60_000
"""How long an answer may be kept: a reload may change it."""


class EntityType(Body):
    name: str
    label: Annotated[bool, Meta(description="Whether `entities` finds an entity of this type by its label.")]
    enrich: Annotated[list[str], Meta(description="The columns of `row`, with `enrich=1`.")]
    url: Annotated[str | None, Meta(description="The page of an entity: put its percent-encoded id in for `{id}`.")]


class Domain(Body):
    name: str
    hourly: Annotated[bool, Meta(description="Whether it has hours.")]
    counters: list[str]
    actions: list[str]
    types: list[EntityType]


class Domains(Body):
    domains: list[Domain]
    windows: Annotated[list[str], Meta(description="The windows of top lists. Only domains with hours have 24h.")]
    ids_max: Annotated[int, Meta(description="Most entities of one request for totals.")]
    series_ids_max: Annotated[int, Meta(description="Most entities of one request for series.")]


class ReadDomains(Endpoint):
    summary = "What is counted"
    answer = Domains

    def __init__(self, config: Config, stores: Stores, now: Callable[[], dt.datetime]) -> None:
        super().__init__(config, stores, now)
        self._domains = [self._domain(name) for name in config.domains]

    @property
    def description(self) -> str:
        return "The domains of the configuration, with their counters and entity types."

    def ask(self, place: Entity, parameters: Parameters) -> Question:  # noqa: ARG002  (it is about everything)
        return self.question(Kind.CATALOGUE, ttl_ms=KEEP_MS)

    async def _read(self) -> Domains:
        return Domains(self._domains, list(self.windows("")), self.limits.ids_max, self.limits.series_ids_max)

    def _domain(self, name: str) -> Domain:
        section, tables = self.config.domains[name], replica_tables(self.config)
        types = []
        for entity_type in section.entity_types:
            table = tables.get((name, entity_type))
            label, enrich = (bool(table.label), list(table.enrich)) if table else (False, [])
            types.append(EntityType(entity_type, label, enrich, section.urls.get(entity_type)))
        return Domain(name, section.hourly, list(self.counters(name)), list(domain_actions(self.config, name)), types)
