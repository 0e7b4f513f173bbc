"""One batch of old documents: deletes them from their rollup, and adds their amounts to what expired of each entity.

Two collections cannot be changed in one step. So a record in `analytics_expiry` says how far a rollup's batch has come.
A rollup has one batch at a time, with a number that only grows:

    {_id: "daily", n, state: "idle" | "sealing" | "deleting" | "folding", documents: [...], through}

    sealing    `documents`: ids. Each document that is unchanged since it was found is marked `expiring: n`. Documents
               of entities whose history is half written are left out. The record is written before that is asked, so a
               backfill that begins meanwhile finds it (`history.py`).
    deleting   `documents`: the marked ones, as they are. Each is deleted if it is still exactly that. A document that
               was written to meanwhile stays, with its mark. One that is made again after its deletion has no mark. So
               it can be told at any later time which documents were deleted.
    folding    `documents`: those that were deleted. Their amounts are added to the entity's document in
               `analytics_entity_<rollup>_expired`, which remembers n, as a rollup's documents remember a seq.

If a run dies, the next one goes on from the record (`STEPS`). Each step can be repeated, also by two runs at once, and
by a run that was frozen and wakes up late. A mark asks for the seq that was found, and a deletion for the exact
document. A sum asks for a lower n, and the record for the n and state that were read.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct
from pymongo import DeleteOne, UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, DuplicateKeyError

from daemon.domain.counter import RESERVED, add_up
from daemon.domain.rollup import Bucketed
from daemon.rollups.collections import EXPIRY
from daemon.rollups.errors import is_already_applied, store_error
from daemon.rollups.history_marks import Marks
from daemon.rollups.mongo import Json, MongoSink

STEPS = {
    "begin": "The record names the documents. The next run marks them.",
    "mark": "Some documents are marked. The next run marks the others.",
    "list_marked": "The record holds the marked documents as they are. The next run deletes them.",
    "delete": "Some documents are gone, and the record holds them. The next run deletes the others.",
    "list_deleted": "The record holds the deleted documents. The next run adds their amounts.",
    "fold": "Some entities have the amounts and the batch's number. The next run adds the others.",
    "end": "The batch is done.",
}
"""Each step of a batch in order, and what holds if the process dies after it or its reply is lost."""


class State(StrEnum):
    IDLE = "idle"
    SEALING = "sealing"
    DELETING = "deleting"
    FOLDING = "folding"


class Record(Struct, frozen=True):
    """How far a rollup's batch has come."""

    n: int
    state: State
    documents: list[Json]
    through: str = ""
    """The newest bucket that ever expired."""


class Batches:
    """The batches of one rollup. Methods raise StoreError. They may always be repeated."""

    def __init__(self, mongo: MongoSink, kind: Bucketed) -> None:
        self._mongo = mongo
        self._kind = kind
        self._records = mongo.database[EXPIRY]
        self._documents = mongo.collection(kind)
        self._expired = mongo.database[kind.expired_collection]
        self._marks = Marks(mongo)

    async def record(self) -> Record:
        with store_error(self._mongo.address):
            found = await self._records.find_one({"_id": self._kind.name})
        if found is None:
            return Record(0, State.IDLE, [])
        return Record(int(found["n"]), State(found["state"]), found["documents"], found.get("through", ""))

    async def begin(self, found: Sequence[Json]) -> None:
        """Begins a batch of these documents. It uses their `_id`, bucket, `flush_seq` and `updated_at`. Does nothing if
        another batch is under way."""
        record = await self.record()
        if record.state is State.IDLE:
            buckets = [document[self._kind.bucket_field] for document in found]
            record = msgspec.structs.replace(record, through=max([record.through, *buckets]))
            named = [{name: document.get(name) for name in ("_id", "flush_seq", "updated_at")} for document in found]
            await self._advance(record, State.SEALING, named, n=record.n + 1)

    async def finish(self) -> int:
        """Finishes the batch that is under way, if any. Returns how many documents it deleted."""
        deleted = 0
        while (record := await self.record()).state is not State.IDLE:
            match record.state:
                case State.SEALING:
                    await self.seal(record)
                case State.DELETING:
                    await self.delete(record)
                case State.FOLDING:
                    deleted = len(record.documents)
                    await self.fold(record)
        return deleted

    async def seal(self, record: Record) -> None:
        n, ids = record.n, [document["_id"] for document in record.documents]
        unmarked = {"expiring": {"$not": {"$gte": n}}}
        await self._write(
            self._documents,
            [UpdateOne({**document, **unmarked}, {"$set": {"expiring": n}}) for document in record.documents],
        )
        with store_error(self._mongo.address):
            sealed = await self._documents.find({"_id": {"$in": ids}, "expiring": n}).to_list()
        half_written = await self._marks.among(by_entity(sealed))
        going = [each for each in sealed if can_go(each) and entity_of(each) not in half_written]
        await self._advance(record, State.DELETING, going)

    async def delete(self, record: Record) -> None:
        await self._write(
            self._documents,
            [
                DeleteOne({"_id": document["_id"], "$expr": {"$eq": ["$$ROOT", {"$literal": document}]}})
                for document in record.documents
            ],
        )
        await self._advance(record, State.FOLDING, await self.deleted(record))

    async def deleted(self, record: Record) -> list[Json]:
        """Those of the batch's documents that are deleted."""
        ids = [document["_id"] for document in record.documents]
        with store_error(self._mongo.address):
            cursor = self._documents.find({"_id": {"$in": ids}, "expiring": record.n}, {"_id": 1})
            left = {document["_id"] async for document in cursor}
        return [document for document in record.documents if document["_id"] not in left]

    async def fold(self, record: Record) -> None:
        stamp = {"expired_batch": record.n, "updated_at": dt.datetime.now(dt.UTC)}
        operations = []
        for key, documents in by_entity(record.documents).items():
            update: Json = {
                "$set": stamp,
                "$setOnInsert": {name: documents[0][name] for name in ("domain", "entity_type", "entity_id")},
            }
            if amounts := amounts_of(documents):
                update["$inc"] = amounts
            unseen = {"expired_batch": {"$not": {"$gte": record.n}}}
            operations.append(UpdateOne({"_id": key, **unseen}, update, upsert=True))
        await self._write(self._expired, operations)
        await self._advance(record, State.IDLE, [])

    async def unfolded(self, record: Record) -> list[Json]:
        """Those of the batch's documents whose amounts are not yet in the sums of what expired."""
        keys = list(by_entity(record.documents))
        with store_error(self._mongo.address):
            cursor = self._expired.find({"_id": {"$in": keys}, "expired_batch": {"$gte": record.n}}, {"_id": 1})
            folded = {document["_id"] async for document in cursor}
        return [document for document in record.documents if entity_of(document) not in folded]

    async def _advance(self, record: Record, state: State, documents: Sequence[Json], n: int | None = None) -> None:
        """Sets the next state, unless another process did so first."""
        after = {
            "n": record.n if n is None else n, "state": state.value, "documents": list(documents),
            "through": record.through,
        }  # fmt: skip
        with store_error(self._mongo.address):
            try:
                await self._records.update_one(
                    {"_id": self._kind.name, "n": record.n, "state": record.state.value}, {"$set": after},
                    upsert=record.n == 0,
                )  # fmt: skip
            except DuplicateKeyError:
                return  # another process made the first record

    async def _write(self, collection: AsyncCollection[Json], operations: Sequence[UpdateOne | DeleteOne]) -> None:
        if not operations:
            return
        with store_error(self._mongo.address):
            try:
                await collection.bulk_write(operations, ordered=False)
            except BulkWriteError as error:
                failed = [each for each in error.details["writeErrors"] if not is_already_applied(each)]
                if failed or error.details["writeConcernErrors"]:
                    raise


def entity_of(document: Json) -> str:
    return f"{document['domain']}:{document['entity_type']}:{document['entity_id']}"


def by_entity(documents: Iterable[Json]) -> dict[str, list[Json]]:
    """By entity key."""
    grouped: dict[str, list[Json]] = {}
    for document in documents:
        grouped.setdefault(entity_of(document), []).append(document)
    return grouped


def amounts_of(documents: Iterable[Json]) -> dict[str, int]:
    """The sums of these documents by field: a counter, or `base.<counter>`."""
    return add_up(dict(_amounts(document)) for document in documents)


def can_go(document: Json) -> bool:
    """Whether a document may expire. One that remembers dead letters must stay: a retry beside its deletion would count
    twice. One that holds other values than amounts must stay, too: it cannot be added up."""
    return "dead_applied" not in document and all(isinstance(amount, int) for _, amount in _amounts(document))


def _amounts(document: Json) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if name not in RESERVED:
            yield name, value
    for name, value in (document.get("base") or {}).items():
        yield f"base.{name}", value
