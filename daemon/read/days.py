"""The documents of a day: their sums, the entities that were active, and their documents in any rollup.

Called by the report. The first two use an index on domain, entity_type and date; without it they read all of `daily`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Collection, Sequence

from daemon.domain.rollup import DAILY, HOURLY, Kind, amount_of, start_of_day
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import Json, MongoSink

HOURS = 24
"""Of a day."""
Types = Sequence[tuple[str, str]]
"""(domain, entity type)."""


async def sums_by_day(
    mongo: MongoSink, types: Types, first: str, last: str, counters: Sequence[str]
) -> dict[str, dict[str, int]]:
    """UTC day → counter → what all daily documents of it say (base included), for the days that have any."""
    amounts = {
        str(n): {"$sum": {"$sum": [f"${counter}", f"$base.{counter}"]}}  # what is missing or no number is 0
        for n, counter in enumerate(counters)  # by number: a result's field can't have any name
    }
    pipeline: list[Json] = [
        {"$match": _of_types(types, {"$gte": first, "$lte": last})},
        {"$group": {"_id": "$date"} | amounts},
    ]
    with store_error(mongo.address):
        return {
            document["_id"]: {counter: int(document[str(n)]) for n, counter in enumerate(counters)}
            async for document in await mongo.collection(DAILY).aggregate(pipeline)
        }


async def active_entities(
    mongo: MongoSink, types: Types, date: str, chunk: int, entities_max: int
) -> AsyncIterator[list[str]]:
    """The keys of at most `entities_max` entities that have a daily document of the day, `chunk` at a time."""
    suffix = f":{date}"
    keys: list[str] = []
    with store_error(mongo.address):
        async for document in mongo.collection(DAILY).find(_of_types(types, date), {"_id": 1}).limit(entities_max):
            keys.append(document["_id"].removesuffix(suffix))
            if len(keys) == chunk:
                yield keys
                keys = []
    if keys:
        yield keys


async def bucket(mongo: MongoSink, kind: Kind, entities: Collection[str], name: str | None) -> dict[str, Json]:
    """Entity key → its document of a rollup's bucket (None: of the totals), for those that have one."""
    suffix = "" if name is None else f":{name}"
    with store_error(mongo.address):
        cursor = mongo.collection(kind).find({"_id": {"$in": [f"{entity}{suffix}" for entity in entities]}})
        return {document["_id"].removesuffix(suffix): document async for document in cursor}


async def sums_of_hours(
    mongo: MongoSink, entities: Collection[str], day: dt.date, counters: Collection[str]
) -> dict[str, dict[str, int]]:
    """Entity key → counter → what the hours of the day hold that are left, for the entities that have some."""
    names = [HOURLY.bucket_of(start_of_day(day) + n * HOURLY.length_min) for n in range(HOURS)]
    found: dict[str, dict[str, int]] = {}
    with store_error(mongo.address):
        ids = [f"{entity}:{name}" for entity in entities for name in names]
        async for document in mongo.collection(HOURLY).find({"_id": {"$in": ids}}):
            sums = found.setdefault(document["_id"].rpartition(":")[0], dict.fromkeys(counters, 0))
            for counter in counters:
                sums[counter] += amount_of(document.get(counter))
    return found


def _of_types(types: Types, date: object) -> Json:
    return {"$or": [{"domain": domain, "entity_type": kind, "date": date} for domain, kind in types]}
