"""Whose taken-over history has begun to go. What expired of an entity is one sum and has no dates any more: its history
set again would be there twice, and weeks, months and years summed from the days that are left would hold too little.
"""

from __future__ import annotations

from collections.abc import Collection

from daemon.domain.rollup import EXPIRING
from daemon.errors import TallydError
from daemon.retention.batch import Batches
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import MongoSink


class UndecidedError(TallydError):
    """An expiry is under way, and whether it takes a history with it is not settled yet."""


async def with_expired_history(mongo: MongoSink, keys: Collection[str]) -> set[str]:
    """Those of the entities that have bases among what expired. Raises UndecidedError if documents of some are in a
    batch that is under way.

    Of entities that are marked (`rollups/history_marks.py`), no other can come to have any while they are.
    """
    found: set[str] = set()
    for kind in EXPIRING:
        record = await Batches(mongo, kind).record()
        if {document["_id"].rpartition(":")[0] for document in record.documents}.intersection(keys):
            raise UndecidedError(
                "Old documents of these entities are about to expire. Run `tallyd expire` to its end, then this again."
            )
        # After the record: what a batch that has ended took is among these.
        wanted = {"_id": {"$in": list(keys)}, "base": {"$exists": True}}
        with store_error(mongo.address):
            cursor = mongo.database[kind.expired_collection].find(wanted, {"_id": 1})
            found |= {document["_id"] async for document in cursor}
    return found
