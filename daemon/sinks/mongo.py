"""The five rollups in MongoDB, written so that applying a claim twice, by anyone, at any time, changes nothing.

Every document remembers the last seq applied to it, and every write asks for a document that has not seen its own:

    filter {_id, flush_seq: {$not: {$gte: seq}}}   update {$inc, $set: {flush_seq: seq, …}, $setOnInsert}   upsert

If the document has this seq or a later one, the filter finds nothing, the upsert tries to insert, and fails with E11000
on `_id_`: "already applied". The flusher applies claims of a shard in the order of their seqs, so a later seq implies
this one.

Never decides what to do about a failure: it says which documents cannot take their deltas, and raises StoreError when
the outcome is unknown.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pymongo import AsyncMongoClient, IndexModel, UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, PyMongoError

from daemon.buffer.connection import address_of
from daemon.config import MongoSection
from daemon.domain.rollup import KINDS, TOTALS, Document, Kind, Rollup
from daemon.errors import ConfigError, StoreError
from daemon.sinks.outcome import Failure, SinkResult

DATABASE_DEFAULT = "tallyd"
DEAD_LETTERS = "analytics_dead_letters"
FLOORS = "analytics_flush_floors"
"""{_id: shard, seq}: the highest seq whose documents may have been written. See `raise_floor`."""

DUPLICATE_KEY = 11000
UNAPPLICABLE = {
    2: "the result leaves the range of a 64-bit integer",
    14: "the counter's field holds no number",
    121: "the collection's validation rule refuses it",
    10334: "the document is too large",
    17419: "the document is too large",
    17420: "the document is too large",
    DUPLICATE_KEY: "another document has its natural key",
}
"""Codes that say this one document can't take its deltas, however often it is tried. Any other code means: wait."""

Json = dict[str, Any]


class MongoSink:
    """The rollups. Every method raises StoreError if MongoDB fails or doesn't answer in time."""

    def __init__(self, section: MongoSection) -> None:
        self._address = address_of(section.url)
        timeout_ms = section.timeout_ms
        try:
            self._client: AsyncMongoClient[Json] = AsyncMongoClient(
                section.url,
                w="majority",
                journal=True,
                wTimeoutMS=timeout_ms,
                timeoutMS=timeout_ms,
                serverSelectionTimeoutMS=timeout_ms,
                connectTimeoutMS=timeout_ms,
                waitQueueTimeoutMS=timeout_ms,
                appname="tallyd",
                tz_aware=True,
            )
            self._database = self._client.get_default_database(DATABASE_DEFAULT)
        except PyMongoError as error:
            raise ConfigError(f"mongo.url: {error}") from None

    def collection(self, kind: Kind) -> AsyncCollection[Json]:
        return self._database[kind.collection]

    async def close(self) -> None:
        await self._client.close()

    async def ensure_indexes(self, counters: Iterable[str]) -> None:
        """The natural key of each rollup, unique; and for totals one index a counter, for top-N."""
        try:
            for kind in KINDS:
                natural = ["domain", "entity_type", "entity_id", *([kind.bucket_field] if kind.bucket_field else [])]
                models = [IndexModel([(field, 1) for field in natural], name="natural_key", unique=True)]
                if kind is TOTALS:
                    models += [
                        IndexModel([("domain", 1), ("entity_type", 1), (counter, -1)], name=f"top_{counter}")
                        for counter in counters
                    ]
                await self.collection(kind).create_indexes(models)
            await self._database[DEAD_LETTERS].create_indexes([IndexModel([("shard", 1), ("seq", 1)], name="claim")])
        except PyMongoError as error:
            raise self._failed(error) from None

    async def floor(self, shard: int) -> int:
        """The highest seq that may have been written to this shard's documents; 0 if none."""
        try:
            document = await self._database[FLOORS].find_one({"_id": shard})
        except PyMongoError as error:
            raise self._failed(error) from None
        return int(document["seq"]) if document else 0

    async def raise_floor(self, shard: int, seq: int) -> None:
        """Must precede the first write of `seq`: a Redis that lost its memory then never gives out a seq that a
        document may already hold."""
        try:
            await self._database[FLOORS].update_one({"_id": shard}, {"$max": {"seq": seq}}, upsert=True)
        except PyMongoError as error:
            raise self._failed(error) from None

    async def write(
        self, rollup: Rollup, seq: int, zeros: Mapping[str, Collection[str]], skip: Collection[tuple[str, str]] = ()
    ) -> SinkResult:
        """Applies a claim to the five collections, all at once.

        `zeros`: per domain the counters a new document starts with at 0. `skip`: (collection, id) of documents that
        are left out because an earlier attempt at this claim put their deltas into the dead letters.
        """
        now = dt.datetime.now(dt.UTC)
        results = await asyncio.gather(
            *(
                self._write_kind(
                    kind, [d for d in documents if (kind.collection, d.id) not in skip] if skip else documents,
                    seq, zeros, now,
                )
                for kind, documents in rollup.documents.items()
            )
        )  # fmt: skip
        return SinkResult(
            applied=sum(result.applied for result in results),
            already=sum(result.already for result in results),
            failures=tuple(failure for result in results for failure in result.failures),
        )

    async def bury(self, shard: int, seq: int, rollup: Rollup, failures: Iterable[Failure]) -> None:
        """Records what could not be applied as dead letters. Repeatable: each has an id of its own."""
        by_id = {(kind.collection, d.id): d for kind, documents in rollup.documents.items() for d in documents}
        now = dt.datetime.now(dt.UTC)
        letters = [
            _letter(shard, seq, now, failure.target, failure.id, by_id[failure.target, failure.id].deltas, failure.reason)
            for failure in failures
        ] + [
            _letter(shard, seq, now, "", f"{entity} {field}", {"amount": amount}, "not an entity, counter, day or amount")
            for entity, field, amount in rollup.malformed
        ]
        operations = [
            UpdateOne({"_id": letter["_id"]}, {"$setOnInsert": letter}, upsert=True) for letter in letters
        ]
        try:
            await self._database[DEAD_LETTERS].bulk_write(operations, ordered=False)
        except PyMongoError as error:
            raise self._failed(error) from None

    async def buried(self, shard: int, seq: int) -> set[tuple[str, str]]:
        """(collection, id) of the documents an earlier attempt at this claim put into the dead letters."""
        try:
            cursor = self._database[DEAD_LETTERS].find({"shard": shard, "seq": seq}, {"collection": 1, "document": 1})
            return {(letter["collection"], letter["document"]) async for letter in cursor}
        except PyMongoError as error:
            raise self._failed(error) from None

    async def dead_letters(self) -> int:
        try:
            return await self._database[DEAD_LETTERS].count_documents({})
        except PyMongoError as error:
            raise self._failed(error) from None

    async def totals(self, ids: Collection[str]) -> dict[str, Json]:
        """The totals documents of these entity keys, by key; those that don't exist are absent."""
        try:
            cursor = self.collection(TOTALS).find({"_id": {"$in": list(ids)}})
            return {document["_id"]: document async for document in cursor}
        except PyMongoError as error:
            raise self._failed(error) from None

    async def _write_kind(
        self,
        kind: Kind,
        documents: list[Document],
        seq: int,
        zeros: Mapping[str, Collection[str]],
        now: dt.datetime,
    ) -> SinkResult:
        if not documents:
            return SinkResult(0)
        unseen = {"$not": {"$gte": seq}}
        stamp = {"flush_seq": seq, "updated_at": now}
        operations = [_operation(kind, document, unseen, stamp, zeros) for document in documents]
        try:
            await self.collection(kind).bulk_write(operations, ordered=False)
        except BulkWriteError as error:
            return self._partial(kind, documents, error)
        except PyMongoError as error:
            raise self._failed(error) from None
        return SinkResult(len(documents))

    def _partial(self, kind: Kind, documents: list[Document], error: BulkWriteError) -> SinkResult:
        """The result of a bulk in which some writes failed. Raises StoreError if one of them may succeed later."""
        details = error.details
        already, failures = 0, []
        for failed in details["writeErrors"]:
            if failed["code"] == DUPLICATE_KEY and list(failed.get("keyPattern", ())) == ["_id"]:
                already += 1
            elif failed["code"] in UNAPPLICABLE:
                failures.append(
                    Failure(kind.collection, documents[failed["index"]].id, UNAPPLICABLE[failed["code"]])
                )
            else:
                raise StoreError(f"MongoDB at {self._address}: {failed.get('errmsg', failed['code'])}")
        if details["writeConcernErrors"]:
            raise StoreError(f"MongoDB at {self._address}: {details['writeConcernErrors'][0].get('errmsg')}")
        return SinkResult(len(documents) - already - len(failures), already, failures=tuple(failures))

    def _failed(self, error: PyMongoError) -> StoreError:
        return StoreError(f"MongoDB at {self._address}: {error}")


def _operation(
    kind: Kind, document: Document, unseen: Json, stamp: Json, zeros: Mapping[str, Collection[str]]
) -> UpdateOne:
    domain, type_, id_ = document.entity
    deltas = document.deltas
    first: Json = {"domain": domain, "entity_type": type_, "entity_id": id_}
    if kind.bucket_field is not None:
        first[kind.bucket_field] = document.bucket
    for counter in zeros.get(domain, ()):
        if counter not in deltas:
            first[counter] = 0
    return UpdateOne(
        {"_id": document.id, "flush_seq": unseen}, {"$inc": deltas, "$set": stamp, "$setOnInsert": first}, upsert=True
    )


def _letter(
    shard: int, seq: int, at: dt.datetime, collection: str, document: str, deltas: Mapping[str, Any], reason: str
) -> Json:
    return {
        "_id": f"{shard}:{seq}:{collection}:{document}",
        "shard": shard,
        "seq": seq,
        "collection": collection,
        "document": document,
        "deltas": dict(deltas),
        "reason": reason,
        "at": at,
    }
