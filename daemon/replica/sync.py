"""One shard's way from MongoDB to MySQL: the entities that became due get their columns set to the totals.

Driven by the shard's replica list in Redis, so MySQL being away delays nothing but itself. The totals are read under
the advisory lock the UPDATE runs in; an entity leaves the list only if it did not become due again meanwhile. Dying
anywhere in between leaves it on the list, and setting a column to a total twice is harmless. What the columns were set
to is noted (`replica/synced.py`).

A row that tallyd never wrote may hold counts of before: they become the document's base first (`replica/adopt.py`), so
nothing is overwritten, even where nobody ran a backfill.

A row that MySQL will not take (a total beyond its column's range, a trigger that objects) holds nobody up: the others
of its batch are set, and it goes to the end of the list, to be tried again from time to time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from daemon.buffer.counters import Counters
from daemon.config import ReplicaTable
from daemon.domain.entity import parse_entity
from daemon.domain.outcome import Failure, SinkResult
from daemon.domain.rollup import TOTALS
from daemon.errors import MysqlStoreError
from daemon.replica.adopt import adopt_due
from daemon.replica.columns import moved_columns
from daemon.replica.mysql import MysqlSink
from daemon.replica.synced import note_synced
from daemon.rollups.mongo import Json, MongoSink

STEPS = {
    "lock": "Nothing has changed. MySQL drops the lock with the connection.",
    "read": "Nothing has changed.",
    "adopt": "Some documents have their base. The next sync finds it, and asks for the others.",
    "begin_sync": "The rows are marked in Redis. Nobody knows what they hold until the next sync has set them.",
    "update": "The rows are set and still marked. The next sync sets them again.",
    "note": "The documents say what the rows hold. The mark remains, so a reconcile leaves the rows alone.",
    "end_sync": "It is known what the rows hold. They are still due, and the next sync sets them again.",
    "unlock": "The same. Another sync may set the rows now.",
    "settle": "The rows are done. Those that became due meanwhile are still due.",
}
"""Each step of `sync_next` in order, and what holds if the process dies after it or its reply is lost."""

REFUSED_PAUSE_S = 60.0
"""After MySQL refused a row's values, the row is not tried again for so long, however often it becomes due."""
REFUSED_MAX = 100_000
"""Rows that are remembered so; with more, all are tried again."""

_log = logging.getLogger(__name__)

TableOf = Mapping[tuple[str, str], ReplicaTable]


class Synced(NamedTuple):
    """One batch. `more`: the list may hold further entities that can be tried now."""

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
        self._checked: set[str] = set()
        """Entity types whose columns are those the bases were read from."""
        self._refused: dict[str, float] = {}
        """Entity key → when it may be tried again (monotonic seconds)."""

    async def sync_next(self) -> Synced:
        """Sets the rows of the longest due entities, at most `rows_max`."""
        due = await self._counters.due(self._rows_max)
        if not due:
            return Synced(SinkResult(0), more=False)
        now_s = time.monotonic()
        waiting = {key for key, _ in due if self._refused.get(key, 0) > now_s}
        tried = [pair for pair in due if pair[0] not in waiting]
        result, failures = await self._write([key for key, _ in tried]) if tried else (SinkResult(0), {})
        done = [pair for pair in tried if pair[0] not in failures]
        await self._counters.settle(done)
        await self._counters.forget_refused([key for key, _ in done])
        for key, _ in done if self._refused else ():
            self._refused.pop(key, None)
        moved = await self._refuse(failures, waiting) if failures or waiting else 0
        return Synced(result, more=len(due) == self._rows_max and bool(done or moved))

    async def _write(self, keys: Sequence[str]) -> tuple[SinkResult, dict[str, str]]:
        """Also returns, per entity key, why MySQL refused its row."""
        mapped: dict[tuple[str, str], list[str]] = {}
        for key in keys:
            entity = parse_entity(key)
            if entity is not None and (entity.domain, entity.type) in self._tables:
                mapped.setdefault((entity.domain, entity.type), []).append(key)
        applied = missing = 0
        failures: list[Failure] = []
        refused: dict[str, str] = {}
        async with self._mysql.locked(self._counters.shard):
            for (domain, kind), keys_of_type in mapped.items():
                table = self._tables[domain, kind]
                await self._check_columns(f"{domain}.{kind}", table)
                totals = await self._mongo.totals(keys_of_type)
                ready, unfit = await adopt_due(self._mongo, self._mysql, table, totals)
                result = await self._set(table, ready)
                applied += result.applied
                missing += result.missing + len(totals) - len(ready) - len(unfit)
                failures += [Failure(TOTALS.collection, key, reason) for key, reason in unfit.items()]
                failures += result.failures
                refused |= unfit | {f"{domain}:{kind}:{failure.id}": failure.reason for failure in result.failures}
        return SinkResult(applied, missing=missing, failures=tuple(failures)), refused

    async def _set(self, table: ReplicaTable, documents: Mapping[str, Json]) -> SinkResult:
        """Sets the rows of these totals documents (by entity key), and notes what they hold then."""
        if not documents:
            return SinkResult(0)
        await self._counters.begin_sync(list(documents))
        result = await self._mysql.write(table, {document["entity_id"]: document for document in documents.values()})
        refused = {failure.id for failure in result.failures}
        written = [document for document in documents.values() if document["entity_id"] not in refused]
        await note_synced(self._mongo, written, table.columns)
        await self._counters.end_sync(list(documents))
        return result

    async def _check_columns(self, name: str, table: ReplicaTable) -> None:
        """Raises StoreError if the bases are of other columns than those to be written."""
        if name not in self._checked:
            if moved := await moved_columns(self._mongo, name, table):
                raise MysqlStoreError(moved)
            self._checked.add(name)

    async def _refuse(self, refused: Mapping[str, str], waiting: Collection[str]) -> int:
        """Lets these rows wait without holding up the others. Returns how many were not at the end of the list yet."""
        news = [key for key in refused if key not in self._refused]
        if news:
            _log.error(
                "MySQL refuses the rows of %d entities; they stay on the list, the others go on. The first: %s: %s",
                len(news), news[0], refused[news[0]],
            )  # fmt: skip
        if len(self._refused) > REFUSED_MAX:
            self._refused.clear()
        self._refused |= dict.fromkeys(refused, time.monotonic() + REFUSED_PAUSE_S)
        await self._counters.note_refused(refused)
        return await self._counters.postpone([*refused, *waiting])
