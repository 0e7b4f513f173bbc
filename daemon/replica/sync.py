"""One shard's way from MongoDB to MySQL: the columns of due entities are set to their totals. Called by the flusher.

The due entities are a list in Redis, so a MySQL that is away delays nothing but itself. The totals are read under the
advisory lock in which the UPDATE runs. An entity leaves the list only if it did not become due again meanwhile. If the
flusher dies in between, the entity stays due, and setting a column to a total twice is harmless. The amounts that were
set are noted (`synced.py`).

A row that tallyd never wrote may hold older counts. They become the document's base first (`adopt.py`), so nothing is
overwritten, even if no backfill ran.

MySQL may refuse a row: its total is beyond the column's range, or a trigger objects. The other rows are set all the
same. The refused one goes to the end of the list, and is tried again after REFUSED_PAUSE_S.

The connection may break whenever a statement is sent: a proxy takes only small ones, or the server fails on it. With
the connection the lock is lost. So the next step tries half as many rows.
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
from daemon.metrics import FLUSH_STORE_SECONDS
from daemon.replica.adopt import adopt_due
from daemon.replica.columns import moved_columns
from daemon.replica.mysql import MysqlSink, StatementLostError
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
"""A refused row is not tried again before that, however often it becomes due."""
REFUSED_MAX = 100_000
"""Refused rows that are remembered; with more, all are tried again."""

_log = logging.getLogger(__name__)

TableOf = Mapping[tuple[str, str], ReplicaTable]


class Synced(NamedTuple):
    """One step. `more`: further due entities may be tried now."""

    rows: SinkResult
    more: bool


class Replica:
    """Syncs one shard. `sync_next` raises StoreError; calling it again is always safe."""

    def __init__(self, counters: Counters, mongo: MongoSink, mysql: MysqlSink, tables: TableOf, rows_max: int) -> None:
        self._counters = counters
        self._mongo = mongo
        self._mysql = mysql
        self._tables = tables
        self._rows_max = self._rows = rows_max
        """`_rows`: of the next step. A connection that breaks halves it, and a step that succeeds doubles it."""
        self._checked: set[str] = set()
        """Entity types whose columns were compared with those of the bases."""
        self._refused: dict[str, float] = {}
        """Entity key → when it may be tried again (monotonic seconds)."""

    async def sync_next(self) -> Synced:
        """Sets the rows of the longest due entities, at most `rows_max`."""
        rows = self._rows
        due = await self._counters.due(rows)
        if not due:
            return Synced(SinkResult(0), more=False)
        now_s = time.monotonic()
        waiting = {key for key, _ in due if self._refused.get(key, 0) > now_s}
        tried = [pair for pair in due if pair[0] not in waiting]
        try:
            result, failures = await self._write([key for key, _ in tried]) if tried else (SinkResult(0), {})
        except StatementLostError as error:
            self._rows = max(1, len(tried) // 2)
            if rows == 1 and tried:  # it is this row, time and again: the others must not wait for it
                await self._refuse({tried[0][0]: str(error)}, waiting)
            _log.warning("The next sync tries %d rows in place of %d.", self._rows, len(tried))
            raise
        self._rows = min(self._rows_max, 2 * rows)
        done = [pair for pair in tried if pair[0] not in failures]
        await self._counters.settle(done)
        await self._counters.note_missing(result.missing)
        await self._counters.forget_refused([key for key, _ in done])
        for key, _ in done if self._refused else ():
            self._refused.pop(key, None)
        moved = await self._refuse(failures, waiting) if failures or waiting else 0
        return Synced(result, more=len(due) == rows and bool(done or moved))

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
                # Whatever made these rows due is in them. A primary that was cut off may lack it.
                totals = await self._mongo.confirmed_totals(keys_of_type)
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
        with FLUSH_STORE_SECONDS.labels("mysql").time():
            result = await self._mysql.write(
                table, {document["entity_id"]: document for document in documents.values()}
            )
        refused = {failure.id for failure in result.failures}
        written = [document for document in documents.values() if document["entity_id"] not in refused]
        await note_synced(self._mongo, written, table.columns)
        await self._counters.end_sync(list(documents))
        return result

    async def _check_columns(self, name: str, table: ReplicaTable) -> None:
        """Raises StoreError if the bases were read from other columns than the table's."""
        if name not in self._checked:
            if moved := await moved_columns(self._mongo, name, table):
                raise MysqlStoreError(moved)
            self._checked.add(name)

    async def _refuse(self, refused: Mapping[str, str], waiting: Collection[str]) -> int:
        """Moves these rows to the end of the list. Returns how many were not there yet."""
        news = [key for key in refused if key not in self._refused]
        if news:
            _log.error(
                "MySQL refuses the rows of %d entities. They stay due, and the others are set. The first: %s: %s",
                len(news), news[0], refused[news[0]],
            )  # fmt: skip
        if len(self._refused) > REFUSED_MAX:
            self._refused.clear()
        self._refused |= dict.fromkeys(refused, time.monotonic() + REFUSED_PAUSE_S)
        await self._counters.note_refused(refused)
        return await self._counters.postpone([*refused, *waiting])
