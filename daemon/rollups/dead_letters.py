"""Dead letters: amounts that no document could or should take, kept in MongoDB until an operator retries or drops them.

Their fields are in `collections.py`. A letter without a collection is a foreign value found in Redis. (Or several, if
its place held another value in the next part of the claim.) It can only be looked at and dropped.

A retry counts exactly once, wherever it dies. The update that adds a letter's amounts also stores the letter's id in
the document (`dead_applied`), so a second attempt finds it there. It stores the claim's seq, too: if the claim is still
in flight, whoever applies it finds that the document has it. Then the letter is deleted.
Dropped letters stay, with the time, because `audit` has to account for them.
"""

from __future__ import annotations

import datetime as dt
import zlib
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

from msgspec import Struct, field
from pymongo import IndexModel, UpdateOne
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError, WriteError

from daemon.domain.entity import Entity
from daemon.domain.outcome import Failure
from daemon.domain.rollup import DAY_CHARS, DOMAIN_DAILY, DOMAIN_HOURLY, KINDS, OF_DOMAINS, Kind, OfDomains, Rollup
from daemon.rollups.build import first_fields
from daemon.rollups.builds import Builds
from daemon.rollups.collections import DEAD_LETTERS
from daemon.rollups.errors import is_already_applied, store_error
from daemon.rollups.majority import find_confirmed

MALFORMED = "no entity, counter, day or amount of ours"
UNKNOWN_ID = "unknown id"
"""MySQL has no row for the entity, and the entity's type must have one (`known`)."""
_KIND_OF: Mapping[str, Kind] = {kind.collection: kind for kind in (*KINDS, *OF_DOMAINS)}
_SUMMED: Mapping[str, OfDomains] = {kind.of.collection: kind for kind in OF_DOMAINS}
"""Collection → the rollup of whole domains that adds its documents up."""
RETRIED = "retried"
"""The parts of those documents of domains that hold the amounts of unknown ids which were retried."""
RETRIED_PARTS = 64
"""Documents that the retried letters of a type and day are spread over. Each one holds the ids of its letters."""

Json = dict[str, Any]


class Letter(Struct, frozen=True):
    """One dead letter. `collection` is "" for a foreign value; its `amounts` then hold the text that was found."""

    id: str
    shard: int
    seq: int
    collection: str
    document: str
    amounts: dict[str, Any] = field(name="deltas")
    reason: str
    at: dt.datetime
    dropped_at: dt.datetime | None = None


class Retried(Enum):
    """What became of a retry."""

    APPLIED = "applied"
    STILL_FAILING = "still failing"
    NOT_RETRYABLE = "a foreign value: it can only be dropped"
    DROPPED = "was dropped before"


class DeadLetters:
    """Methods raise StoreError if MongoDB fails or doesn't answer in time."""

    def __init__(self, database: AsyncDatabase[Json], address: str, builds: Builds) -> None:
        self._database = database
        self._letters = database[DEAD_LETTERS]
        self._address = address
        self._builds = builds

    async def ensure_indexes(self) -> None:
        """Creates the indexes that `of_claim`, `waiting_for`, `count` and `each` use."""
        with store_error(self._address):
            await self._letters.create_indexes(
                [
                    IndexModel([("shard", 1), ("seq", 1)], name="claim"),
                    IndexModel([("collection", 1), ("document", 1)], name="document"),
                    IndexModel([("dropped_at", 1), ("at", 1), ("_id", 1)], name="waiting"),
                ]
            )

    async def bury(
        self, shard: int, seq: int, rollup: Rollup, failures: Iterable[Failure], zeros: Mapping[str, Collection[str]]
    ) -> None:
        """Records amounts that could not be applied. It may be repeated: each letter has an id of its own."""
        by_id = {(kind.collection, d.id): (kind, d) for kind, documents in rollup.documents.items() for d in documents}
        now = dt.datetime.now(dt.UTC)
        letters = []
        for target, id_, reason in failures:
            kind, document = by_id[target, id_]
            first = first_fields(kind, document, zeros)
            letters.append(_letter(shard, seq, now, target, id_, document.amounts, reason) | {"first": first})
        foreign: dict[str, list[str]] = {}
        for entity, name, amount in rollup.malformed:
            foreign.setdefault(f"{entity} {name}", []).append(amount)
        letters += [
            _letter(shard, seq, now, "", place, {"amount": ", ".join(amounts)}, MALFORMED)
            for place, amounts in foreign.items()
        ]
        operations = [UpdateOne({"_id": letter["_id"]}, {"$setOnInsert": letter}, upsert=True) for letter in letters]
        with store_error(self._address):
            await self._letters.bulk_write(operations, ordered=False)

    async def of_claim(self, shard: int, seq: int) -> set[tuple[str, str]]:
        """(collection, id) of the documents an earlier attempt at this claim gave up, as a majority has it: a retry may
        have applied one of them since, and then the claim must not."""
        fields = {"collection": 1, "document": 1}
        with store_error(self._address):
            letters = await find_confirmed(self._letters, {"shard": shard, "seq": seq}, fields)
        return {(letter["collection"], letter["document"]) for letter in letters}

    async def waiting_for(self, collection: str, ids: Collection[str]) -> set[str]:
        """The ids among these for whose documents a letter waits."""
        with store_error(self._address):
            cursor = self._letters.find(
                {"collection": collection, "document": {"$in": list(ids)}, "dropped_at": None}, {"document": 1}
            )
            return {letter["document"] async for letter in cursor}

    async def of_entity(self, entity: Entity) -> list[Letter]:
        """All its letters, the dropped ones and foreign values included, the oldest first."""
        own = [kind.collection for kind in KINDS]
        wanted: Json = {
            "$or": [
                {"collection": {"$in": own}, "document": entity.key},
                {
                    "collection": {"$in": own[1:]},
                    # ";" follows ":". Another id may begin with this one and a colon, so the id is compared, too.
                    "document": {"$gt": f"{entity.key}:", "$lt": f"{entity.key};"},
                    "first.entity_id": entity.id,
                },
                {"collection": "", "document": {"$gt": f"{entity.key} ", "$lt": f"{entity.key}!"}},
            ]
        }
        with store_error(self._address):
            return [_read(letter) async for letter in self._letters.find(wanted).sort([("at", 1), ("_id", 1)])]

    async def count(self) -> int:
        """Letters that wait for a decision."""
        with store_error(self._address):
            return await self._letters.count_documents({"dropped_at": None})

    async def first(self, limit: int, text_chars_max: int) -> tuple[int, list[Letter]]:
        """How many letters wait, and the oldest of them. Of a foreign value only its first characters are read."""
        foreign = {"amount": {"$substrCP": [{"$toString": "$deltas.amount"}, 0, text_chars_max]}}
        deltas = {"$cond": [{"$eq": ["$collection", ""]}, foreign, "$deltas"]}
        pipeline: list[Json] = [
            {"$match": {"dropped_at": None}},
            {"$sort": {"at": 1, "_id": 1}},
            {"$limit": limit},
            {"$set": {"deltas": deltas}},
            {"$unset": "first"},
        ]
        with store_error(self._address):
            letters = [_read(letter) async for letter in await self._letters.aggregate(pipeline)]
        return await self.count(), letters

    async def each(self, *, dropped: bool = False) -> AsyncIterator[Letter]:
        """The letters that wait, the oldest first; with `dropped` those too."""
        wanted: Json = {} if dropped else {"dropped_at": None}
        with store_error(self._address):
            async for letter in self._letters.find(wanted).sort([("at", 1), ("_id", 1)]):
                yield _read(letter)

    async def get(self, id_: str) -> Letter | None:
        with store_error(self._address):
            found = await self._letters.find_one({"_id": id_})
        return None if found is None else _read(found)

    async def retry(self, letter: Letter) -> Retried:
        """Adds the letter's amounts to its document, exactly once, and deletes the letter."""
        kind = _KIND_OF.get(letter.collection)
        if kind is None:
            return Retried.NOT_RETRYABLE
        if letter.dropped_at is not None:
            return Retried.DROPPED
        with store_error(self._address):
            found = await self._letters.find_one({"_id": letter.id}, {"first": 1})
            if found is None:
                return Retried.APPLIED  # another retry was faster
            first = found["first"]
            if (summed := _SUMMED.get(letter.collection)) is not None:
                # A build that began before this mark is seen at once. One that begins later sees the mark.
                await self._letters.update_one({"_id": letter.id}, {"$set": {"retrying": True}})
                generation = (await self._builds.refuse()).built
                if letter.reason == UNKNOWN_ID and generation and not await self._is_applied(letter):
                    # Left out of the documents of its domain, too. These come first: else they could be given twice,
                    # by a build that found the amounts in the entity's day.
                    for kind_of, bucket, amounts in _of_domain(summed, letter, first[summed.bucket_field]):
                        if not await self._apply_to_domain(kind_of, generation, bucket, letter, first, amounts):
                            return Retried.STILL_FAILING
            applied = await self._apply(letter, letter.document, first, letter.collection, letter.amounts)
            return Retried.APPLIED if applied else Retried.STILL_FAILING

    async def finish_retries(self, kind: Kind) -> None:
        """Ends the retries of this rollup that have begun, for a build that is about to add its documents up."""
        with store_error(self._address):
            async for found in self._letters.find(
                {"collection": kind.collection, "retrying": True, "dropped_at": None}
            ):
                letter = _read(found)
                if await self._apply(letter, letter.document, found["first"], letter.collection, letter.amounts):
                    await self.forget(letter)

    async def of_days(self, kind: Kind, generation: int | None = None) -> AsyncIterator[Json]:
        """The `first` and `deltas` of this rollup's letters, but for those of unknown ids. Of whole domains: those of
        this generation."""
        wanted: Json = {"collection": kind.collection, "reason": {"$ne": UNKNOWN_ID}}
        if generation is not None:
            wanted["document"] = {"$regex": f"^{generation}:"}
        with store_error(self._address):
            async for letter in self._letters.find(wanted, {"first": 1, "deltas": 1}):
                yield letter

    async def forget(self, letter: Letter) -> None:
        """Deletes a letter that was applied. Its document remembers it for good: another retry may be under way."""
        with store_error(self._address):
            await self._letters.delete_one({"_id": letter.id})

    async def drop(self, id_: str) -> bool:
        """Gives a letter's amounts up. False if there is none that waits."""
        with store_error(self._address):
            result = await self._letters.update_one(
                {"_id": id_, "dropped_at": None}, {"$set": {"dropped_at": dt.datetime.now(dt.UTC)}}
            )
        return result.matched_count == 1

    async def sums(self, in_flight: Iterable[tuple[int, int]] = (), generation: int = 0) -> dict[str, dict[str, int]]:
        """Collection → counter → amount in all letters, the dropped ones included, but for those of these claims
        (shard, seq): until it is acknowledged, all of a claim is in flight.

        Of whole domains, those of this generation. What unknown ids lack in their days, it lacks, too."""
        sums: dict[str, dict[str, int]] = {}
        claims = [{"shard": shard, "seq": seq} for shard, seq in in_flight]
        of_domains = {"$in": [kind.collection for kind in OF_DOMAINS]}
        other: Json = {"collection": of_domains, "document": {"$not": {"$regex": f"^{generation}:"}}}
        wanted: Json = {"collection": {"$ne": ""}, "$nor": [other, *claims]}
        with store_error(self._address):
            async for letter in self._letters.find(wanted, {"collection": 1, "deltas": 1, "reason": 1}):
                lacking = [(letter["collection"], "")]
                if letter["reason"] == UNKNOWN_ID and (summed := _SUMMED.get(letter["collection"])) is not None:
                    lacking.append((summed.collection, ""))
                    if summed is DOMAIN_HOURLY:
                        lacking.append((DOMAIN_DAILY.collection, "hourly."))
                for collection, prefix in lacking:
                    counters = sums.setdefault(collection, {})
                    for counter, amount in letter["deltas"].items():
                        counters[prefix + counter] = counters.get(prefix + counter, 0) + amount
        return sums

    async def entities(self) -> set[str]:
        """The keys of all entities that have a letter."""
        with store_error(self._address):
            of_entities = [kind.collection for kind in KINDS]
            cursor = self._letters.find({"collection": {"$in": of_entities}}, {"first": 1})
            return {
                f"{first['domain']}:{first['entity_type']}:{first['entity_id']}"
                async for first in (letter["first"] async for letter in cursor)
            }

    async def _is_applied(self, letter: Letter) -> bool:
        held = {"_id": letter.document, "dead_applied": letter.id}
        return await self._database[letter.collection].find_one(held, {"_id": 1}) is not None

    async def _apply_to_domain(
        self, kind: OfDomains, generation: int, bucket: str, letter: Letter, first: Json, amounts: Mapping[str, Any]
    ) -> bool:
        part = f"{RETRIED}{zlib.crc32(letter.id.encode()) % RETRIED_PARTS}"
        id_ = kind.id_of(generation, first["domain"], first["entity_type"], bucket, part)
        of_domain = {"domain": first["domain"], "entity_type": first["entity_type"], kind.bucket_field: bucket}
        return await self._apply(letter, id_, of_domain, kind.collection, amounts)

    async def _apply(
        self, letter: Letter, document: str, first: Json, collection: str, amounts: Mapping[str, Any]
    ) -> bool:
        """False if the document still can't take it."""
        documents = self._database[collection]
        # Its claim may still be in flight. Without its letter, it would be written again.
        seen: Json = {"$max": {"flush_seq": letter.seq}} if document == letter.document else {}
        while True:
            try:
                await documents.update_one(
                    {"_id": document, "dead_applied": {"$ne": letter.id}},
                    {
                        "$inc": amounts,
                        "$addToSet": {"dead_applied": letter.id},
                        "$set": {"updated_at": dt.datetime.now(dt.UTC)},
                        "$setOnInsert": first,
                    }
                    | seen,
                    upsert=True,
                )
            except DuplicateKeyError as error:
                if not is_already_applied(error.details or {}):
                    return False
                # Applied already; or a flush inserted the document between our find and our insert: then once more.
                if await documents.find_one({"_id": document, "dead_applied": letter.id}, {"_id": 1}) is None:
                    continue
            except WriteError:  # whatever it is about this document, the other letters have documents of their own
                return False
            return True


def _of_domain(kind: OfDomains, letter: Letter, bucket: str) -> Iterator[tuple[OfDomains, str, dict[str, Any]]]:
    """The rollup and bucket of its domain that a letter of an unknown id adds to."""
    yield kind, bucket, letter.amounts
    if kind is DOMAIN_HOURLY:
        yield DOMAIN_DAILY, bucket[:DAY_CHARS], {f"hourly.{counter}": n for counter, n in letter.amounts.items()}


def _letter(
    shard: int, seq: int, at: dt.datetime, collection: str, document: str, amounts: Mapping[str, Any], reason: str
) -> Json:
    return {
        "_id": f"{shard}:{seq}:{collection}:{document}",
        "shard": shard,
        "seq": seq,
        "collection": collection,
        "document": document,
        "deltas": dict(amounts),
        "reason": reason,
        "at": at,
        "dropped_at": None,
    }


def _read(letter: Json) -> Letter:
    # BSON's 64-bit integers come as a subclass of int that nothing else encodes.
    amounts = {counter: int(n) if isinstance(n, int) else n for counter, n in letter["deltas"].items()}
    return Letter(
        letter["_id"], letter["shard"], int(letter["seq"]), letter["collection"], letter["document"], amounts,
        letter["reason"], letter["at"], letter.get("dropped_at"),
    )  # fmt: skip
