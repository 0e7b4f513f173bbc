"""Parity: do the columns of MySQL equal the totals in MongoDB? Called by `tallyd parity-check` and reports. Reads only.

MySQL sorts the rows once, the highest counter first, and streams them. MongoDB is asked for each chunk's documents by
`_id`. So memory stays flat. A row without a totals document is a mismatch unless it is 0: nobody has taken it over. A
row that differs because
its counts are still coming from Redis is pending, and no mismatch: see `daemon.verify.audit.replica.confirm`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from daemon.buffer.connection import opened
from daemon.config import Config, ReplicaTable
from daemon.replica.mysql import MysqlSink, RankedRow
from daemon.rollups.mongo import MongoSink
from daemon.verify.audit.replica import CHUNK_ENTITIES, Tables, confirm, differing

NAMED_MAX = 20

Row = dict[str, str | int | None]
"""A mismatch, as a row of `analytics-artifact.v1`: code (the label, or the key without one), key, entity_type, and
mysql_<column> and mongo_<column> of each mapped column."""


class Tally(Struct):
    """Counts of rows of one entity type. `ordered_by`: the column, the highest first."""

    entity_type: str
    table: str
    ordered_by: str
    checked: int = 0
    mismatches: int = 0
    pending: int = 0
    """Rows that differ but are due, dirty or in flight. A flush makes them equal."""
    keyless: int = 0
    """Rows without a key, so no event can name them."""
    missing: int | None = None
    """Entities that have totals and no row. None: not looked for, because only the first rows were checked."""
    missing_some: list[str] = []
    not_backfilled: int = 0
    """Those of the mismatches that have no totals: no event counted them, and no backfill took them over."""
    not_backfilled_some: list[str] = []


async def check(
    config: Config,
    tables: Tables,
    rows_max: int | None,
    found: Callable[[Row], None] = lambda _: None,
    progress: Callable[[Tally], None] = lambda _: None,
) -> list[Tally]:
    """`rows_max`: of each type (None: all). `found` gets every mismatch at once. Raises StoreError."""
    tallies = [Tally(".".join(name), table.table, next(iter(table.columns.values()))) for name, table in tables.items()]
    async with (
        opened(config.redis) as redis,
        MongoSink(config.mongo) as mongo,
        MysqlSink(config.mysql) as mysql,
        MysqlSink(config.mysql) as ranking,  # it streams the rows, and can carry nothing else meanwhile
    ):
        for tally, ((domain, kind), table) in zip(tallies, tables.items(), strict=True):
            prefix, documents = f"{domain}:{kind}:", 0
            async for ranked in ranking.ranked(table, CHUNK_ENTITIES, rows_max):
                rows = {prefix + row.id: row for row in ranked if row.id}
                totals = await mongo.totals(rows)
                suspected = differing(prefix, totals, {row.id: row.values for row in rows.values()}, table)
                true, pending = await confirm(redis, config.redis, mongo, mysql, tables, suspected, dirty_too=True)
                columns = {row.key: row.columns for row in true}
                for key in filter(columns.__contains__, rows):
                    found(_mismatch(rows[key], tally.entity_type, table, columns[key]))
                untaken = [rows[key].id for key in columns if key in rows and key not in totals]
                tally.not_backfilled += len(untaken)
                tally.not_backfilled_some += untaken[: NAMED_MAX - len(tally.not_backfilled_some)]
                tally.checked += len(ranked)
                tally.mismatches += len(columns)
                tally.pending += pending
                tally.keyless += sum(not row.id for row in ranked)
                documents += len(totals)
                progress(tally)
            if rows_max is None:
                tally.missing = 0
                # If the rows had all totals, nothing is read again.
                if await mongo.count_of_type(domain, kind) != documents:
                    await _count_missing(mongo, mysql, (domain, kind), table, tally)
    return tallies


async def _count_missing(
    mongo: MongoSink, mysql: MysqlSink, entity_type: tuple[str, str], table: ReplicaTable, tally: Tally
) -> None:
    """Totals without a row: counted entities that were deleted in MySQL, or never were there."""
    missing, some = 0, list[str]()
    async for chunk in mongo.totals_of_type(*entity_type, CHUNK_ENTITIES):
        ids = [document["entity_id"] for document in chunk]
        rows = await mysql.read(table, ids)
        without = [id_ for id_ in ids if id_ not in rows]
        missing += len(without)
        some += without[: NAMED_MAX - len(some)]
    tally.missing, tally.missing_some = missing, some


def _mismatch(row: RankedRow, entity_type: str, table: ReplicaTable, amounts: Mapping[str, tuple[int, int]]) -> Row:
    """`amounts`: counter → (MongoDB, MySQL)."""
    found: Row = {"code": row.label or row.id, "key": row.id, "entity_type": entity_type}
    found |= {f"mysql_{column}": amounts[counter][1] for counter, column in table.columns.items()}
    return found | {f"mongo_{column}": amounts[counter][0] for counter, column in table.columns.items()}
