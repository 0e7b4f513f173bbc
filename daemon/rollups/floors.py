"""What MongoDB remembers of each Redis: the highest seq written for a shard, and what was there when a Redis began.

A Redis may lose its memory. Its next claim must still get a seq that no document holds, and an audit must still know
which part of the totals that Redis never counted. Called by the flusher before it writes, and by `audit`.

The floor is the end of the journal of claims (`journal.py`). It moves from one claim to the next by compare-and-set. So
a claim of a history that Redis lost, whose flusher comes late, gets no place behind a claim that it does not know.

The floor also holds what was decided of its claim: the entities that are set aside, because MySQL does not know them,
and the documents of whole domains that it is added to. Floor and decision are one write. So whoever applies the claim,
however late, obeys the same decision.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct
from pymongo import ReadPreference, ReturnDocument
from pymongo.errors import DuplicateKeyError

from daemon.domain.claim import NO_CLAIM, ClaimName
from daemon.domain.rollup import TOTALS
from daemon.rollups.collections import EPOCHS, FLOORS
from daemon.rollups.errors import store_error
from daemon.rollups.majority import find_confirmed
from daemon.rollups.mongo import Json, MongoSink

OLDER_MAX = 100
"""Records of an epoch. Two systems that share a database by mistake meet each other at every flush."""


class Older(Struct, frozen=True, omit_defaults=True):
    """A store that was met older than the other: `store`. `redis` and `mongo`: the highest seq that each one knew of
    the shard's acknowledged claims. `amended`: what Redis was amended by, per counter."""

    store: Literal["redis", "mongo"]
    shard: int
    redis: int
    mongo: int
    amended: dict[str, int] = {}


class Hold(Struct, frozen=True):
    """A shard that waits for an operator. `redis` and `mongo`: as of `Older`. `at`: since when.

    `doubled`, `lost`: the most that is counted twice, or not at all, per counter, if the shard goes on with this Redis.
    Besides, events are lost that this Redis does not know and that no claim had yet."""

    redis: int
    mongo: int
    at: dt.datetime
    doubled: dict[str, int]
    lost: dict[str, int]

    @property
    def bound(self) -> str:
        """In words."""
        doubled, lost = in_words(self.doubled), in_words(self.lost)
        if not self.lost:
            return f"at most this is counted twice: {doubled}" if self.doubled else "nothing is counted twice"
        return f"at most this is lost: {lost}" + (f", and counted twice: {doubled}" if self.doubled else "")


class Accounted(Struct, frozen=True):
    """What a shard of a cluster has accounted for, flushed and dead, per counter. `base`: the epoch since when: its
    baseline holds what was there before."""

    base: int
    sums: dict[str, int]


class Floor(NamedTuple):
    """`name`: of the last claim in the journal, the highest one whose documents may have been written. Its nonce is ""
    if an older version wrote it. `generation`: of whole domains, for claims above it. None as in `Decided`. `accepted`:
    what `tallyd shards accept` said that Redis had accounted for; None: nothing. `hold`: the last one, maybe over.
    `accounted`: in a cluster, what the shard will have accounted for once that claim is acknowledged."""

    name: ClaimName
    generation: int | None
    accepted: int | None = None
    hold: Hold | None = None
    accounted: Accounted | None = None

    @property
    def seq(self) -> int:
        return self.name.seq

    def holds(self, acked: int) -> bool:
        """Whether a Redis that has accounted for `acked` waits for an operator."""
        return self.hold is not None and self.hold.redis == acked != self.accepted and self.hold.mongo == self.seq


async def read_floor(mongo: MongoSink, shard: int, *, confirmed: bool = False) -> Floor:
    """Raises StoreError.

    Of the primary, even if `mongo.url` prefers others: a secondary that lags looks like a MongoDB that was restored. So
    does a primary that was cut off, unless a majority has `confirmed` the floor.
    """
    document = await (_read_confirmed(mongo, shard) if confirmed else _read(mongo, shard))
    if document is None:
        return Floor(NO_CLAIM, None)
    return _floor(document)


async def read_floors(mongo: MongoSink) -> dict[int, Floor]:
    """Of each shard that has one. Raises StoreError."""
    with store_error(mongo.address):
        floors = mongo.database.get_collection(FLOORS, read_preference=ReadPreference.PRIMARY)
        return {int(document["_id"]): _floor(document) async for document in floors.find()}


def _floor(document: Json) -> Floor:
    name = _name(document)
    hold, accounted = document.get("hold"), document.get("accounted")
    return Floor(
        name, _generation(document, name.seq + 1), document.get("held", {}).get("acked"),
        None if hold is None else msgspec.convert(hold, Hold),
        None if accounted is None else msgspec.convert(accounted, Accounted),
    )  # fmt: skip


async def _read(mongo: MongoSink, shard: int) -> Json | None:
    with store_error(mongo.address):
        floors = mongo.database.get_collection(FLOORS, read_preference=ReadPreference.PRIMARY)
        document: Json | None = await floors.find_one({"_id": shard})
    return document


async def _read_confirmed(mongo: MongoSink, shard: int) -> Json | None:
    with store_error(mongo.address):
        found = await find_confirmed(mongo.database[FLOORS], {"_id": shard})
    return found[0] if found else None


def _name(floor: Json) -> ClaimName:
    seq, journal = int(floor["seq"]), floor.get("journal", {})
    return ClaimName(seq, journal["nonce"] if journal.get("seq") == seq else "")


class Decided(NamedTuple):
    """The decision about a claim, for every flusher. `unknown`: positions of the entities that are set aside.

    `generation`: of the documents of whole domains that it is added to; 0: to none, because the build that comes counts
    it. None: that is not decided, because no build has begun, or an older version raised the floor since. Then nothing
    of the claim may be written.
    """

    unknown: Sequence[int]
    generation: int | None


async def advance(
    mongo: MongoSink,
    shard: int,
    name: ClaimName,
    before: int,
    unknown: Sequence[int] = (),
    accounted: Accounted | None = None,
) -> Decided | None:
    """Makes a claim the end of the journal, after the claim `before` (0: after none). Must precede the first write of
    its documents: Redis then never gives out again a seq that a document may hold.

    `unknown`: the claim's entities to set aside, as positions in the order of their keys. `accounted`: as of `Floor`.
    Returns what holds: of whoever advanced the floor to this claim first. None: the journal does not end in `before`.
    Raises StoreError.
    """
    set_to = _raised(name.seq, unknown, accounted) | {
        "journal": {"$literal": name._asdict()},
        "held": "$$REMOVE",
        "hold": "$$REMOVE",
    }
    with store_error(mongo.address):
        try:
            floor: Json | None = await mongo.database[FLOORS].find_one_and_update(
                {"_id": shard, "seq": before}, [{"$set": set_to}], upsert=not before,
                return_document=ReturnDocument.AFTER,
            )  # fmt: skip
        except DuplicateKeyError:
            floor = None
    if floor is None:  # maybe another flusher did it, or a lost reply told of it
        return await read_decided(mongo, shard, name)
    return _decided(floor, name)


async def raise_floor(mongo: MongoSink, shard: int, seq: int, accounted: Accounted | None = None) -> None:
    """Has the journal begin anew after `seq`, unless the floor is above. Ends a hold, and what was accepted.

    Raises StoreError."""
    set_to = _raised(seq, accounted=accounted) | {"held": "$$REMOVE", "hold": "$$REMOVE"}
    with store_error(mongo.address):
        await mongo.database[FLOORS].update_one({"_id": shard}, [{"$set": set_to}], upsert=True)


def _raised(seq: int, unknown: Sequence[int] = (), accounted: Accounted | None = None) -> Json:
    # Positions, because the keys of a claim may be more than a document holds. With their seq, because versions before
    # 0.3.0 raise the floor and leave the positions.
    decided = {"$literal": {"seq": seq, "at": list(unknown)}} if unknown else "$$REMOVE"
    highest = {"$max": ["$seq", seq]}
    return {
        "accounted": "$$REMOVE" if accounted is None else {"$literal": msgspec.to_builtins(accounted)},
        "unknown": {"$cond": [{"$lt": [{"$ifNull": ["$seq", 0]}, seq]}, decided, "$unknown"]},
        "seq": highest,
        # Versions before 0.6.0 raise the floor and leave this. It stays behind then.
        "domains": {
            "$cond": [
                {"$and": [{"$gt": ["$domains", None]}, {"$eq": ["$domains.seq", "$seq"]}]},
                {"$mergeObjects": ["$domains", {"seq": highest}]},
                "$domains",
            ]
        },
    }


async def read_decided(mongo: MongoSink, shard: int, name: ClaimName) -> Decided | None:
    """The decision about a claim, as a majority has it. None: the journal does not end in it. Raises StoreError."""
    floor = await _read_confirmed(mongo, shard)
    return None if floor is None else _decided(floor, name)


def _decided(floor: Json, name: ClaimName) -> Decided | None:
    seq, nonce = _name(floor)
    if seq != name.seq or (nonce and nonce != name.nonce):
        return None
    held = floor.get("unknown", {})
    return Decided(held["at"] if held.get("seq") == name.seq else (), _generation(floor, name.seq))


def _generation(floor: Json, seq: int) -> int | None:
    domains = floor.get("domains")
    if domains is None or domains["seq"] != floor["seq"]:
        return None
    return int(domains["generation"]) if seq > domains["after"] else 0


async def note_hold(mongo: MongoSink, shard: int, hold: Hold) -> None:
    """Puts on record that the shard is held, unless that is, or the floor is another one by now. Raises StoreError."""
    same = {"hold.redis": hold.redis, "hold.mongo": hold.mongo}
    with store_error(mongo.address):
        await mongo.database[FLOORS].update_one(
            {"_id": shard, "seq": hold.mongo, "$nor": [same]}, {"$set": {"hold": msgspec.structs.asdict(hold)}}
        )


async def accept_held(mongo: MongoSink, shard: int, *, floor: int, acked: int, by: str, reason: str) -> bool:
    """Puts on record that a shard may go on with a Redis that has accounted for `acked`. False: the floor is another
    one by now. Raises StoreError."""
    held = {"acked": acked, "by": by, "reason": reason, "at": dt.datetime.now(dt.UTC)}
    with store_error(mongo.address):
        result = await mongo.database[FLOORS].update_one({"_id": shard, "seq": floor}, {"$set": {"held": held}})
    return result.matched_count == 1


async def end_held(mongo: MongoSink, shard: int) -> None:
    """Ends a hold, and what `accept_held` began: the shard has gone on. Raises StoreError."""
    with store_error(mongo.address):
        await mongo.database[FLOORS].update_one({"_id": shard}, {"$unset": {"held": 1, "hold": 1}})


async def fence(mongo: MongoSink, shard: int, generation: int) -> int | None:
    """Claims above the shard's floor are of this generation from now on. Returns the floor; None if a later build
    fenced it already. Raises StoreError."""
    seq = {"$ifNull": ["$seq", 0]}
    fenced = {"seq": seq, "domains": {"generation": generation, "after": seq, "seq": seq}}
    with store_error(mongo.address):
        try:
            floor: Json | None = await mongo.database[FLOORS].find_one_and_update(
                {"_id": shard, "domains.generation": {"$not": {"$gt": generation}}},
                [{"$set": fenced}], upsert=True, return_document=ReturnDocument.AFTER,
            )  # fmt: skip
        except DuplicateKeyError:
            return None
    assert floor is not None
    return int(floor["seq"])


async def are_fenced(mongo: MongoSink, shards: Sequence[int]) -> bool:
    """False: a build is yet to begin, because nothing was built, or because of `unfence`. Raises StoreError.

    `shards`: those there are. A floor of another one is left from a layout with more of them, and gets no fence."""
    unfenced = {"_id": {"$in": shards}, "domains": {"$exists": False}}
    with store_error(mongo.address):
        return await mongo.database[FLOORS].find_one(unfenced, {"_id": 1}) is None


async def unfence(mongo: MongoSink) -> None:
    """Has the next claim of each shard begin a build. Raises StoreError."""
    with store_error(mongo.address):
        await mongo.database[FLOORS].update_many({}, {"$unset": {"domains": 1}})


async def open_epoch(mongo: MongoSink, epoch: int, counters: Collection[str]) -> bool:
    """Records, once, what the totals held when a Redis began to count. Must precede the first write of what that Redis
    counted. Returns whether it was not recorded yet. Raises StoreError."""
    with store_error(mongo.address):
        # Confirmed: the client then knows the primary, and does not take the sums of an older one.
        if await find_confirmed(mongo.database[EPOCHS], {"_id": epoch}, {"_id": 1}):
            return False
        letters = (await mongo.dead_letters.sums()).get(TOTALS.collection, {})
        totals = await mongo.sums(TOTALS, counters)
        baseline = {counter: totals.get(counter, 0) + letters.get(counter, 0) for counter in counters}
        await mongo.database[EPOCHS].update_one(
            {"_id": epoch}, {"$setOnInsert": {"baseline": baseline, "at": dt.datetime.now(dt.UTC)}}, upsert=True
        )
    return True


async def open_shard(
    mongo: MongoSink, epoch: int, shard: int, accounted: Accounted, flushed: Mapping[str, int]
) -> tuple[Accounted, bool]:
    """The same for one shard of a cluster, whose other shards go on. What it had `accounted` for before, and does not
    know any more, is its baseline. `flushed`: what its ledger does know.

    Must precede its first write in this epoch. Returns the baseline on record, and whether that is new."""
    lost = {counter: amount - flushed.get(counter, 0) for counter, amount in accounted.sums.items()}
    record = {"base": accounted.base, "sums": {counter: amount for counter, amount in lost.items() if amount}}
    at = {"$ifNull": ["$at", dt.datetime.now(dt.UTC)]}
    with store_error(mongo.address):
        before = await mongo.database[EPOCHS].find_one_and_update(
            {"_id": epoch},
            [{"$set": {"at": at, f"shards.{shard}": {"$ifNull": [f"$shards.{shard}", {"$literal": record}]}}}],
            upsert=True,
        )
    known = (before or {}).get("shards", {}).get(str(shard))
    return (msgspec.convert(known or record, Accounted), known is None)


async def baseline_of(mongo: MongoSink, epoch: int, shard: int) -> Accounted | None:
    """What is on record for a shard in this epoch: of its own, or that the whole cluster began with it. None: nothing.
    Raises StoreError."""
    with store_error(mongo.address):
        record = await mongo.database[EPOCHS].find_one({"_id": epoch})
    return None if record is None else _epoch(record).of_shard(shard)


def in_words(amounts: Mapping[str, int]) -> str:
    """Amounts per counter, for a sentence."""
    return ", ".join(f"{counter} {amount:,}" for counter, amount in sorted(amounts.items())) or "nothing"


async def note_older(mongo: MongoSink, epoch: int, older: Older) -> None:
    """Records a store that came back older than the other, up to OLDER_MAX. Its epoch must be open. Raises
    StoreError."""
    with store_error(mongo.address):
        await mongo.database[EPOCHS].update_one(
            {"_id": epoch, f"older.{OLDER_MAX - 1}": {"$exists": False}},
            {"$addToSet": {"older": msgspec.to_builtins(older)}},
        )


class Acceptance(Struct, frozen=True):
    """Differences that an operator accepted, and why. `totals`: what MongoDB held besides accepted and baseline. Other
    rollups: what their sums were above the totals."""

    at: dt.datetime
    by: str
    reason: str
    differences: dict[str, dict[str, int]]


class Epoch(Struct, frozen=True):
    """The record of one Redis in MongoDB. `baseline`: what `open_epoch` recorded. None: it is only of some shards of a
    cluster, `shards`: shard → what `open_shard` recorded."""

    epoch: int
    baseline: dict[str, int] | None
    accepted: list[Acceptance]
    older: list[Older]
    shards: dict[str, Accounted] = {}

    def of_shard(self, shard: int) -> Accounted | None:
        """What a shard that counts in this epoch had accounted for before. None: it is not on record."""
        whole = None if self.baseline is None else Accounted(self.epoch, {})
        return self.shards.get(str(shard), whole)


async def read_epochs(mongo: MongoSink) -> list[Epoch]:
    """Of every Redis that was flushed from, the oldest first. Raises StoreError."""
    with store_error(mongo.address):
        found = [document async for document in mongo.database[EPOCHS].find().sort("_id", 1)]
    return [_epoch(each) for each in found]


def _epoch(record: Json) -> Epoch:
    absent: Json = {"baseline": None, "accepted": [], "older": []}
    return msgspec.convert({**absent, "epoch": record["_id"], **record}, Epoch)


async def accept(mongo: MongoSink, epoch: int, acceptance: Acceptance, *, nth: int) -> bool:
    """Puts it on record as the epoch's `nth` (from 0). False, and nothing changes, if there is such a one. The epoch
    must be open. Raises StoreError."""
    with store_error(mongo.address):
        result = await mongo.database[EPOCHS].update_one(
            {"_id": epoch, f"accepted.{nth}": {"$exists": False}},
            {"$push": {"accepted": msgspec.structs.asdict(acceptance)}},
        )
    return result.modified_count == 1
