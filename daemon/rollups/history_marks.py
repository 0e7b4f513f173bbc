"""The entities whose history is half written: their days have new bases, their coarser buckets do not yet.

A backfill marks an entity before it writes the first of its days, and removes the mark after its years. So if it dies
in between, the next `backfill --daily` continues, `audit` knows why the sums differ, and `expire` waits.
"""

from __future__ import annotations

from collections.abc import Collection

from pymongo import UpdateOne

from daemon.rollups.collections import HISTORY_MARKS
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import MongoSink


class Marks:
    """Methods raise StoreError."""

    def __init__(self, mongo: MongoSink) -> None:
        self._address = mongo.address
        self._marks = mongo.database[HISTORY_MARKS]

    async def add(self, keys: Collection[str]) -> None:
        operations = [UpdateOne({"_id": key}, {"$setOnInsert": {"_id": key}}, upsert=True) for key in keys]
        with store_error(self._address):
            await self._marks.bulk_write(operations, ordered=False)

    async def some(self, most: int) -> list[str]:
        """The first of them, in the order of the key."""
        with store_error(self._address):
            cursor = self._marks.find({}, {"_id": 1}).sort("_id").limit(most)
            return [mark["_id"] async for mark in cursor]

    async def among(self, keys: Collection[str]) -> set[str]:
        """The entities among these that are marked."""
        with store_error(self._address):
            return {mark["_id"] async for mark in self._marks.find({"_id": {"$in": list(keys)}})}

    async def remove(self, keys: Collection[str]) -> None:
        with store_error(self._address):
            await self._marks.delete_many({"_id": {"$in": list(keys)}})

    async def count(self) -> int:
        with store_error(self._address):
            return await self._marks.count_documents({})
