"""Each entity across the five rollups: its totals against the sums of its days, weeks, months and years. Reads only.

Both sides are streamed in the order of the entity key and merged, so memory stays flat whatever the number of entities.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

from daemon.audit.hot import Sums
from daemon.audit.laws import Broken
from daemon.domain.rollup import KINDS, TOTALS
from daemon.sinks.mongo import MongoSink

Entities = AsyncIterator[tuple[str, Sums]]


async def deep(mongo: MongoSink, counters: Collection[str], moving: Collection[str]) -> AsyncIterator[Broken]:
    """`moving`: entities with amounts in flight or in dead letters, whose rollups may rightly differ; left out."""
    for kind in KINDS:
        if kind is TOTALS:
            continue
        async for key, totals, sums in _merged(_totals(mongo, counters), mongo.sums_by_entity(kind, counters)):
            for counter in counters:
                difference = sums.get(counter, 0) - totals.get(counter, 0)
                if difference and key not in moving:
                    yield Broken(
                        "deep", counter, difference,
                        f"{key}: {kind.name} sum to {sums.get(counter, 0)}, totals say {totals.get(counter, 0)}",
                    )  # fmt: skip


def _totals(mongo: MongoSink, counters: Collection[str]) -> Entities:
    return mongo.sums_by_entity(TOTALS, counters)


async def _merged(left: Entities, right: Entities) -> AsyncIterator[tuple[str, Sums, Sums]]:
    """Every key of either side, in order; the other side is empty where it lacks the key."""
    a, b = await anext(left, None), await anext(right, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a[0] < b[0]):
            assert a is not None
            yield a[0], a[1], {}
            a = await anext(left, None)
        elif a is None or b[0] < a[0]:
            yield b[0], {}, b[1]
            b = await anext(right, None)
        else:
            yield a[0], a[1], b[1]
            a, b = await anext(left, None), await anext(right, None)
