"""The documents of whole domains in MongoDB: their sums, their bases, and those that nothing reads any more.

Called by the builder, the audit, the readers and the backfill.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pymongo

from daemon.domain.rollup import DAILY, DOMAIN_DAILY, OF_DOMAINS, Bucketed, OfDomains, amount_of
from daemon.rollups.build import Place, domain_documents
from daemon.rollups.builds import Record
from daemon.rollups.collections import DEAD_LETTERS
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import Json, MongoSink

SCAN_TIMEOUT_S = 3_600.0
"""How long MongoDB may take to add up all days; 10 million documents take about 20 seconds."""
BEFORE, BASE = "before", "base"
"""Parts of a generation: what was counted before it was built, and what was taken over."""

Amounts = dict[str, int]
"""By field: a counter, or `base.<counter>`."""


async def forget_generations(mongo: MongoSink, record: Record) -> None:
    """Deletes what no reader and no build needs. The generation that was read before stays: a reader may be at it, and
    the next build takes from it what expired. Later ones stay: this builder may be late. Raises StoreError."""
    older = {"$lt": f"{record.generation}:"}  # generations have as many digits each, until the year 2286
    kept = _of_generation(record.built)
    with store_error(mongo.address), pymongo.timeout(SCAN_TIMEOUT_S):
        for kind in OF_DOMAINS:
            await mongo.database[kind.collection].delete_many({"_id": older, "$nor": [kept]})
            await mongo.database[DEAD_LETTERS].delete_many(
                {"collection": kind.collection, "document": older, "$nor": [{"document": kept["_id"]}]}
            )


async def set_bases(
    mongo: MongoSink,
    generation: int,
    counters: Collection[str],
    through: str,
    *,
    before: int,
    moving: Iterable[Json] = (),
) -> None:
    """Sets the bases of a generation to the sums of the days' bases. Raises StoreError.

    Days up to `through` may have expired. So they have what the generation `before` says, and the rest has no day.
    `moving`: days that an expiry deleted, and has not added to what expired yet.
    """
    fields = [f"base.{counter}" for counter in counters]
    days = await sums_of_days(mongo, fields, {"$match": {"base": {"$exists": True}}})
    known = await sums_of_domains(mongo, before, fields) if before else {}
    dated = {place: amounts for place, amounts in days.items() if place[2] > through}
    dated |= {place: amounts for place, amounts in known.items() if "" < place[2] <= through}
    rest: dict[Place, Amounts] = {}
    for sign, places in ((1, days), (1, await sums_of_expired(mongo, fields)), (-1, dated)):
        for (domain, entity_type, _), amounts in places.items():
            add(rest, (domain, entity_type, ""), amounts, sign)
    for document in moving:
        base = document.get("base") or {}
        amounts = {f"base.{counter}": amount_of(base.get(counter)) for counter in counters}
        add(rest, (document["domain"], document["entity_type"], ""), amounts)
    zeros = dict.fromkeys(fields, 0)
    wanted = {place: zeros | amounts for place, amounts in (dated | rest).items() if any(amounts.values())}
    updates = [
        (document, {"$set": document.amounts}) for document in domain_documents(DOMAIN_DAILY, generation, BASE, wanted)
    ]
    ids = [document.id for document, _ in updates]
    over = {"$and": [_of_generation(generation), {"base": {"$exists": True}, "_id": {"$nin": ids}}]}
    with store_error(mongo.address):
        await mongo.database[DOMAIN_DAILY.collection].update_many(over, {"$unset": {"base": 1}})
    await mongo.set_documents(DOMAIN_DAILY, updates)


def add(sums: dict[Place, Amounts], place: Place, amounts: Amounts, sign: int = 1) -> None:
    """Adds amounts to those of a place."""
    of_place = sums.setdefault(place, {})
    for field, amount in amounts.items():
        of_place[field] = of_place.get(field, 0) + sign * amount


def of_type(generation: int, domain: str, entity_type: str, first: str = "", last: str = "~") -> Json:
    """The filter for the documents of a type from one bucket to another, both included."""
    prefix = f"{generation}:{domain}.{entity_type}:"
    return {"_id": {"$gte": f"{prefix}{first}", "$lt": f"{prefix}{last};"}}


def _of_generation(generation: int) -> Json:
    return {"_id": {"$gte": f"{generation}:", "$lt": f"{generation};"}}  # ";" follows ":"


async def sums_of_domains(
    mongo: MongoSink,
    generation: int,
    fields: Collection[str],
    wanted: Json | None = None,
    kind: OfDomains = DOMAIN_DAILY,
) -> dict[Place, Amounts]:
    """The sums in the documents of a generation, or in these of them. Raises StoreError."""
    match = _of_generation(generation) if wanted is None else wanted
    return await _grouped(mongo, kind.collection, kind.of, fields, {"$match": match})


async def sums_of_days(
    mongo: MongoSink, fields: Collection[str], *stages: Json, kind: Bucketed = DAILY
) -> dict[Place, Amounts]:
    """The sums of the days of entities, or of their hours, by type and bucket. Raises StoreError."""
    return await _grouped(mongo, kind.collection, kind, fields, *stages)


async def sums_of_expired(mongo: MongoSink, fields: Collection[str], kind: Bucketed = DAILY) -> dict[Place, Amounts]:
    """The sums of those that expired, by type. Raises StoreError."""
    return await _grouped(mongo, kind.expired_collection, kind, fields)


async def _grouped(
    mongo: MongoSink, collection: str, kind: Bucketed, fields: Collection[str], *stages: Json
) -> dict[Place, Amounts]:
    place = {"d": "$domain", "t": "$entity_type", "b": {"$ifNull": [f"${kind.bucket_field}", ""]}}
    # By number: the result's fields can't have dots.
    group = {"$group": {"_id": place} | {str(n): {"$sum": f"${field}"} for n, field in enumerate(fields)}}
    sums: dict[Place, Amounts] = {}
    with store_error(mongo.address), pymongo.timeout(SCAN_TIMEOUT_S):
        async for found in await mongo.database[collection].aggregate([*stages, group], allowDiskUse=True):
            of = found["_id"]
            if all(isinstance(part, str) for part in (of.get("d"), of.get("t"), of["b"])):  # else it was edited
                sums[of["d"], of["t"], of["b"]] = {field: int(found[str(n)]) for n, field in enumerate(fields)}
    return sums
