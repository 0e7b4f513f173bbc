"""One shard's way from MongoDB to MySQL: the entities that became due get their columns set to the totals.

Driven by the shard's replica list in Redis, so MySQL being away delays nothing but itself. The totals are read under the
advisory lock the UPDATE runs in; an entity leaves the list only if it did not become due again meanwhile. Dying anywhere
in between leaves it on the list, and setting a column to a total twice is harmless.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from daemon.buffer.counters import Counters
from daemon.config import ReplicaTable
from daemon.domain.entity import parse_entity
from daemon.sinks.mongo import MongoSink
from daemon.sinks.mysql import MysqlSink
from daemon.sinks.outcome import SinkResult

TableOf = Mapping[tuple[str, str], ReplicaTable]


class Synced(NamedTuple):
    """One batch. `more`: the list may hold further entities."""

    rows: SinkResult
    more: bool


class Replica:
    """Syncs one shard. `sync_next` raises StoreError; calling it again is always safe."""

    def __init__(self, counters: Counters, mongo: MongoSink, mysql: MysqlSink, tables: TableOf, rows_max: int) -> None:
        self._counters = counters
        self._mongo = mongo
        self._mysql = mysql
        self._tables = tables
        self._rows_max = rows_max

    async def sync_next(self) -> Synced:
        """Sets the rows of the longest due entities, at most `rows_max`."""
        due = await self._counters.due(self._rows_max)
        if not due:
            return Synced(SinkResult(0), more=False)
        ids: dict[tuple[str, str], list[str]] = {}
        for key, _ in due:
            entity = parse_entity(key)
            if entity is not None and (entity.domain, entity.type) in self._tables:
                ids.setdefault((entity.domain, entity.type), []).append(key)
        applied = missing = 0
        async with self._mysql.locked(self._counters.shard):
            for mapped, keys in ids.items():
                totals = await self._mongo.totals(keys)
                result = await self._mysql.write(
                    self._tables[mapped], {document["entity_id"]: document for document in totals.values()}
                )
                applied += result.applied
                missing += result.missing
        await self._counters.settle(due)
        return Synced(SinkResult(applied, missing=missing), more=len(due) == self._rows_max)
