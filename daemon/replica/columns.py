"""Which columns the bases of an entity type were read from: a base of one column says nothing of another.

    analytics_base_columns   {_id: "jav.movie", columns: {view: "jav.views", ...}}

Recorded before the first base of a counter is set. When the mapping names another column later (tallyd counted beside
the application into a column of its own, and is now to take over the real one), nothing is written to that until
`tallyd backfill --reconcile` has made bases of what it says.
"""

from __future__ import annotations

from pymongo import ReturnDocument

from daemon.config import ReplicaTable
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import Json, MongoSink

COLLECTION = "analytics_base_columns"


async def moved_columns(mongo: MongoSink, name: str, table: ReplicaTable, *, record: bool = True) -> str:
    """Why the table's columns may not be written: some are not those the bases were read from. "" if all are.

    `name`: the entity type, as `jav.movie`. `record`: counters that have none recorded get theirs. Raises StoreError.
    """
    wanted = _columns(table)
    with store_error(mongo.address):
        if record:
            # The recorded ones win.
            merged = {"$set": {"columns": {"$mergeObjects": [{"$literal": wanted}, "$columns"]}}}
            found: Json | None = await mongo.database[COLLECTION].find_one_and_update(
                {"_id": name}, [merged], upsert=True, return_document=ReturnDocument.AFTER
            )
        else:
            found = await mongo.database[COLLECTION].find_one({"_id": name})
    recorded = (found or {}).get("columns", {})
    moved = [f"{recorded[c]} → {column}" for c, column in wanted.items() if recorded.get(c, column) != column]
    if not moved:
        return ""
    return (
        f"replica.{name} names other columns than before ({', '.join(moved)}): what those say is not taken over. Stop"
        " `tallyd flush`, run `tallyd flush --once` with the former mapping and `tallyd backfill --reconcile` with the"
        " new one, and start it again."
    )


async def record_columns(mongo: MongoSink, name: str, table: ReplicaTable) -> None:
    """The bases are of these columns now. Raises StoreError."""
    with store_error(mongo.address):
        await mongo.database[COLLECTION].update_one(
            {"_id": name}, {"$set": {f"columns.{c}": column for c, column in _columns(table).items()}}, upsert=True
        )


def _columns(table: ReplicaTable) -> dict[str, str]:
    return {counter: f"{table.table}.{column}" for counter, column in table.columns.items()}
