"""All rows of the mapped tables, a chunk at a time: each one's columns become the bases of its totals document.

MySQL is only read. An entity with counts of its own is put on the replica list, before it gets its base: the next sync
sets its column to base + counted. `STEPS` says what holds if the process dies. A second backfill or a sync beside this
one changes nothing of that: a base is set once.

`reconcile` also changes bases that are there: a base becomes what the column says without what tallyd wrote to it
(`replica/synced.py`). It holds the advisory locks of the chunk's shards, so no sync writes a row in between. It leaves
alone the rows that a sync was setting when it died, for nobody knows what it wrote. Its update asks for the amounts and
the base it computed from. A document may not say what was written, or speak of another column. Then all that was
counted is taken as written, and rows that may be behind are left alone.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from itertools import chain
from typing import NamedTuple, Protocol

from msgspec import Struct, field
from redis.asyncio import Redis

from daemon.buffer.due import being_set, make_due, pending
from daemon.buffer.keys import by_shard
from daemon.config import Config, ReplicaTable, domain_counters
from daemon.domain.entity import Entity
from daemon.domain.rollup import TOTALS
from daemon.errors import ConfigError
from daemon.move.backfill.changes import Change, adopted, has_counted, reconciled
from daemon.move.backfill.legacy import KEYLESS_LISTED_MAX, LegacyRow, LegacyTable, entity_id_of
from daemon.move.backfill.progress import Progress
from daemon.replica.adopt import NO_NUMBER, TOO_LARGE, Row, adopt, fits, holds_numbers
from daemon.replica.columns import moved_columns, record_columns
from daemon.replica.mysql import MysqlSink
from daemon.replica.synced import synced
from daemon.rollups.errors import write_failed
from daemon.rollups.mongo import Json, MongoSink

STEPS = {
    "page": "Nothing has changed.",
    "make_due": "The next sync sets rows that may not need it. It adopts the bases that are missing.",
    "adopt": "Some documents have their base. The next run finds them unchanged.",
    "record": "The next run goes on behind this chunk.",
    "rebase": "Some bases are what the columns say. The next reconcile finds them unchanged.",
}
"""Each step of a chunk in order, and what holds if the process dies after it or its reply is lost. A reconcile does
`rebase` in place of `record`."""

PROBLEMS_LISTED_MAX = 1_000
"""Entities that could not be taken over and are named; the others are counted."""
PENDING = "its row is behind MongoDB, so what the application added to it can't be told apart"
UNKNOWN = "a flusher died while it set the row, so what the application added to it can't be told apart"
LOST_COUNTS = "its column says less than was counted"


class Tally(Struct):
    """What became of the rows of one entity type. Each row is one of upserted, unchanged, skipped and problems."""

    name: str
    rows_before: int = 0
    """Rows that an earlier run, which this one goes on from, had done."""
    processed: int = 0
    upserted: int = 0
    """Documents made, or given a base or another one."""
    unchanged: int = 0
    skipped: int = 0
    """Rows whose key is no entity id."""
    due: int = 0
    """Of the upserted: entities whose column the next sync will set to base + counted."""
    problems: int = 0
    skipped_listed: list[str] = field(default_factory=list)
    problems_listed: list[str] = field(default_factory=list)

    def skip(self, what: str, count: int = 1) -> None:
        self.skipped += count
        if len(self.skipped_listed) < KEYLESS_LISTED_MAX:
            self.skipped_listed.append(what)

    def problem(self, what: str) -> None:
        self.problems += 1
        if len(self.problems_listed) < PROBLEMS_LISTED_MAX:
            self.problems_listed.append(what)


class Watcher(Protocol):
    """Is told how a run comes along."""

    def begin(self, name: str, rows: int, done: int) -> None: ...

    def advance(self, rows: int) -> None: ...

    def change(self, change: Change) -> None:
        """One change, in a dry run: it is not made."""


class Backfill:
    """One run over one entity type. `run` raises ConfigError and StoreError; run again, it goes on."""

    def __init__(
        self,
        config: Config,
        stores: tuple[Redis, MongoSink, MysqlSink],
        entity_type: tuple[str, str],
        table: ReplicaTable,
        *,
        reconcile: bool = False,
        dry_run: bool = False,
    ) -> None:
        """`entity_type`: (domain, type). `dry_run`: changes are only shown to the watcher."""
        self._redis, self._mongo, self._mysql = stores
        self._domain, self._type = entity_type
        self._table = table
        self._legacy = LegacyTable(self._mysql, table)
        self._shards = config.redis.shards
        self._zeros = {self._domain: domain_counters(config, self._domain)}
        self._reconcile = reconcile
        self._dry_run = dry_run
        self._is_moved = False
        """The bases there are were read from another column."""
        self.tally = Tally(f"{self._domain}.{self._type}")

    async def run(self, chunk: int, watcher: Watcher, stopping: Callable[[], bool]) -> bool:
        """Goes on until the last row, or until `stopping` says so between two chunks. Returns whether it came to the
        end. `chunk`: rows of one page."""
        tally = self.tally
        await self._legacy.check(tally.name)
        moved = await moved_columns(self._mongo, tally.name, self._table, record=not self._dry_run)
        if moved and not self._reconcile:
            raise ConfigError(moved)
        self._is_moved = bool(moved)
        progress, after = Progress(self._mongo, tally.name, self._table), None
        # Rows that were reconciled may have grown since, so that starts anew each time; and a dry run writes nothing.
        resumable = not (self._reconcile or self._dry_run)
        if resumable:
            after, tally.rows_before = await progress.resume()
        watcher.begin(f"{tally.name}, rows", await self._legacy.rows_estimate(), tally.rows_before)
        while rows := await self._legacy.page(after, chunk):
            if stopping():
                return False
            await self._take_over(rows, watcher)
            after = rows[-1].key
            if resumable:
                await progress.record(after, tally.rows_before + tally.processed)
            watcher.advance(len(rows))
        keyless, listed = await self._legacy.keyless()
        tally.processed += keyless
        tally.skipped += keyless
        tally.skipped_listed += [f"{self._table.table} {row}: {self._table.key} is NULL" for row in listed]
        if resumable:
            await progress.finish()
        if self._is_moved and not self._dry_run and not tally.problems:
            await record_columns(self._mongo, tally.name, self._table)
        return True

    async def _take_over(self, rows: Iterable[LegacyRow], watcher: Watcher) -> None:
        by_entity: dict[Entity, Row] = {}
        for row in rows:
            self.tally.processed += 1
            id_ = entity_id_of(row.key)
            if id_ is None:
                self.tally.skip(f"{self._table.table} {self._table.key} {row.key!r:.300}: no entity id")
            elif not fits(row.columns):
                self.tally.problem(f"{self._domain}:{self._type}:{id_}: {TOO_LARGE}")
            else:
                by_entity[Entity(self._domain, self._type, id_)] = row.columns
        if not by_entity:
            return
        done = await (self._reconciled(by_entity, watcher) if self._reconcile else self._adopted(by_entity, watcher))
        for key, reason in done.problems.items():
            self.tally.problem(f"{key}: {reason}")
        self.tally.upserted += len(done.changed)
        self.tally.due += len(done.due)
        self.tally.unchanged += len(by_entity) - len(done.changed) - len(done.problems)

    async def _adopted(self, rows: Mapping[Entity, Row], watcher: Watcher) -> _Done:
        return await self._adopt(rows, await self._mongo.totals([entity.key for entity in rows]), watcher)

    async def _adopt(self, rows: Mapping[Entity, Row], documents: Mapping[str, Json], watcher: Watcher) -> _Done:
        """Bases for documents that have none."""
        changes = [change for entity, row in rows.items() for change in adopted(entity, row, documents.get(entity.key))]
        changed = {change.entity for change in changes}
        due = {
            entity.key
            for entity, row in rows.items()
            if entity.key in changed and has_counted(documents.get(entity.key), row)
        }
        if self._dry_run:
            for change in changes:
                watcher.change(change)
            return _Done(changed, due, {})
        for shard, keys in by_shard(due, self._shards, str).items():
            await make_due(self._redis, shard, keys)
        _, failures = await adopt(self._mongo, rows, documents, self._zeros)
        problems = {failure.id: failure.reason for failure in failures}
        return _Done(changed - problems.keys(), due, problems)

    async def _reconciled(self, rows: Mapping[Entity, Row], watcher: Watcher) -> _Done:
        """Bases for documents that have none, and other bases where the column says something else."""
        async with AsyncExitStack() as locks:
            for shard in sorted(by_shard((entity.key for entity in rows), self._shards, str)):
                await locks.enter_async_context(self._mysql.locked(shard))
            # Read again: only under the lock nobody writes them.
            found = await self._mysql.read(self._table, [entity.id for entity in rows])
            rows = {entity: found[entity.id] for entity in rows if entity.id in found and fits(found[entity.id])}
            documents = await self._mongo.totals([entity.key for entity in rows])
            done = await self._adopt(rows, documents, watcher)
            sound = {key: each for key, each in documents.items() if holds_numbers(each, self._table.columns)}
            done.problems.update(dict.fromkeys(documents.keys() - sound.keys(), NO_NUMBER))
            held = {key: self._held(each) for key, each in sound.items()}
            wanted = {
                entity.key: changes
                for entity, row in rows.items()
                if entity.key in sound
                and (changes := reconciled(entity, row, sound[entity.key], held[entity.key].amounts))
            }
            done.problems.update(await self._irreconcilable(wanted, held))
            wanted = {key: changes for key, changes in wanted.items() if key not in done.problems}
            if self._dry_run:
                for change in chain.from_iterable(wanted.values()):
                    watcher.change(change)
            else:
                done.problems.update(dict.fromkeys(await self._rebase(wanted, held), PENDING))
            return done._replace(changed=(done.changed | wanted.keys()) - done.problems.keys())

    def _held(self, document: Json) -> _Held:
        counters = [counter for counter in self._table.columns if counter in (document.get("base") or {})]
        noted = None if self._is_moved else synced(document, counters)
        if noted is not None:
            return _Held(noted, {f"synced.{counter}": amount for counter, amount in noted.items()}, is_noted=True)
        counted = {counter: document.get(counter, 0) for counter in counters}
        return _Held(counted, {counter: document.get(counter) for counter in counters}, is_noted=False)

    async def _irreconcilable(self, wanted: Mapping[str, list[Change]], held: Mapping[str, _Held]) -> dict[str, str]:
        """Why the base of some of these can't be told from their column, by entity key."""
        supposed = [key for key in wanted if not held[key].is_noted]
        behind = await self._mongo.dead_letters.waiting_for(TOTALS.collection, supposed)
        for shard, keys in by_shard(supposed, self._shards, str).items():
            behind |= await pending(self._redis, shard, keys)
        unknown: set[str] = set()
        for shard, keys in by_shard(wanted.keys() - set(supposed), self._shards, str).items():
            unknown |= await being_set(self._redis, shard, keys)
        negative = {
            key: f"{LOST_COUNTS} ({change.counter}: {change.after})"
            for key, changes in wanted.items()
            for change in changes
            if change.after < 0
        }
        return negative | dict.fromkeys(behind, PENDING) | dict.fromkeys(unknown, UNKNOWN)

    async def _rebase(self, wanted: Mapping[str, list[Change]], held: Mapping[str, _Held]) -> set[str]:
        """Sets these bases where nothing changed since the documents were read. Returns the keys of the others."""
        now = dt.datetime.now(dt.UTC)
        operations = [
            {
                "q": {"_id": key}
                | held[key].unchanged
                | {f"base.{change.counter}": change.before for change in changes},
                "u": {"$set": {"updated_at": now} | {f"base.{change.counter}": change.after for change in changes}},
            }
            for key, changes in wanted.items()
        ]
        for _, error in await self._mongo.update(TOTALS, operations):
            raise write_failed(self._mongo.address, error)
        now_there = await self._mongo.totals(wanted)
        return {
            key
            for key, changes in wanted.items()
            if any((now_there.get(key, {}).get("base") or {}).get(each.counter) != each.after for each in changes)
        }


class _Held(NamedTuple):
    """How much of each counter's amount the column holds. `unchanged`: asks that the document still says so.
    `is_noted`: the sync noted it; else it is supposed to be what was counted."""

    amounts: dict[str, int]
    unchanged: Json
    is_noted: bool


class _Done(NamedTuple):
    """What became of the entities of one chunk, by key; those in none of the three are unchanged."""

    changed: set[str]
    due: set[str]
    problems: dict[str, str]
