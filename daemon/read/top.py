"""The most counted entities of a window, exactly, out of lists that indexes keep in order.

A window is the sum of buckets: the days of `30d`, one bucket for `year` and `total`. The amount of a bucket is its
counted amount plus its base. The `top_` index lists a bucket's documents by counted amount, the `base_` index by base.

Fagin's threshold algorithm (Fagin, Lotem, Naor 2003, "Optimal aggregation algorithms for middleware") reads all lists
to the same depth, in one command. Below that depth no list has more than its last line read. So an entity that was not
seen has at most the sum of these lines: the threshold. An entity that was seen in some buckets has at most that sum
over the others. Only entities that can still be among the first N are looked up. If the N-th has at least the
threshold, the list is complete. Otherwise the next round reads deeper.

If all entities are equally popular, the whole window would be read. So the depth is bounded; beyond it MongoDB adds the
window up, in bounded time.
"""

from __future__ import annotations

import datetime as dt
import heapq
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import pymongo
from msgspec import UNSET, Meta, UnsetType

from daemon.domain.rollup import Kind
from daemon.domain.window import Span, Window, span_of
from daemon.response import Amount, Body
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import Json, MongoSink

DEPTH_FIRST = 20
"""Lines read of each list at first, or as many as are wanted."""
DEPTH_GROWTH = 4
LINES_MAX = 20_000
"""Lines of one round, all lists together: about 40 ms of the worker's time."""
LOOKUPS_MAX = 20_000
"""Documents looked up in one round, entities times buckets."""
BATCH_LINES = 1_000
"""Lines that are decoded at a stretch: 2 ms in which the worker does nothing else."""


class Ranked(Body):
    entity_id: str
    amount: Amount
    row: Annotated[dict[str, Any] | UnsetType | None, Meta(description="With `enrich`: the MySQL row or null.")] = UNSET


class _Round(NamedTuple):
    """The lists down to some depth. Buckets are numbered."""

    limits: list[int]
    """Per bucket, the largest amount of a document that was not seen in it."""
    seen: dict[str, dict[int, int]]
    """Entity id → bucket → amount."""


class TopReader:
    """Reads top lists of one entity type's counter. Raises StoreError."""

    def __init__(self, mongo: MongoSink, sum_timeout_s: float) -> None:
        """`sum_timeout_s`: how long MongoDB may add up a window whose lists say too little."""
        self._mongo = mongo
        self._sum_timeout_s = sum_timeout_s

    async def read(
        self, domain: str, entity_type: str, counter: str, window: Window, limit: int, today: dt.date
    ) -> list[Ranked]:
        """The first `limit` entities, the most counted first, equals by id; entities without amounts are left out.

        Of several equals at the end of the list, any may be on it.
        """
        span = _CounterSpan({"domain": domain, "entity_type": entity_type}, counter, span_of(window, today))
        with store_error(self._mongo.address):
            ranked = await self._by_threshold(span, limit)
            return await self._by_sum(span, limit) if ranked is None else ranked

    async def _by_threshold(self, span: _CounterSpan, limit: int) -> list[Ranked] | None:
        """None if it would go too deep."""
        fields = [span.counter]
        if await self._collection(span).find_one(span.based(), {"_id": 1}):
            fields.append(span.base)
        lists = len(span.buckets) * len(fields)
        depth = max(DEPTH_FIRST, limit)
        while depth * lists <= LINES_MAX:
            found = await self._read_lists(span, fields, depth)
            contenders = _contenders(found, limit)
            unseen = [(entity, bucket) for entity in contenders for bucket in _unseen(found, entity)]
            if len(unseen) > LOOKUPS_MAX:
                return None
            amounts = {entity: sum(found.seen[entity].values()) for entity in contenders}
            for entity, amount in await self._look_up(span, unseen):
                amounts[entity] += amount
            ranked = _first(amounts, limit)
            threshold = sum(found.limits)
            if not threshold or (len(ranked) == limit and ranked[-1].amount >= threshold):
                return ranked
            depth *= DEPTH_GROWTH
        return None

    async def _read_lists(self, span: _CounterSpan, fields: list[str], depth: int) -> _Round:
        """The first `depth` lines of every list, in one command."""
        first, *others = [
            span.list_pipeline(bucket, field, depth) for bucket in range(len(span.buckets)) for field in fields
        ]
        union = [{"$unionWith": {"coll": span.kind.collection, "pipeline": other}} for other in others]
        lines: Counter[tuple[int, str]] = Counter()
        lowest: dict[tuple[int, str], int] = {}
        seen: dict[str, dict[int, int]] = {}
        cursor = await self._collection(span).aggregate([*first, *union], batchSize=BATCH_LINES)
        async for line in cursor:
            each = line["bucket"], line["field"]
            lines[each] += 1
            lowest[each] = min(lowest.get(each, line["by"]), line["by"])
            seen.setdefault(line["id"], {})[line["bucket"]] = int(line["amount"])
        limits = [0] * len(span.buckets)
        for (bucket, field), by in lowest.items():
            if lines[bucket, field] == depth:  # a list that has ended leaves no entity out
                limits[bucket] += int(by)
        return _Round(limits, seen)

    async def _look_up(self, span: _CounterSpan, unseen: list[tuple[str, int]]) -> list[tuple[str, int]]:
        """(entity id, amount) of each of these documents that exists."""
        if not unseen:
            return []
        ids = [span.document_id(entity, bucket) for entity, bucket in unseen]
        pipeline = [{"$match": {"_id": {"$in": ids}}}, {"$project": {"_id": 0, "id": "$entity_id", **span.amount}}]
        cursor = await self._collection(span).aggregate(pipeline, batchSize=BATCH_LINES)
        return [(line["id"], int(line["amount"])) async for line in cursor]

    async def _by_sum(self, span: _CounterSpan, limit: int) -> list[Ranked]:
        pipeline: list[Json] = [
            {"$match": span.whole()},
            {"$group": {"_id": "$entity_id", "amount": {"$sum": span.amount["amount"]}}},
            {"$match": {"amount": {"$gt": 0}}},
            {"$sort": {"amount": -1, "_id": 1}},
            {"$limit": limit},
        ]
        with pymongo.timeout(self._sum_timeout_s):
            cursor = await self._collection(span).aggregate(pipeline, allowDiskUse=True)
            return [Ranked(line["_id"], int(line["amount"])) async for line in cursor]

    def _collection(self, span: _CounterSpan) -> Any:
        return self._mongo.collection(span.kind)


class _CounterSpan:
    """One counter of one entity type in one span, and how MongoDB is asked about it."""

    def __init__(self, of_type: Json, counter: str, span: Span) -> None:
        self._of_type = of_type
        self.counter = counter
        self.base = f"base.{counter}"
        self.kind: Kind = span.kind
        self.buckets: tuple[str | None, ...] = span.buckets or (None,)
        # A field that is missing or no number is 0.
        self.amount: Json = {"amount": {"$sum": [f"${field}" for field in (self.counter, self.base)]}}

    def list_pipeline(self, bucket: int, field: str, depth: int) -> list[Json]:
        """The head of one list; served by the index `top_` or `base_`, whose order it is."""
        names = {"bucket": {"$literal": bucket}, "field": {"$literal": field}, "by": f"${field}", "id": "$entity_id"}
        return [
            {"$match": {**self._in(self.buckets[bucket]), field: {"$gt": 0}}},
            {"$sort": {field: -1}},
            {"$limit": depth},
            {"$project": {"_id": 0, **names, **self.amount}},
        ]

    def based(self) -> Json:
        """Documents that have a base."""
        return {**self._of_type, self.base: {"$gt": 0}}

    def whole(self) -> Json:
        """Every document of the span."""
        return self._in({"$in": list(self.buckets)})

    def document_id(self, entity_id: str, bucket: int) -> str:
        key = f"{self._of_type['domain']}:{self._of_type['entity_type']}:{entity_id}"
        name = self.buckets[bucket]
        return key if name is None else f"{key}:{name}"

    def _in(self, bucket: object) -> Json:
        return {**self._of_type, self.kind.bucket_field: bucket} if self.kind.bucket_field else self._of_type


def _unseen(found: _Round, entity: str) -> Iterator[int]:
    """The buckets in which an entity may have an amount that the lists did not show."""
    return (bucket for bucket, limit in enumerate(found.limits) if limit and bucket not in found.seen[entity])


def _contenders(found: _Round, limit: int) -> list[str]:
    """The seen entities that can still be among the first `limit`."""
    least = {entity: sum(amounts.values()) for entity, amounts in found.seen.items()}
    bar = min(heapq.nlargest(limit, least.values()), default=0) if len(least) >= limit else 0
    threshold = sum(found.limits)
    return [
        entity
        for entity, amounts in found.seen.items()
        if least[entity] + threshold - sum(found.limits[bucket] for bucket in amounts) >= bar
    ]


def _first(amounts: dict[str, int], limit: int) -> list[Ranked]:
    return [
        Ranked(entity, amount)
        for entity, amount in heapq.nsmallest(limit, amounts.items(), key=lambda item: (-item[1], item[0]))
    ]
