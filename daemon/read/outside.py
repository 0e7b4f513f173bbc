"""The counts of an entity outside the days of a series: an empty series of a known entity tells nothing else."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from daemon.domain.entity import Entity
from daemon.domain.rollup import DAILY, total
from daemon.read.slices import SLICE_ITEMS, batches
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import MongoSink


class Outside(NamedTuple):
    """`first`: the first day that has some of it; None: there is none. `amounts`: only counters that have any."""

    first: str | None
    amounts: dict[str, int]


async def outside(
    mongo: MongoSink, entity: Entity, counters: Collection[str], first: dt.date, last: dt.date
) -> Outside:
    """Reads the days that the entity has, by one query. Raises StoreError."""
    named = {"domain": entity.domain, "entity_type": entity.type, "entity_id": entity.id}
    field = DAILY.bucket_field
    days = {"$or": [{field: {"$lt": first.isoformat()}}, {field: {"$gt": last.isoformat()}}]}
    amounts: Counter[str] = Counter()
    found: list[str] = []
    with store_error(mongo.address):
        documents = mongo.collection(DAILY).find(named | days, batch_size=SLICE_ITEMS)
        async for batch in batches(documents):
            for document in batch:
                moved = {counter: total(document, counter) for counter in counters}
                amounts.update({counter: amount for counter, amount in moved.items() if amount})
                found += [document[field]] if any(moved.values()) else []
    return Outside(min(found, default=None), dict(amounts))
