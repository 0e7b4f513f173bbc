"""Totals without a row in MySQL: counted entities that were deleted there, or never were there."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from daemon.config import ReplicaTable
from daemon.replica.mysql import MysqlSink
from daemon.rollups.mongo import MongoSink
from daemon.verify.audit.replica import CHUNK_ENTITIES

NAMED_MAX = 20


class Absent(Struct, frozen=True):
    """How many entities have totals and no row, and the ids of some."""

    count: int
    some: Sequence[str]


async def find_absent(
    mongo: MongoSink, mysql: MysqlSink, domain: str, entity_type: str, table: ReplicaTable, documents: int
) -> Absent:
    """`documents`: for how many totals a row was found. If these are all totals, nothing is read again."""
    count = 0
    some: list[str] = []
    if await mongo.count_of_type(domain, entity_type) != documents:
        async for chunk in mongo.totals_of_type(domain, entity_type, CHUNK_ENTITIES):
            ids = [document["entity_id"] for document in chunk]
            rows = await mysql.read(table, ids)
            without = [id_ for id_ in ids if id_ not in rows]
            count += len(without)
            some += without[: NAMED_MAX - len(some)]
    return Absent(count, some)
