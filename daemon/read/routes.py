"""What can be asked: each route makes a question of the end of its path and its parameters, and reads the answer.

Wrong parameters are a value, `Wrong`, with every one of them named; stores that fail raise StoreError. Caching, keys
and headers are `api.py`'s business.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from daemon.config import Config, domain_counters, replica_tables
from daemon.domain import rejection
from daemon.domain.entity import Entity
from daemon.domain.rollup import DAILY
from daemon.domain.window import WINDOWS, Window, days_between
from daemon.errors import StoreError
from daemon.read.parameters import Parameters
from daemon.read.series import SIZES, Bucket, default_first, is_too_long, series
from daemon.read.stores import Stores
from daemon.read.summary import DaySums
from daemon.read.top import Ranked, Top
from daemon.read.totals import counted

PREFIX = "/api/v1/analytics/"
SUMMARY_DAYS = ("7", "14", "30", "90")
SUMMARY_DAYS_DEFAULT = "30"
TOP_LIMIT_DEFAULT = 10
BUCKETS = tuple(SIZES)


class Question(NamedTuple):
    """What to read. Its answer may be kept for `ttl_ms`, and be shared with all who ask the same; 0: neither."""

    read: Callable[[], Awaitable[dict[str, Any]]]
    ttl_ms: int


class Wrong(NamedTuple):
    """Parameter → what is wrong with it."""

    errors: dict[str, list[str]]


class Missing(NamedTuple):
    """There is no such domain, type or path."""

    message: str


_NO_SUCH_PATH = Missing("There is no such path. GET /openapi.json lists what there is.")


class Routes:
    """The routes of one configuration."""

    def __init__(self, config: Config, stores: Stores, today: Callable[[], dt.date]) -> None:
        read = self._limits = config.read
        self._stores = stores
        self._ranking = Top(stores.mongo, read.sum_timeout_ms / 1000)
        self._day_sums = DaySums(
            stores.mongo,
            timeout_s=read.sum_timeout_ms / 1000,
            open_ttl_s=read.top_cache_ttl_ms / 1000,
            closed_ttl_s=read.closed_day_ttl_s,
            monotonic=time.monotonic,
        )
        self._today = today
        self._types = {name: section.entity_types for name, section in config.domains.items()}
        self._counters = {name: domain_counters(config, name) for name in config.domains}
        self._tables = replica_tables(config)
        self._windows = tuple(window for window in WINDOWS if window in read.top_windows) or WINDOWS[:1]
        self._by_name: Mapping[str, Callable[[list[str], Parameters], Question | Missing]] = {
            "totals": self._totals,
            "top": self._top,
            "series": self._series,
            "summary": self._summary,
        }

    def parse(self, route: str, rest: str, query: str) -> Question | Wrong | Missing:
        """`route`: a name of the literal above; `rest`: the path behind it, percent-decoded."""
        names = rest.split("/", 2)
        if names[0] not in self._types:
            return Missing(f"There is no domain of this name; there are: {', '.join(self._types)}.")
        if len(names) > 1 and names[1] not in self._types[names[0]]:
            known = ", ".join(self._types[names[0]])
            return Missing(f"There is no entity type of this name in the domain; there are: {known}.")
        parameters = Parameters(query)
        question = self._by_name[route](names, parameters)
        return Wrong(parameters.errors) if parameters.errors else question

    # Totals -----------------------------------------------------------------------------------------------------

    def _totals(self, names: list[str], parameters: Parameters) -> Question | Missing:
        if len(names) == 3:
            entity = Entity(*names)
            fresh = parameters.flag("fresh")
            parameters.reject_unknown(("fresh",))
            parameters.check_entity_id(entity.id)
            # An exact total must not be shared with somebody who asked later.
            return Question(partial(self._read_total, entity, fresh=fresh), 0 if fresh else self._limits.cache_ttl_ms)
        if len(names) == 2:
            ids = parameters.entity_ids("ids", "id", self._limits.ids_max)
            parameters.reject_unknown(("ids", "id"))
            return Question(partial(self._read_totals, names[0], names[1], ids), self._limits.cache_ttl_ms)
        return _NO_SUCH_PATH

    async def _read_total(self, entity: Entity, *, fresh: bool) -> dict[str, Any]:
        counters = self._counters[entity.domain]
        if fresh:
            sums = await self._stores.exact.read(entity, counters)
        else:
            document = (await self._stores.totals.documents([entity.key])).get(entity.key)
            sums = counted(document, counters)
        return {**_named(entity), "fresh": fresh, "counters": sums}

    async def _read_totals(self, domain: str, entity_type: str, ids: list[str]) -> dict[str, Any]:
        """In the order asked for."""
        keys = [Entity(domain, entity_type, id_).key for id_ in ids]
        found, counters = await self._stores.totals.documents(keys), self._counters[domain]
        totals = [
            {"entity_id": id_, "counters": counted(found.get(key), counters)}
            for id_, key in zip(ids, keys, strict=True)
        ]
        return {"domain": domain, "entity_type": entity_type, "totals": totals}

    # Top lists --------------------------------------------------------------------------------------------------

    def _top(self, names: list[str], parameters: Parameters) -> Question | Missing:
        if len(names) != 2:
            return _NO_SUCH_PATH
        counters, limit_max = self._counters[names[0]], self._limits.top_limit_max
        counter = parameters.choice("counter", counters, "view" if "view" in counters else counters[0])
        limit = parameters.integer("limit", 1, limit_max, min(TOP_LIMIT_DEFAULT, limit_max))
        window = parameters.choice("window", self._windows, self._windows[0])
        enrich = parameters.flag("enrich")
        parameters.reject_unknown(("counter", "limit", "window", "enrich"))
        read = partial(self._read_top, names[0], names[1], counter, window, limit, enrich=enrich)
        return Question(read, self._limits.top_cache_ttl_ms)

    async def _read_top(
        self, domain: str, entity_type: str, counter: str, window: Window, limit: int, *, enrich: bool
    ) -> dict[str, Any]:
        ranked = await self._ranking.read(domain, entity_type, counter, window, limit, self._today())
        data = {"domain": domain, "entity_type": entity_type, "counter": counter, "window": window}
        if not enrich:
            return {**data, "rows": _rows(ranked)}
        described = await self._describe(domain, entity_type, ranked)
        rows = [{**row, "row": (described or {}).get(row["entity_id"])} for row in _rows(ranked)]
        return {**data, "enriched": described is not None, "rows": rows}

    async def _describe(self, domain: str, entity_type: str, ranked: list[Ranked]) -> dict[str, dict[str, Any]] | None:
        """Entity id → columns of its row; None if there are none to be had."""
        table = self._tables.get((domain, entity_type))
        if table is None or not table.enrich:
            return None
        try:
            return await self._stores.describe(table, [row.entity_id for row in ranked])
        except StoreError as error:
            self._stores.note(error)
            return None

    # Series -----------------------------------------------------------------------------------------------------

    def _series(self, names: list[str], parameters: Parameters) -> Question | Missing:
        if len(names) != 3:
            return _NO_SUCH_PATH
        entity, points_max = Entity(*names), self._limits.series_points_max
        bucket = parameters.choice("bucket", BUCKETS, DAILY.name)
        last = parameters.day("to", self._today())
        first = parameters.day("from", default_first(bucket, last))
        parameters.reject_unknown(("bucket", "from", "to"))
        parameters.check_entity_id(entity.id)
        if first > last:
            parameters.wrong("from", rejection.after("from", "to"))
        elif is_too_long(bucket, first, last, points_max):
            parameters.wrong("from", rejection.too_many_points(points_max))
        return Question(partial(self._read_series, entity, bucket, first, last), self._limits.cache_ttl_ms)

    async def _read_series(self, entity: Entity, bucket: Bucket, first: dt.date, last: dt.date) -> dict[str, Any]:
        points = await series(self._stores.mongo, entity, bucket, self._counters[entity.domain], first, last)
        return {
            **_named(entity), "bucket": bucket, "from": first.isoformat(), "to": last.isoformat(), "points": points
        }  # fmt: skip

    # The summary ------------------------------------------------------------------------------------------------

    def _summary(self, names: list[str], parameters: Parameters) -> Question | Missing:
        if len(names) != 1:
            return _NO_SUCH_PATH
        days = parameters.choice("days", SUMMARY_DAYS, SUMMARY_DAYS_DEFAULT)
        parameters.reject_unknown(("days",))
        return Question(partial(self._read_summary, names[0], int(days)), self._limits.top_cache_ttl_ms)

    async def _read_summary(self, domain: str, days: int) -> dict[str, Any]:
        today = self._today()
        types, counters = self._types[domain], self._counters[domain]
        labels = days_between(today - dt.timedelta(days - 1), today)
        sums = await self._day_sums.read(domain, types, counters, labels, today)
        window = next((window for window in self._windows if window == f"{days}d"), self._windows[0])
        top: dict[str, dict[str, Any]] = {entity_type: {} for entity_type in types}
        for entity_type in types:
            for counter in counters:
                ranked = await self._ranking.read(domain, entity_type, counter, window, TOP_LIMIT_DEFAULT, today)
                top[entity_type][counter] = _rows(ranked)
        return {
            "domain": domain, "days": days, "labels": labels, "counters": sums, "top_window": window, "top": top
        }  # fmt: skip


def _named(entity: Entity) -> dict[str, Any]:
    return {"domain": entity.domain, "entity_type": entity.type, "entity_id": entity.id}


def _rows(ranked: list[Ranked]) -> list[dict[str, Any]]:
    return [{"entity_id": row.entity_id, "amount": row.amount} for row in ranked]
