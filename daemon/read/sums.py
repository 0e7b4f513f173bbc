"""The counts of many entities in one window: one query, which adds the documents of each entity up in MongoDB.

Called by the reads that are about a set of entities, and by those that compare a window with the one before it.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext

import pymongo

from daemon.domain.rollup import amount_of
from daemon.domain.window import Span
from daemon.read.slices import SLICE_ITEMS, batches
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import Json, MongoSink

DOCUMENTS_FEW = 1_000
"""Documents that one query reads in a few milliseconds."""
Sums = dict[str, dict[str, int]]
"""Entity id → counter → amount, of the entities that have a document."""


async def window_sums(
    mongo: MongoSink,
    domain: str,
    entity_type: str,
    ids: Collection[str],
    counters: Collection[str],
    span: Span,
    before: Span | None = None,
    *,
    sum_timeout_s: float | None = None,
) -> tuple[Sums, Sums]:
    """The sums of each entity in the span, and in the one right before it, bases included.

    It reads a document an entity and bucket at most, by the index of the natural key. `sum_timeout_s`: how long it may
    take if they may be more than DOCUMENTS_FEW; else it is the connection's time-out. Raises StoreError.
    """
    documents = len(ids) * max(1, len(span.buckets)) * (2 if before else 1)
    timeout = pymongo.timeout(sum_timeout_s) if sum_timeout_s and documents > DOCUMENTS_FEW else nullcontext()
    field = span.kind.bucket_field
    wanted: Json = {"domain": domain, "entity_type": entity_type, "entity_id": {"$in": list(ids)}}
    group: Json = {"id": "$entity_id"}
    if field:
        wanted[field] = {"$gte": (before or span).buckets[0], "$lte": span.buckets[-1]}
        group["before"] = {"$lt": [f"${field}", span.buckets[0]]}
    # A field that is missing or no number is 0.
    amounts = {counter: {"$sum": {"$sum": [f"${counter}", f"$base.{counter}"]}} for counter in counters}
    pipeline: list[Json] = [{"$match": wanted}, {"$group": {"_id": group, **amounts}}]
    own: Sums = {}
    earlier: Sums = {}
    with store_error(mongo.address), timeout:
        async for lines in batches(await mongo.collection(span.kind).aggregate(pipeline, batchSize=SLICE_ITEMS)):
            for line in lines:
                sums = earlier if line["_id"].get("before") else own
                sums[line["_id"]["id"]] = {counter: amount_of(line[counter]) for counter in counters}
    return own, earlier
