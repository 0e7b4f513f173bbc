"""GET top: the most counted entities of a window."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Annotated, ClassVar

from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from daemon.config import Config, Read
from daemon.domain.entity import Entity
from daemon.domain.window import WINDOWS, Window
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
    about: ClassVar[dict[str, str]] = {"enrich": "1: with the configured columns of the MySQL row."}
    answer = Top
    ttl_key = "top_cache_ttl_ms"

    def __init__(self, config: Config, stores: Stores, today: Callable[[], dt.date]) -> None:
        super().__init__(config, stores, today)
        self._reader = TopReader(stores.mongo, self.limits.sum_timeout_ms / 1000)
        self._names = Names(config, stores)
        self._windows = windows(config.read)

    def ask(self, place: Entity, parameters: Parameters) -> Question:
        counters, limit_max = self.counters(place.domain), self.limits.top_limit_max
        default = "view" if "view" in counters else next(iter(counters), "")
        counter = parameters.choice("counter", counters, default)
        limit = parameters.integer("limit", 1, limit_max, min(LIMIT_DEFAULT, limit_max))
        window = parameters.choice("window", self._windows, self._windows[0])
        enrich = parameters.flag("enrich")
        return self.question(Kind.TOP, place, counter, window, limit, enrich=enrich, ttl_ms=self.ttl_ms)

    async def _read(self, place: Entity, counter: str, window: Window, limit: int, *, enrich: bool) -> Top:
        domain, entity_type, _ = place
        ranked = await self._reader.read(domain, entity_type, counter, window, limit, self.today())
        top = Top(domain=domain, entity_type=entity_type, counter=counter, window=window, rows=ranked)
        if not enrich:
            return top
        described = await self._names.rows(domain, entity_type, [row.entity_id for row in ranked])
        rows = [replace(row, row=(described or {}).get(row.entity_id)) for row in ranked]
        return replace(top, enriched=described is not None, rows=rows)


def windows(read: Read) -> tuple[Window, ...]:
    """The windows that are offered."""
    return tuple(window for window in WINDOWS if window in read.top_windows) or WINDOWS[:1]
