"""Aliases: entities that have the base of another id's row, because a former version took that row for theirs.

MySQL compares text by the key column's collation, so "ABC" and "abc " find the row "abc". Versions before 0.3.0 joined
by that alone. Such an entity adopted the base of the foreign row, and each sync of it set the foreign columns. Today it
gets no base, and its sync finds no row. The audit names those of before, and `--repair-replica` mends them:

1. The row that was written becomes due, so the next sync sets it to its own entity's totals.
2. The alias loses the base. What was counted under its id stays.

If the process dies in between, the next audit finds the alias again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from daemon.config import ReplicaTable
from daemon.domain.rollup import TOTALS
from daemon.replica.mysql import MysqlSink
from daemon.rollups.errors import write_failed
from daemon.rollups.mongo import MongoSink


async def find_aliases(mysql: MysqlSink, table: ReplicaTable, documents: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Alias → the id whose row it wrote, among these totals documents of the table's type. Raises StoreError."""
    return await mysql.alike(table, [document["entity_id"] for document in documents if document.get("base")])


async def forget_bases(mongo: MongoSink, keys: Collection[str]) -> None:
    """Removes the bases of these entities. Raises StoreError."""
    operations = [{"q": {"_id": key}, "u": {"$unset": {"base": "", "synced": ""}}} for key in keys]
    for _, error in await mongo.update(TOTALS, operations):
        raise write_failed(mongo.address, error)
