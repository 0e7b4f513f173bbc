"""The most counted entities of a window, exactly, out of lists that indexes keep in order.

A window is the sum of buckets: the days of `30d`, the hours of `24h`, one bucket for `year` and `total`. The amount of
a bucket is its counted amount plus its base. The `top_` index lists a bucket's documents by counted amount, the `base_`
index by base.

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
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, NamedTuple

import pymongo
from msgspec import UNSET, Meta, UnsetType

from daemon.domain.rollup import Kind
from daemon.domain.window import Span, Window, span_of
from daemon.read.slices import SLICE_ITEMS, batches, slices
from daemon.response import Amount, Body
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import Json, MongoSink

DEPTH_FIRST = 20
"""Lines read of each list at first, or as many as are wanted."""
DEPTH_GROWTH = 4
LINES_MAX = 20_000
"""Lines of one round, all lists together: about 60 ms of the worker's time, in slices."""
LOOKUPS_MAX = 20_000
"""Documents looked up in one round, entities times buckets."""
COMMAND_LISTS = 30
"""Lists that one command asks for. Writing the command of all 180 of a quarter would take the worker 2 ms."""
COMMAND_LOOKUPS = 500
"""Documents that one command looks up."""


class Ranked(Body):
    entity_id: str
    amount: Amount
    previous: Annotated[Amount | UnsetType, Meta(description="With `compare`: that of the window before.")] = UNSET
    row: Annotated[dict[str, Any] | UnsetType | None, Meta(description="With `enrich`: the MySQL row or null.")] = UNSET


class _Round(NamedTuple):
    """The lists down to some depth. Buckets are numbered."""

    limits: list[int]
    """Per bucket, the largest amount of a document that was not seen in it."""
    seen: dict[str, dict[int, int]]
    """Entity id → bucket → amount."""


class _Contenders(NamedTuple):
    """The seen entities that can still be among the first N."""

    amounts: dict[str, int]
    """Entity id → what the lists say of it."""
    partly: dict[str, dict[int, int]]
    """The entities that may have an amount where the lists did not show them, each with what they did show."""
    unseen: int
    """How many documents these are."""


class TopReader:
    """Reads top lists of one entity type's counter. Raises StoreError."""

    def __init__(self, mongo: MongoSink, sum_timeout_s: float) -> None:
        """`sum_timeout_s`: how long MongoDB may add up a window whose lists say too little."""
        self._mongo = mongo
        self._sum_timeout_s = sum_timeout_s

    async def read(
        self, domain: str, entity_type: str, counter: str, window: Window, limit: int, now: dt.datetime
    ) -> list[Ranked]:
        """The first `limit` entities, the most counted first, equals by id; entities without amounts are left out.

        Of several equals at the end of the list, any may be on it.
        """
        span = _CounterSpan({"domain": domain, "entity_type": entity_type}, counter, span_of(window, now))
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
            amounts, partly, unseen = await _contenders(found, limit)
            if unseen > LOOKUPS_MAX:
                return None
            await self._look_up(span, _unseen(span, found.limits, partly), amounts)
            ranked = await _first(amounts, limit)
            threshold = sum(found.limits)
            if not threshold or (len(ranked) == limit and ranked[-1].amount >= threshold):
                return ranked
            depth *= DEPTH_GROWTH
        return None

    async def _read_lists(self, span: _CounterSpan, fields: list[str], depth: int) -> _Round:
        """The first `depth` lines of every list."""
        lists = [(bucket, field) for bucket in range(len(span.buckets)) for field in fields]
        limits = [0] * len(span.buckets)
        seen: dict[str, dict[int, int]] = {}
        async for some in slices(range(len(lists)), COMMAND_LISTS):
            first, *others = [span.list_pipeline(number, *lists[number], depth) for number in some]
            union = [{"$unionWith": {"coll": span.kind.collection, "pipeline": other}} for other in others]
            lines = dict.fromkeys(some, 0)
            lowest: dict[int, int] = {}
            cursor = await self._collection(span).aggregate([*first, *union], batchSize=SLICE_ITEMS)
            async for found in batches(cursor):
                for line in found:
                    number, by = line["list"], line["by"]
                    lines[number] += 1
                    if by < lowest.get(number, by + 1):
                        lowest[number] = by
                    seen.setdefault(line["id"], {})[lists[number][0]] = int(line["amount"])
            for number, by in lowest.items():
                if lines[number] == depth:  # a list that has ended leaves no entity out
                    limits[lists[number][0]] += int(by)
        return _Round(limits, seen)

    async def _look_up(self, span: _CounterSpan, unseen: Iterable[str], amounts: dict[str, int]) -> None:
        """Adds what these documents hold, if they exist, to the amounts of their entities."""
        async for ids in slices(unseen, COMMAND_LOOKUPS):
            pipeline = [{"$match": {"_id": {"$in": ids}}}, {"$project": {"_id": 0, "id": "$entity_id", **span.amount}}]
            async for found in batches(await self._collection(span).aggregate(pipeline, batchSize=SLICE_ITEMS)):
                for line in found:
                    amounts[line["id"]] += int(line["amount"])

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

    def list_pipeline(self, number: int, bucket: int, field: str, depth: int) -> list[Json]:
        """The head of one list; served by the index `top_` or `base_`, whose order it is. Its lines have its number."""
        names = {"list": {"$literal": number}, "by": f"${field}", "id": "$entity_id"}
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


async def _contenders(found: _Round, limit: int) -> _Contenders:
    """Takes the seen entities out of the round, a few at a time: to free them all at once would take its time, too."""
    best: list[int] = []
    async for some in slices(found.seen.values()):
        best = heapq.nlargest(limit, [*best, *(sum(amounts.values()) for amounts in some)])
    bar = best[-1] if len(best) == limit else 0
    threshold, open_lists = sum(found.limits), sum(map(bool, found.limits))
    amounts: dict[str, int] = {}
    partly: dict[str, dict[int, int]] = {}
    unseen = 0
    async for numbers in slices(range(len(found.seen))):
        for entity, seen in [found.seen.popitem() for _ in numbers]:
            least = sum(seen.values())
            limits = [found.limits[bucket] for bucket in seen]
            if least + threshold - sum(limits) >= bar:
                amounts[entity] = least
                if more := open_lists - sum(map(bool, limits)):
                    partly[entity] = seen
                    unseen += more
        if unseen > LOOKUPS_MAX:
            break
    return _Contenders(amounts, partly, unseen)


def _unseen(span: _CounterSpan, limits: list[int], partly: dict[str, dict[int, int]]) -> Iterator[str]:
    """The documents in which an entity may have an amount that the lists did not show."""
    return (
        span.document_id(entity, bucket)
        for entity, seen in partly.items()
        for bucket, limit in enumerate(limits)
        if limit and bucket not in seen
    )


async def _first(amounts: dict[str, int], limit: int) -> list[Ranked]:
    ranked: list[tuple[str, int]] = []
    async for some in slices(amounts.items()):
        ranked = heapq.nsmallest(limit, [*ranked, *some], key=lambda item: (-item[1], item[0]))
    return [Ranked(entity, amount) for entity, amount in ranked]
