"""Takes over all rows of a mapped table, a chunk at a time: each row's columns become the bases of its totals.

MySQL is only read. An entity that has counts becomes due before it gets its base. The next sync then sets its column to
base + counted. `STEPS` says what holds if the process dies. A second backfill or a sync beside this one does no harm: a
base is set once.

`reconcile` also changes existing bases. A base becomes the column's value minus what tallyd wrote to the column
(`replica/synced.py`). The advisory locks of the chunk's shards are held, so no sync writes a row meanwhile. Rows that
a dead sync was setting are left alone: nobody knows what it wrote. The update applies only if the amounts and the base
are unchanged. If the document does not say what was written, or names another column, all that was counted is taken as
written. Rows that are due are then left alone.
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
from daemon.buffer.keys import Keys, by_shard
from daemon.config import Config, ReplicaTable, domain_counters
from daemon.domain.entity import Entity
from daemon.domain.rollup import TOTALS
from daemon.errors import ConfigError
from daemon.move.backfill.changes import Change, adopted, has_counted, reconciled
from daemon.move.backfill.legacy import KEYLESS_LISTED_MAX, LegacyRow, LegacyTable, entity_id_of
from daemon.move.backfill.progress import Progress
from daemon.replica.adopt import NO_NUMBER, TOO_LARGE, Row, adopt, fits, holds_numbers
from daemon.replica.aliases import find_aliases
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
"""Of the entities that could not be taken over, so many are named. The others are only counted."""
PENDING = "its row is due, so tallyd cannot tell what the application added to it"
UNKNOWN = "a flusher died while it set the row, so tallyd cannot tell what the application added to it"
ALIASED = "an alias wrote its row in a former version (see `tallyd audit`), so tallyd cannot tell what is in it"
LOST_COUNTS = "its column holds less than was counted"


class Tally(Struct):
    """What became of the rows of one entity type. Each row is upserted, unchanged, skipped or a problem."""

    name: str
    rows_before: int = 0
    """Rows that an interrupted run had done. This run goes on behind them."""
    processed: int = 0
    upserted: int = 0
    """Documents that were made, or whose base was set or changed."""
    unchanged: int = 0
    skipped: int = 0
    """Rows whose key is no entity id."""
    due: int = 0
    """Of the upserted: entities that are due. The next sync sets their columns to base + counted."""
    problems: int = 0
    skipped_listed: list[str] = field(default_factory=list)
    problems_listed: list[str] = field(default_factory=list)

    def skip(self, what: str) -> None:
        self.skipped += 1
        if len(self.skipped_listed) < KEYLESS_LISTED_MAX:
            self.skipped_listed.append(what)

    def problem(self, what: str) -> None:
        self.problems += 1
        if len(self.problems_listed) < PROBLEMS_LISTED_MAX:
            self.problems_listed.append(what)


class Watcher(Protocol):
    """Is told how far a run has come."""

    def begin(self, name: str, rows: int, done: int) -> None: ...

    def advance(self, rows: int) -> None: ...

    def change(self, change: Change) -> None:
        """One change of a dry run. It is not made."""


class Backfill:
    """One run over one entity type. `run` raises ConfigError and StoreError. The next run then goes on."""

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
        """`entity_type`: (domain, type). `dry_run`: the watcher is shown the changes, and none is made."""
        self._redis, self._mongo, self._mysql = stores
        self._domain, self._type = entity_type
        self._table = table
        self._legacy = LegacyTable(self._mysql, table)
        self._shards = config.redis.shards
        self._keys = Keys.of(config.redis)
        self._zeros = {self._domain: domain_counters(config, self._domain)}
        self._reconcile = reconcile
        self._dry_run = dry_run
        self._is_moved = False
        """Whether the existing bases were read from another column."""
        self._aliased: set[str] = set()
        """Entities whose rows a former version wrote for others."""
        self.tally = Tally(f"{self._domain}.{self._type}")

    async def run(self, chunk: int, watcher: Watcher, stopping: Callable[[], bool]) -> bool:
        """Takes over all rows. Between two chunks, `stopping` may end it. Returns whether the last row was reached.

        `chunk`: rows of one page.
        """
        tally = self.tally
        await self._legacy.check(tally.name)
        moved = await moved_columns(self._mongo, tally.name, self._table, record=not self._dry_run)
        if moved and not self._reconcile:
            raise ConfigError(moved)
        self._is_moved = bool(moved)
        progress, after = Progress(self._mongo, tally.name, self._table), None
        # A reconcile starts anew each time: its rows may have grown since. A dry run writes nothing.
        resumable = not (self._reconcile or self._dry_run)
        if self._reconcile:
            async for documents in self._mongo.totals_of_type(self._domain, self._type, chunk):
                aliases = await find_aliases(self._mysql, self._table, documents)
                self._aliased |= {Entity(self._domain, self._type, id_).key for id_ in aliases.values()}
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
        if self._reconcile:
            done = await self._reconciled(by_entity, watcher)
        else:
            done = await self._adopt(by_entity, await self._mongo.totals([each.key for each in by_entity]), watcher)
        for key, reason in done.problems.items():
            self.tally.problem(f"{key}: {reason}")
        self.tally.upserted += len(done.changed)
        self.tally.due += len(done.due)
        self.tally.unchanged += len(by_entity) - len(done.changed) - len(done.problems)

    async def _adopt(self, rows: Mapping[Entity, Row], documents: Mapping[str, Json], watcher: Watcher) -> _Done:
        """Sets the bases of documents that have none."""
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
        for shard, entities in by_shard(due, self._shards, str).items():
            await make_due(self._redis, self._keys.shard(shard), entities)
        _, failures = await adopt(self._mongo, rows, documents, self._zeros)
        problems = {failure.id: failure.reason for failure in failures}
        return _Done(changed - problems.keys(), due, problems)

    async def _reconciled(self, rows: Mapping[Entity, Row], watcher: Watcher) -> _Done:
        """Sets the bases of documents that have none, and changes those that no longer fit their column."""
        async with AsyncExitStack() as locks:
            for shard in sorted(by_shard((entity.key for entity in rows), self._shards, str)):
                await locks.enter_async_context(self._mysql.locked(shard))
            # The rows are read again: while the locks are held, no sync writes them.
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
            done.problems.update(dict.fromkeys(wanted.keys() & self._aliased, ALIASED))
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
        """Entity key → why the column does not tell its base. Entities whose column does are absent."""
        supposed = [key for key in wanted if not held[key].is_noted]
        behind = await self._mongo.dead_letters.waiting_for(TOTALS.collection, supposed)
        for shard, entities in by_shard(supposed, self._shards, str).items():
            behind |= await pending(self._redis, self._keys.shard(shard), entities)
        unknown: set[str] = set()
        for shard, entities in by_shard(wanted.keys() - set(supposed), self._shards, str).items():
            unknown |= await being_set(self._redis, self._keys.shard(shard), entities)
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
    """How much of each counter's amount the column holds. `unchanged`: the filter for a document that still says so.

    `is_noted`: the sync noted the amounts. Otherwise the column is taken to hold all that was counted.
    """

    amounts: dict[str, int]
    unchanged: Json
    is_noted: bool


class _Done(NamedTuple):
    """What became of the entities of one chunk, by key. Those in none of the three are unchanged."""

    changed: set[str]
    due: set[str]
    problems: dict[str, str]
