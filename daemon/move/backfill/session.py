"""One `tallyd backfill`: the tables in order, then the history, then the comparison that it prints."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct, field

from daemon.buffer.connection import Connection, opened
from daemon.buffer.layout import Layout
from daemon.config import Config, ReplicaTable, replica_tables
from daemon.move.backfill.compare import Comparison, compare
from daemon.move.backfill.history import History, HistoryTally
from daemon.move.backfill.run import Backfill, Tally, Watcher
from daemon.replica.mysql import MysqlSink
from daemon.rollups.mongo import MongoSink


class Outcome(Struct):
    """`verification` is empty after a dry run, and after a run that was stopped."""

    tables: list[Tally] = field(default_factory=list)
    history: HistoryTally | None = None
    verification: list[Comparison] = field(default_factory=list)

    @property
    def problems(self) -> int:
        return sum(tally.problems for tally in self.tables) + (self.history.problems if self.history else 0)


async def run(
    config: Config,
    tables: Mapping[tuple[str, str], ReplicaTable],
    watcher: Watcher,
    stopping: threading.Event,
    *,
    chunk: int,
    dry_run: bool,
    daily: Path | None,
    reconcile: bool,
) -> Outcome:
    """`tables`: the chosen entity types. `stopping` ends the run after the current chunk.

    Raises ConfigError and StoreError. Raises LayoutError if Redis has another number of shards: due entities would be
    listed in the wrong shards.
    """
    outcome = Outcome()
    async with (
        opened(config.redis) as redis,
        MongoSink(config.mongo, decides=True) as mongo,
        MysqlSink(config.mysql) as mysql,
    ):
        if not dry_run:
            await _check_layout(config)
            await mongo.ensure_indexes()
        for entity_type, table in tables.items():
            stores = (redis, mongo, mysql)
            one = Backfill(config, stores, entity_type, table, reconcile=reconcile, dry_run=dry_run)
            outcome.tables.append(one.tally)
            if not await one.run(chunk, watcher, stopping.is_set):
                return outcome
        if daily is not None:
            history = History(config, mongo, mysql, replica_tables(config), dry_run=dry_run)
            outcome.history = await history.run(daily, watcher, stopping)
        if not dry_run and not stopping.is_set():
            outcome.verification = [await compare(mongo, mysql, name, table) for name, table in tables.items()]
    return outcome


async def _check_layout(config: Config) -> None:
    connection = Connection(config.redis, Layout(config))
    try:
        await connection.connect()
    finally:
        await connection.close()
