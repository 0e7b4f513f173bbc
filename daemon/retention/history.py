"""Whose taken-over history has begun to expire. What expired of an entity is one sum without dates.

If such a history were set again, it would be counted twice. Weeks, months and years summed from the remaining days
would be too low.
"""

from __future__ import annotations

from collections.abc import Collection

from daemon.domain.rollup import COMPLETE, EXPIRING
from daemon.errors import TallydError
from daemon.retention.batch import Batches
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import MongoSink


class UndecidedError(TallydError):
    """An expiry is under way, so it is not decided yet whether a history expires with it."""


async def with_expired_history(mongo: MongoSink, keys: Collection[str]) -> set[str]:
    """Those of the entities of whose bases some expired. Raises UndecidedError if a batch under way holds documents of
    some.

    While entities are marked (`rollups/history_marks.py`), no more of their bases expire.
    """
    found: set[str] = set()
    for kind in (kind for kind in EXPIRING if kind in COMPLETE):  # hours hold no history
        record = await Batches(mongo, kind).record()
        if {document["_id"].rpartition(":")[0] for document in record.documents}.intersection(keys):
            raise UndecidedError(
                "Old documents of these entities are expiring. Run `tallyd expire` to its end, then this command again."
            )
        # Asked after the record: these include the bases of a batch that has ended.
        wanted = {"_id": {"$in": list(keys)}, "base": {"$exists": True}}
        with store_error(mongo.address):
            cursor = mongo.database[kind.expired_collection].find(wanted, {"_id": 1})
            found |= {document["_id"] async for document in cursor}
    return found
