"""The rows of a mapped table, the highest counter first, each against its totals.

MySQL sorts once and streams. MongoDB is asked for each chunk's documents by `_id`. So memory stays flat. A row without
a totals document is a mismatch unless it is 0. A row that differs because its counts are still coming from Redis is
pending, and no mismatch: see `daemon.verify.audit.replica.confirm`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec import Struct
from redis.asyncio import Redis

from daemon.config import ReplicaTable
from daemon.replica.mysql import MysqlSink
from daemon.rollups.mongo import MongoSink
from daemon.verify.audit.replica import confirm, differing

CHUNK_ROWS = 5_000


class Mismatch(Struct, frozen=True):
    """A row that differs from its totals and is not pending. `mysql`, `mongo`: the amounts of each mapped counter."""

    key: str
    label: str | None
    mysql: dict[str, int]
    mongo: dict[str, int]


class Compared(Struct, frozen=True):
    """A chunk of rows. `pending`: rows that differ but are due, dirty or in flight. `keyless`: rows without a key."""

    checked: int
    mismatches: list[Mismatch]
    pending: int
    keyless: int
    documents: int
    """Rows that have a totals document."""


class Parity:
    """The connections of one comparison. Methods raise StoreError if a store does not answer."""

    def __init__(self, shards: int, redis: Redis, mongo: MongoSink, mysql: MysqlSink, ranking: MysqlSink) -> None:
        """`ranking`: the connection that streams the rows. Nothing else can use it meanwhile."""
        self._shards = shards
        self._redis = redis
        self.mongo = mongo
        self.mysql = mysql
        self._ranking = ranking

    async def compare(
        self, domain: str, entity_type: str, table: ReplicaTable, rows_max: int | None
    ) -> AsyncIterator[Compared]:
        """All rows of an entity type's table, or the first `rows_max`, a chunk at a time."""
        prefix = f"{domain}:{entity_type}:"
        async for ranked in self._ranking.ranked(table, CHUNK_ROWS, rows_max):
            rows = {row.id: row for row in ranked if row.id}
            totals = await self.mongo.totals([prefix + id_ for id_ in rows])
            found = differing(prefix, totals, {id_: row.values for id_, row in rows.items()}, table)
            true, pending = await confirm(
                self._redis, self._shards, self.mongo, self.mysql, {(domain, entity_type): table}, found,
                dirty_too=True,
            )  # fmt: skip
            mongo_of = {row.key: {counter: here for counter, (here, _) in row.columns.items()} for row in true}
            mysql_of = {row.key: {counter: there for counter, (_, there) in row.columns.items()} for row in true}
            mismatches = [
                Mismatch(row.id, row.label, mysql_of[prefix + row.id], mongo_of[prefix + row.id])
                for row in rows.values()
                if prefix + row.id in mongo_of
            ]
            yield Compared(len(ranked), mismatches, pending, sum(not row.id for row in ranked), len(totals))
