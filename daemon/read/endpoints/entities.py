"""GET entities: those with a label, which people know them by. MySQL has the labels."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, ClassVar

from daemon.config import Config
from daemon.domain import rejection
from daemon.domain.entity import Entity
from daemon.domain.rejection import say
from daemon.read.endpoint import Endpoint, Question
from daemon.read.gate import Kind
from daemon.read.names import Names
from daemon.read.parameters import Parameters
from daemon.read.stores import Stores
from daemon.response import Body


class Named(Body):
    entity_id: str
    row: dict[str, Any]
    """The configured columns of the MySQL row."""


class Entities(Body):
    domain: str
    entity_type: str
    label: str
    entities: list[Named]


class ReadEntities(Endpoint):
    summary = "The entities with a label"
    about: ClassVar[dict[str, str]] = {"label": "Exactly so in the column of labels."}
    answer = Entities

    def __init__(self, config: Config, stores: Stores, now: Callable[[], dt.datetime]) -> None:
        super().__init__(config, stores, now)
        self._names = Names(config, stores)

    @property
    def description(self) -> str:
        return "Types whose `label` is true in `domains` have labels. Without MySQL the answer is 503."

    def ask(self, place: Entity, parameters: Parameters) -> Question:
        label = parameters.text("label")
        if not self._names.has_label(place.domain, place.type):
            parameters.wrong("label", say(rejection.NO_LABEL))
        return self.question(Kind.NAMES, place, label, ttl_ms=self.ttl_ms)

    async def _read(self, place: Entity, label: str) -> Entities:
        found = await self._names.find(place.domain, place.type, label)
        return Entities(place.domain, place.type, label, [Named(*item) for item in found.items()])
