"""The counts of whole domains, from the documents that the flusher adds to. Weeks and longer buckets are sums of days.

Called by the summary and by the series of a domain. The cost grows with days and entity types, not with entities.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence

import msgspec

from daemon.domain.rollup import DOMAIN_DAILY, DOMAIN_HOURLY, HOURLY, TOTALS, OfDomains, end_of_day
from daemon.read.gate import RefusedReadError
from daemon.read.series import Stretch, filled_json
from daemon.read.slices import SLICE_ITEMS, batches, slices
from daemon.rollups.domains import of_type
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import Json, MongoSink

Sums = dict[str, dict[str, int]]
"""Bucket → counter → amount, of the buckets that have a document."""


async def domain_sums(
    mongo: MongoSink,
    domain: str,
    types: Sequence[str],
    counters: Collection[str],
    first: str,
    last: str,
    kind: OfDomains = DOMAIN_DAILY,
) -> Sums:
    """The sums of all entities of these types in each UTC day, or hour, bases included.

    Raises StoreError, and RefusedReadError until they are built."""
    record = await mongo.builds.reading()
    if not record.built:
        with store_error(mongo.address):
            if await mongo.collection(TOTALS).find_one({}, {"_id": 1}) is None:
                return {}  # nothing was ever flushed
        raise RefusedReadError("The sums of whole domains are not built yet. A flush daemon does that when it starts.")
    wanted: Json = {"$or": [of_type(record.built, domain, entity_type, first, last) for entity_type in types]}
    # A field that is missing or no number is 0.
    amounts = {counter: {"$sum": {"$sum": [f"${counter}", f"$base.{counter}"]}} for counter in counters}
    group: Json = {"$group": {"_id": f"${kind.bucket_field}", **amounts}}
    found: Sums = {}
    with store_error(mongo.address):
        documents = mongo.database[kind.collection]
        async for lines in batches(await documents.aggregate([{"$match": wanted}, group], batchSize=SLICE_ITEMS)):
            found |= {line["_id"]: {counter: int(line[counter]) for counter in counters} for line in lines}
    return found


async def domain_series_json(
    mongo: MongoSink, domain: str, types: Sequence[str], counters: Collection[str], *stretches: Stretch
) -> list[msgspec.Raw]:
    """One point a bucket, as `series_json` makes them. Raises StoreError and RefusedReadError."""
    kind = stretches[0].kind
    summed = DOMAIN_HOURLY if kind is HOURLY else DOMAIN_DAILY
    first, last = (summed.of.bucket_of(at) for at in (kind.start_of(stretches[0].first), _last_of(stretches[-1])))
    found: Sums = {}
    async for some in slices((await domain_sums(mongo, domain, types, counters, first, last, summed)).items()):
        for bucket, amounts in some:
            at = summed.of.parse(bucket)
            if at is not None:  # else it was edited
                of_bucket = found.setdefault(kind.bucket_of(at), dict.fromkeys(counters, 0))
                for counter, amount in amounts.items():
                    of_bucket[counter] += amount
    return [await filled_json(stretch, counters, found) for stretch in stretches]


def _last_of(stretch: Stretch) -> dt.datetime:
    try:
        return stretch.kind.last_of(stretch.last)
    except OverflowError:  # the calendar ends there
        return end_of_day(dt.date.max)
