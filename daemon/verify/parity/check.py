"""A whole parity check: each mapped entity type in turn. It counts, and hands on each mismatch at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from msgspec import Struct

from daemon.buffer.connection import opened
from daemon.config import Config, ReplicaTable
from daemon.replica.mysql import MysqlSink
from daemon.rollups.mongo import MongoSink
from daemon.verify.audit.replica import Tables
from daemon.verify.parity.absent import find_absent
from daemon.verify.parity.compare import Parity
from daemon.verify.parity.rows import Row, row_of


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


@asynccontextmanager
async def opened_parity(config: Config) -> AsyncIterator[Parity]:
    async with (
        opened(config.redis) as redis,
        MongoSink(config.mongo) as mongo,
        MysqlSink(config.mysql) as mysql,
        MysqlSink(config.mysql) as ranking,
    ):
        yield Parity(config.redis.shards, redis, mongo, mysql, ranking)


async def check(
    parity: Parity,
    tables: Tables,
    rows_max: int | None,
    found: Callable[[Row], None],
    progress: Callable[[Tally], None] = lambda _: None,
) -> list[Tally]:
    """`rows_max`: of each type (None: all). `found` gets every mismatch. Raises StoreError."""
    return [
        await _check_type(parity, domain, kind, table, rows_max, found, progress)
        for (domain, kind), table in tables.items()
    ]


async def _check_type(
    parity: Parity,
    domain: str,
    kind: str,
    table: ReplicaTable,
    rows_max: int | None,
    found: Callable[[Row], None],
    progress: Callable[[Tally], None],
) -> Tally:
    tally = Tally(f"{domain}.{kind}", table.table, next(iter(table.columns.values())))
    documents = 0
    async for compared in parity.compare(domain, kind, table, rows_max):
        tally.checked += compared.checked
        tally.mismatches += len(compared.mismatches)
        tally.pending += compared.pending
        tally.keyless += compared.keyless
        documents += compared.documents
        for mismatch in compared.mismatches:
            found(row_of(mismatch, tally.entity_type, table))
        progress(tally)
    if rows_max is None:
        absent = await find_absent(parity.mongo, parity.mysql, domain, kind, table, documents)
        tally.missing, tally.missing_some = absent.count, list(absent.some)
    return tally
