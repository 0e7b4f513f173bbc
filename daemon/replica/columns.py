"""Which columns the bases of an entity type were read from: a base of one column says nothing of another column.

A counter's column is recorded before its first base is set. The mapping may name another column later: tallyd counted
into a column of its own, and now takes over the application's. That column is not written until `tallyd backfill
--reconcile` has made bases of it.
"""

from __future__ import annotations

from pymongo import ReturnDocument

from daemon.config import ReplicaTable
from daemon.rollups.collections import BASE_COLUMNS
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import Json, MongoSink


async def moved_columns(mongo: MongoSink, name: str, table: ReplicaTable, *, record: bool = True) -> str:
    """Why the table's columns may not be written: the bases were read from others. "" if they may.

    `name`: the entity type, as `jav.movie`. `record`: also record the columns of counters that have none. Raises
    StoreError.
    """
    wanted = _columns(table)
    with store_error(mongo.address):
        if record:
            # The recorded ones win.
            merged = {"$set": {"columns": {"$mergeObjects": [{"$literal": wanted}, "$columns"]}}}
            found: Json | None = await mongo.database[BASE_COLUMNS].find_one_and_update(
                {"_id": name}, [merged], upsert=True, return_document=ReturnDocument.AFTER
            )
        else:
            found = await mongo.database[BASE_COLUMNS].find_one({"_id": name})
    recorded = (found or {}).get("columns", {})
    moved = [f"{recorded[c]} → {column}" for c, column in wanted.items() if recorded.get(c, column) != column]
    if not moved:
        return ""
    return (
        f"replica.{name} names other columns than before ({', '.join(moved)}), and their amounts are not taken over."
        " Stop `tallyd flush`, run `tallyd flush --once` with the former mapping and `tallyd backfill --reconcile` with"
        " the new one, and start it again."
    )


async def record_columns(mongo: MongoSink, name: str, table: ReplicaTable) -> None:
    """Records that the bases now are of these columns. Raises StoreError."""
    with store_error(mongo.address):
        await mongo.database[BASE_COLUMNS].update_one(
            {"_id": name}, {"$set": {f"columns.{c}": column for c, column in _columns(table).items()}}, upsert=True
        )


def _columns(table: ReplicaTable) -> dict[str, str]:
    return {counter: f"{table.table}.{column}" for counter, column in table.columns.items()}
