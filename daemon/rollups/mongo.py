"""The rollups in MongoDB, written so that applying a claim twice, by anyone, at any time, changes nothing.

Every document remembers the last seq applied to it, and every write asks for a document that has not seen its own:

    filter {_id, flush_seq: {$not: {$gte: seq}}}   update {$inc, $set: {flush_seq: seq, …}, $setOnInsert}   upsert

If the document has this seq or a later one, the filter finds nothing. The upsert then tries to insert, and fails with
E11000 on `_id_`: "already applied". The flusher applies claims of a shard in the order of their seqs, so a later seq
implies this one. E11000 also comes when another process (a backfill, the retry of a dead letter) inserts the document
between our find and our insert. So the documents that failed so are read, and those without the seq are written again.

Most entities of a claim were seen once or twice. So documents that get the same amounts share a statement, an update of
many with the same guard; those that it does not find are inserted (`_write_alike`). That takes less than half of
MongoDB's time. What either cannot do is left to the upserts, one a document, which are enough by themselves.

Never decides what to do about a failure: it says which documents cannot take their amounts, and raises StoreError when
the outcome is unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import pymongo
from pymongo import AsyncMongoClient, IndexModel, ReadPreference
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from daemon import traces
from daemon.config import MongoSection, address_of
from daemon.domain.outcome import Failure, SinkResult
from daemon.domain.rollup import COMPLETE, DAY_CHARS, EXPIRING, HOURLY, TOTALS, Document, Kind, OfDomains, Rollup
from daemon.domain.window import RANKED
from daemon.errors import ConfigError
from daemon.rollups.build import first_fields
from daemon.rollups.builds import Builds
from daemon.rollups.collections import JOURNAL
from daemon.rollups.dead_letters import DeadLetters
from daemon.rollups.errors import UNAPPLICABLE, is_already_applied, keeps_vanishing, store_error, write_failed
from daemon.rollups.majority import find_confirmed

CLOSE_TIMEOUT_S = 2.0
DATABASE_DEFAULT = "tallyd"

INSERTS_MET_MAX = 10
"""Attempts at a write that meets documents others inserted beside it. The second one finds them, unless they were
deleted again."""
RANKING_TIMEOUT_S = 3_600.0
"""How long MongoDB may take to build one rollup's indexes; 10 million documents took less than a minute."""
ALIKE_MIN = 2
"""Documents that get the same amounts, from which on they have one statement together."""
COMMAND_DOCUMENTS_MAX = 2_000
"""Documents of one update command: about 2.5 KiB each at most, far below the 16 MiB a command may have."""

Json = dict[str, Any]


async def close_client(client: AsyncMongoClient[Json]) -> None:
    """Closes it, whether or not the server answers: the driver's `endSessions` waits without a time-out."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await client.close()


def open_client(url: str, timeout_ms: int, appname: str) -> tuple[AsyncMongoClient[Json], AsyncDatabase[Json]]:
    """A client that waits for majority and journal, with every bound on waiting set, and the URL's database.

    Raises ConfigError if the URL is none. Connects when it is first used.
    """
    try:
        client: AsyncMongoClient[Json] = AsyncMongoClient(
            url,
            w="majority",
            journal=True,
            wTimeoutMS=timeout_ms,
            timeoutMS=timeout_ms,
            serverSelectionTimeoutMS=timeout_ms,
            connectTimeoutMS=timeout_ms,
            waitQueueTimeoutMS=timeout_ms,
            # Our loops repeat what failed; pymongo's own repetition can spin on a node that is no primary, and then
            # overflow.
            retryReads=False,
            retryWrites=False,
            appname=appname,
            tz_aware=True,
        )
        return client, client.get_default_database(DATABASE_DEFAULT)
    except (PyMongoError, ValueError) as error:
        raise ConfigError(f"mongo.url: {error}") from None


class MongoSink:
    """The rollups: `async with MongoSink(config.mongo) as mongo`. Connects when it is first used.

    Every method raises StoreError if MongoDB fails or doesn't answer in time.
    """

    def __init__(self, section: MongoSection, *, decides: bool = False) -> None:
        """`decides`: writes follow from what is read, so it is read from the primary, whatever `mongo.url` prefers."""
        self.address = address_of(section.url)
        """For messages: without user and password."""
        self._client, self.database = open_client(section.url, section.timeout_ms, "tallyd")
        if decides:
            self.database = self.database.with_options(read_preference=ReadPreference.PRIMARY)
        self.builds = Builds(self.database, self.address)
        self.dead_letters = DeadLetters(self.database, self.address, self.builds)
        self._sharded: bool | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def collection(self, kind: Kind) -> AsyncCollection[Json]:
        return self.database[kind.collection]

    async def close(self) -> None:
        await close_client(self._client)

    async def ensure_indexes(self, kinds: Iterable[Kind] = COMPLETE) -> None:
        """Creates the unique index of each of these rollups' natural key, and those of journal and dead letters."""
        with store_error(self.address):
            for kind in kinds:
                natural_key = IndexModel([(field, 1) for field in kind.key_fields], name="natural_key", unique=True)
                await self.collection(kind).create_indexes([natural_key])
            await self.database[JOURNAL].create_indexes([IndexModel([("shard", 1), ("seq", 1)], name="claim")])
        await self.dead_letters.ensure_indexes()

    async def ensure_ranking(self, counters: Iterable[str], kinds: Iterable[Kind] = RANKED) -> None:
        """Creates the indexes of top lists, two a counter: one by the counted amount, one by the base.

        The second leaves out documents without a base. Over 10 million documents this takes minutes. MongoDB takes
        writes meanwhile.
        """
        names = sorted(counters)
        with store_error(self.address), pymongo.timeout(RANKING_TIMEOUT_S):
            for kind in kinds:
                of_type = [(field, 1) for field in kind.type_fields]
                models = []
                for counter in names:
                    base = f"base.{counter}"
                    based = {base: {"$gt": 0}}
                    models += [
                        IndexModel([*of_type, (counter, -1)], name=f"top_{counter}"),
                        IndexModel([*of_type, (base, -1)], name=f"base_{counter}", partialFilterExpression=based),
                    ]
                await self.collection(kind).create_indexes(models)

    async def write(
        self, rollup: Rollup, seq: int, zeros: Mapping[str, Collection[str]], skip: Collection[tuple[str, str]] = ()
    ) -> SinkResult:
        """Applies a claim to the collections of all rollups, side by side. The result counts documents of entities.

        `zeros`: per domain the counters a new document starts with at 0. `skip`: (collection, id) of documents that
        are left out because an earlier attempt at this claim put their amounts into the dead letters.
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
        by_kind = dict(zip(rollup.documents, results, strict=True))
        of_entities = [result for kind, result in by_kind.items() if not isinstance(kind, OfDomains)]
        return SinkResult(
            applied=sum(result.applied for result in of_entities),
            already=sum(result.already for result in of_entities),
            failures=tuple(failure for result in results for failure in result.failures),
            inserted=by_kind[TOTALS].inserted,
        )

    async def set_documents(self, kind: Kind, updates: Iterable[tuple[Document, Json]]) -> None:
        """Carries out an update for each document, which is inserted if it is not there."""
        left: list[Json] = []
        for document, update in updates:
            first = {"$setOnInsert": first_fields(kind, document, {})}
            left.append({"q": {"_id": document.id}, "u": update | first, "upsert": True})
        for _ in range(INSERTS_MET_MAX):
            failed = await self.update(kind, left)
            for _, error in failed:
                if not is_already_applied(error):  # else another one inserted it beside us
                    raise write_failed(self.address, error)
            left = [operation for operation, _ in failed]
            if not left:
                return
        raise keeps_vanishing(self.address, left[0]["q"]["_id"], INSERTS_MET_MAX)

    async def totals(self, ids: Collection[str]) -> dict[str, Json]:
        """The totals documents of these entity keys, by key; those that don't exist are absent."""
        return await self.documents(TOTALS, ids)

    async def confirmed_totals(self, ids: Collection[str]) -> dict[str, Json]:
        """The same, as a majority has them (`majority.py`)."""
        with store_error(self.address):
            wanted = {"_id": {"$in": list(ids)}}
            found = await find_confirmed(self.collection(TOTALS), wanted, most=len(ids) + 1)
        return {document["_id"]: document for document in found}

    async def documents(self, kind: Kind, ids: Collection[str]) -> dict[str, Json]:
        """The same of any rollup, by `_id`."""
        with store_error(self.address):
            cursor = self.collection(kind).find({"_id": {"$in": list(ids)}})
            return {document["_id"]: document async for document in cursor}

    async def expired(self, kind: Kind, keys: Collection[str]) -> dict[str, Json]:
        """The amounts in the deleted documents of these entities, by entity key."""
        with store_error(self.address):
            cursor = self.database[kind.expired_collection].find({"_id": {"$in": list(keys)}})
            return {document["_id"]: document async for document in cursor}

    async def totals_of_type(self, domain: str, entity_type: str, chunk: int) -> AsyncIterator[list[Json]]:
        """All totals documents of an entity type, in the order of their ids, `chunk` at a time."""
        after = f"{domain}:{entity_type}:"
        while True:
            wanted = {"_id": {"$gt": after}, "domain": domain, "entity_type": entity_type}
            with store_error(self.address):
                documents = await self.collection(TOTALS).find(wanted).sort([("_id", 1)]).limit(chunk).to_list()
            if not documents:
                return
            yield documents
            after = documents[-1]["_id"]

    async def count_of_type(self, domain: str, entity_type: str) -> int:
        """How many entities of the type have totals."""
        with store_error(self.address):
            return await self.collection(TOTALS).count_documents({"domain": domain, "entity_type": entity_type})

    async def sums(self, kind: Kind, fields: Collection[str]) -> dict[str, int]:
        """Amount per field over all documents of a rollup, those that expired included. A counter's field holds what
        was counted; `base.<counter>` what was taken over."""
        with store_error(self.address):
            async for document in await self.collection(kind).aggregate([*_with_expired(kind), _group(None, fields)]):
                return _by_field(document, fields)
        return {}

    async def sums_by_entity(self, kind: Kind, fields: Collection[str]) -> AsyncIterator[tuple[str, dict[str, int]]]:
        """(entity key, amount per field), sorted by the key. The server spills to disk rather than fail."""
        key = {"$concat": ["$domain", ":", "$entity_type", ":", "$entity_id"]}
        with store_error(self.address):
            async for document in await self.collection(kind).aggregate(
                [*_with_expired(kind), _group(key, fields), {"$sort": {"_id": 1}}], allowDiskUse=True
            ):
                yield document["_id"], _by_field(document, fields)

    async def hours_by_day(self, fields: Collection[str]) -> AsyncIterator[tuple[str, str, dict[str, int]]]:
        """(entity key, UTC day, amount per field in the hours that are left of it), sorted by the key."""
        entity = {"$concat": ["$domain", ":", "$entity_type", ":", "$entity_id"]}
        key = {"entity": entity, "day": {"$substrCP": [f"${HOURLY.bucket_field}", 0, DAY_CHARS]}}
        with store_error(self.address):
            async for document in await self.collection(HOURLY).aggregate(
                [_group(key, fields), {"$sort": {"_id": 1}}], allowDiskUse=True
            ):
                yield document["_id"]["entity"], document["_id"]["day"], _by_field(document, fields)

    async def holding(self, kind: Kind, ids: Collection[str], seq: int) -> list[str]:
        """The ids among these whose documents have this seq, or a later one."""
        with store_error(self.address):
            cursor = self.collection(kind).find({"_id": {"$in": list(ids)}, "flush_seq": {"$gte": seq}}, {"_id": 1})
            return [document["_id"] async for document in cursor]

    async def _write_kind(
        self,
        kind: Kind,
        documents: list[Document],
        seq: int,
        zeros: Mapping[str, Collection[str]],
        now: dt.datetime,
    ) -> SinkResult:
        result, each = await self._write_alike(kind, documents, seq, zeros, now)
        for start in range(0, len(each), COMMAND_DOCUMENTS_MAX):
            left = each[start : start + COMMAND_DOCUMENTS_MAX]
            for _ in range(INSERTS_MET_MAX):
                part, left = await self._write_once(kind, left, seq, zeros, now)
                result = result.plus(part)
                if not left:
                    break
            else:
                raise keeps_vanishing(self.address, left[0].id, INSERTS_MET_MAX)
        return result

    async def _write_alike(
        self,
        kind: Kind,
        documents: list[Document],
        seq: int,
        zeros: Mapping[str, Collection[str]],
        now: dt.datetime,
    ) -> tuple[SinkResult, list[Document]]:
        """Applies most of a claim in fewer statements: one for all documents that get the same amounts.

        It has the same guard for each of them. It finds those that are there. If they are fewer, it is looked up which
        are not, and those are inserted. Also returns the documents that are left. They have to be written one by one:
        no other gets their amounts, or they do not take it (the statement ended there), or another process inserted
        them meanwhile.
        """
        if isinstance(kind, OfDomains) or await self._is_sharded():  # those of domains are few
            return SinkResult(0), documents
        by_amounts: dict[tuple[tuple[str, int], ...], list[Document]] = {}
        for document in documents:
            by_amounts.setdefault(tuple(document.amounts.items()), []).append(document)
        groups = [group for group in by_amounts.values() if len(group) >= ALIKE_MIN]
        result = SinkResult(0)
        left = [document for group in by_amounts.values() if len(group) < ALIKE_MIN for document in group]
        for part in _in_commands(groups):
            reply = await self._command("update", kind, [_alike(group, seq, now) for group in part])
            for error in reply.get("writeErrors", ()):
                if error["code"] not in UNAPPLICABLE:
                    raise write_failed(self.address, error)
            written, alike = reply["n"], [document for group in part for document in group]
            result = result.plus(SinkResult(written))
            if written == len(alike):
                continue
            seqs = await self._seqs(kind, [document.id for document in alike])
            holding = [id_ for id_, held in seqs.items() if isinstance(held, int | float) and held >= seq]
            result = result.plus(SinkResult(0, already=len(holding) - written))
            inserted, met = await self._insert(kind, [d for d in alike if d.id not in seqs], seq, zeros, now)
            result = result.plus(inserted)
            left += met
            if len(holding) < len(seqs):
                left += [d for d in alike if d.id in seqs.keys() - set(holding)]
        return result, left

    async def _seqs(self, kind: Kind, ids: Collection[str]) -> dict[str, Any]:
        """The last seq of each of these documents that are there. Of the primary, to which they are written.

        Only what a majority has: another flusher may write the same claim, and its writes may be rolled back."""
        with store_error(self.address):
            rollup = self.database.get_collection(
                kind.collection, read_preference=ReadPreference.PRIMARY, read_concern=ReadConcern("majority")
            )
            cursor = rollup.find({"_id": {"$in": ids}}, {"flush_seq": 1})
            return {document["_id"]: document.get("flush_seq") async for document in cursor}

    async def _insert(
        self,
        kind: Kind,
        documents: list[Document],
        seq: int,
        zeros: Mapping[str, Collection[str]],
        now: dt.datetime,
    ) -> tuple[SinkResult, list[Document]]:
        """Also returns the documents that are there by now."""
        if not documents:
            return SinkResult(0), []
        stamp = {"flush_seq": seq, "updated_at": now}
        new = [{"_id": d.id} | first_fields(kind, d, zeros) | d.amounts | stamp for d in documents]
        result, met = self._classify(kind, documents, await self._command("insert", kind, new))
        return result._replace(inserted=result.applied), met

    async def _is_sharded(self) -> bool:
        """Whether a router answers. Statements for many documents then count some twice that are being moved."""
        if self._sharded is None:
            with store_error(self.address):
                self._sharded = (await self.database.command("hello")).get("msg") == "isdbgrid"
        return self._sharded

    async def _write_once(
        self,
        kind: Kind,
        documents: list[Document],
        seq: int,
        zeros: Mapping[str, Collection[str]],
        now: dt.datetime,
    ) -> tuple[SinkResult, list[Document]]:
        """Also returns the documents that another process inserted at the same moment: they must be written again."""
        unseen = {"$not": {"$gte": seq}}
        stamp = {"flush_seq": seq, "updated_at": now}
        operations = [_operation(kind, document, unseen, stamp, zeros) for document in documents]
        result, met = self._classify(kind, documents, await self._command("update", kind, operations))
        if not met:
            return result, []
        holding = set(await self.holding(kind, [document.id for document in met], seq))
        beside_us = [document for document in met if document.id not in holding]
        return result.plus(SinkResult(0, already=len(holding))), beside_us

    async def update(self, kind: Kind, operations: Sequence[Json]) -> list[tuple[Json, Json]]:
        """Carries out these statements of an `update` command, unordered. Returns those that failed, each with its
        error."""
        failed = []
        for start in range(0, len(operations), COMMAND_DOCUMENTS_MAX):
            part = operations[start : start + COMMAND_DOCUMENTS_MAX]
            reply = await self._command("update", kind, part)
            failed += [(part[error["index"]], error) for error in reply.get("writeErrors", ())]
        return failed

    async def _command(self, name: Literal["update", "insert"], kind: Kind, statements: Sequence[Json]) -> Json:
        """One command, of these statements or documents; returns the server's reply."""
        spanned: dict[str, str | int] = {
            "db.system.name": "mongodb",
            "db.operation.name": name,
            "db.collection.name": kind.collection,
            "db.operation.batch.size": len(statements),
        }
        # The command itself: pymongo's bulk_write builds the same from objects of its own, for a tenth of the time.
        command = {
            name: kind.collection,
            "updates" if name == "update" else "documents": statements,
            "ordered": False,
            "writeConcern": self.collection(kind).write_concern.document,
        }
        with traces.span(f"{name} {kind.collection}", spanned), store_error(self.address):
            reply: Json = await self.database.command(command)
        if "writeConcernError" in reply:
            raise write_failed(self.address, reply["writeConcernError"])
        return reply

    def _classify(self, kind: Kind, documents: list[Document], reply: Json) -> tuple[SinkResult, list[Document]]:
        """What a reply says of these documents, and those that are there and did not match. Raises StoreError if a
        write that failed may succeed later."""
        met, failures = [], []
        for error in reply.get("writeErrors", ()):
            document = documents[error["index"]]
            if is_already_applied(error):
                met.append(document)
            elif error["code"] in UNAPPLICABLE:
                failures.append(Failure(kind.collection, document.id, UNAPPLICABLE[error["code"]]))
            else:
                raise write_failed(self.address, error)
        applied, inserted = len(documents) - len(met) - len(failures), len(reply.get("upserted", ()))
        return SinkResult(applied, failures=tuple(failures), inserted=inserted), met


def _group(key: object, fields: Collection[str]) -> Json:
    # By number: the result's fields can't have dots.
    return {"$group": {"_id": key} | {str(n): {"$sum": f"${field}"} for n, field in enumerate(fields)}}


def _by_field(document: Json, fields: Collection[str]) -> dict[str, int]:
    return {field: int(document[str(n)]) for n, field in enumerate(fields)}


def _with_expired(kind: Kind) -> list[Json]:
    """The stage that adds what deleted documents held: documents of the same shape."""
    return [{"$unionWith": kind.expired_collection}] if kind in EXPIRING else []


def _in_commands(groups: Iterable[list[Document]]) -> Iterator[list[list[Document]]]:
    """Groups, divided where one is too large, so that each command has at most COMMAND_DOCUMENTS_MAX documents."""
    command: list[list[Document]] = []
    room = COMMAND_DOCUMENTS_MAX
    for group in groups:
        at = 0
        while at < len(group):
            if not room:
                yield command
                command, room = [], COMMAND_DOCUMENTS_MAX
            part = group[at : at + room]
            command.append(part)
            at, room = at + len(part), room - len(part)
    if command:
        yield command


def _alike(documents: list[Document], seq: int, now: dt.datetime) -> Json:
    return {
        "q": {"_id": {"$in": [document.id for document in documents]}, "flush_seq": {"$not": {"$gte": seq}}},
        "u": {"$inc": documents[0].amounts, "$set": {"flush_seq": seq, "updated_at": now}},
        "multi": True,
    }


def _operation(kind: Kind, document: Document, unseen: Json, stamp: Json, zeros: Mapping[str, Collection[str]]) -> Json:
    return {
        "q": {"_id": document.id, "flush_seq": unseen},
        "u": {"$inc": document.amounts, "$set": stamp, "$setOnInsert": first_fields(kind, document, zeros)},
        "upsert": True,
    }
