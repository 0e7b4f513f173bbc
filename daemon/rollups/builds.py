"""The record of the builds: which generation of the documents of whole domains is read, and which is being built.

A build makes a new generation out of the entities' days (`flush/domains.py`). All its documents have its number. So
flushers and builders that wake late write documents that nothing reads.

What moves amounts between days besides a flusher asks here, after it left its own mark: a retry of a dead letter, and
an expiry. A builder looks for such marks after it left its own. So one of the two sees the other.
"""

from __future__ import annotations

import contextlib
from typing import Any

from msgspec import Struct
from pymongo import ReadPreference, ReturnDocument
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError

from daemon.domain.rollup import DOMAIN_DAILY
from daemon.errors import MongoStoreError
from daemon.rollups.collections import DOMAIN_BUILDS
from daemon.rollups.errors import store_error

RECORD = DOMAIN_DAILY.name

Json = dict[str, Any]


class Record(Struct, frozen=True):
    """`built`: the generation that is read; 0 before the first. `before`: the one that was read before that.

    `histories`: how many runs of `backfill --daily` began. `based`: the one whose bases whole domains have.
    """

    generation: int = 0
    built: int = 0
    before: int = 0
    histories: int = 0
    based: int = 0

    @property
    def is_building(self) -> bool:
        """A build began and did not end. If its process is gone, the next flusher begins another one."""
        return self.generation != self.built


class Builds:
    """Methods raise StoreError."""

    def __init__(self, database: AsyncDatabase[Json], address: str) -> None:
        self._records = database[DOMAIN_BUILDS]
        # Of the primary, like the floors.
        self._read = database.get_collection(DOMAIN_BUILDS, read_preference=ReadPreference.PRIMARY)
        self._address = address

    async def read(self) -> Record:
        with store_error(self._address):
            return _record(await self._read.find_one({"_id": RECORD}) or {})

    async def reading(self) -> Record:
        """The record for a reader: of the server that it reads the documents from."""
        with store_error(self._address):
            return _record(await self._records.find_one({"_id": RECORD}) or {})

    async def refuse(self) -> Record:
        """The record. Raises StoreError while a build is under way, too."""
        record = await self.read()
        if record.is_building:
            raise MongoStoreError(
                f"MongoDB at {self._address}: the flush daemon is adding up the days of whole domains. Try again later."
            )
        return record

    async def begin(self, owner: str, lease_ms: int) -> Record | None:
        """A new build, which is the owner's for the lease. None: another one builds.

        A generation is a time in milliseconds, so that a MongoDB that was restored never gives out one again.
        """
        free = {"$or": [{"$eq": ["$owner", owner]}, {"$lte": [{"$ifNull": ["$until", None]}, "$$NOW"]}]}
        next_ = {"$max": [{"$add": [{"$ifNull": ["$generation", 0]}, 1]}, {"$toLong": "$$NOW"}]}
        begun = {"generation": next_, "owner": owner, "until": {"$add": ["$$NOW", lease_ms]}}
        with store_error(self._address):
            with contextlib.suppress(DuplicateKeyError):
                await self._records.update_one({"_id": RECORD}, {"$setOnInsert": {"built": 0}}, upsert=True)
            found = await self._records.find_one_and_update(
                {"_id": RECORD, "$expr": free}, [{"$set": begun}], return_document=ReturnDocument.AFTER
            )
        return None if found is None else _record(found)

    async def renew(self, generation: int, lease_ms: int) -> bool:
        """False: a later build began."""
        return await self._set(generation, {"until": {"$add": ["$$NOW", lease_ms]}})

    async def end(self, generation: int) -> bool:
        """From now on this generation is read. False: a later build began."""
        return await self._set(generation, {"built": generation, "before": "$built", "until": "$$NOW"})

    async def begin_history(self) -> int:
        """Must precede the first change of a day's base. Returns the history's number."""
        with store_error(self._address):
            found: Json | None = await self._records.find_one_and_update(
                {"_id": RECORD}, {"$inc": {"histories": 1}}, upsert=True, return_document=ReturnDocument.AFTER
            )
        assert found is not None
        return int(found["histories"])

    async def end_history(self, number: int) -> None:
        """Whole domains have the bases of all days that this history set, and of those before."""
        with store_error(self._address):
            await self._records.update_one({"_id": RECORD}, {"$max": {"based": number}})

    async def _set(self, generation: int, fields: Json) -> bool:
        with store_error(self._address):
            done = await self._records.update_one({"_id": RECORD, "generation": generation}, [{"$set": fields}])
        return done.matched_count == 1


def _record(found: Json) -> Record:
    return Record(*(int(found.get(name) or 0) for name in Record.__struct_fields__))
