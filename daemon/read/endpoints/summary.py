"""GET summary: what a dashboard shows of a domain."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from functools import partial

from daemon.config import Config
from daemon.domain.entity import Entity
from daemon.domain.window import days_between
from daemon.read.endpoint import Amount, Day, Endpoint, Question
from daemon.read.endpoints.top import LIMIT_DEFAULT, TopRow, top_rows, windows
from daemon.read.parameters import Parameters
from daemon.read.stores import Stores
from daemon.read.summary import DaySums
from daemon.read.top import TopReader
from daemon.response import Body

DAYS = (7, 14, 30, 90)
DAYS_DEFAULT = 30


class Summary(Body):
    """Per counter its sum on each day of `labels`; per entity type and counter a top list."""

    domain: str
    days: int
    labels: list[Day]
    counters: dict[str, list[Amount]]
    top_window: str
    top: dict[str, dict[str, list[TopRow]]]


class ReadSummary(Endpoint):
    summary = "What a dashboard shows: sums per day, and top lists"
    answer = Summary
    ttl_key = "top_cache_ttl_ms"

    def __init__(self, config: Config, stores: Stores, today: Callable[[], dt.date]) -> None:
        super().__init__(config, stores, today)
        read = self.limits
        self._reader = TopReader(stores.mongo, read.sum_timeout_ms / 1000)
        self._day_sums = DaySums(
            stores.mongo,
            timeout_s=read.sum_timeout_ms / 1000,
            open_ttl_s=read.top_cache_ttl_ms / 1000,
            closed_ttl_s=read.closed_day_ttl_s,
            monotonic=time.monotonic,
        )
        self._types = {name: section.entity_types for name, section in config.domains.items()}
        self._windows = windows(read)

    def ask(self, place: Entity, parameters: Parameters) -> Question:
        return Question(partial(self._read, place.domain, parameters.number("days", DAYS, DAYS_DEFAULT)), self.ttl_ms)

    async def _read(self, domain: str, days: int) -> Summary:
        today = self.today()
        types, counters = self._types[domain], self.counters(domain)
        labels = days_between(today - dt.timedelta(days - 1), today)
        sums = await self._day_sums.read(domain, types, counters, labels, today)
        window = next((window for window in self._windows if window == f"{days}d"), self._windows[0])
        top: dict[str, dict[str, list[TopRow]]] = {entity_type: {} for entity_type in types}
        for entity_type in types:
            for counter in counters:
                ranked = await self._reader.read(domain, entity_type, counter, window, LIMIT_DEFAULT, today)
                top[entity_type][counter] = top_rows(ranked)
        return Summary(domain, days, labels, sums, window, top)
