"""Compares a day with its week, month, year and the totals, as the rollups have them.

A week may lie in two months or two years. So a bucket is compared only with those that it lies in wholly. The hours of
a day are compared as a sum.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from daemon.domain.rollup import COARSER, DAILY, HOURLY, TOTALS, Bucketed, Kind, amount_of, start_of_day, total
from daemon.read.days import Types, active_entities, bucket, sums_of_hours
from daemon.rollups.mongo import MongoSink
from daemon.verify.report.artifact import Agreement, Disagreement

CHUNK_ENTITIES = 1_000
SOME_MAX = 20
LOOKS = 5
PAUSE_S = 0.3
OF_A_DAY = (DAILY, *COARSER)
"""The rollups in which a day is in one bucket."""


class Kept(NamedTuple):
    """The configured retention, and the day from which it is counted. See `Bucketed.kept_from`. `hourly`: the domains
    that have hours."""

    today: dt.date
    retention: Mapping[str, int]
    hourly: Collection[str] = ()

    def holds(self, kind: Kind, day: dt.date) -> bool:
        """Whether the day's bucket is kept."""
        if not isinstance(kind, Bucketed):
            return True
        oldest = kind.kept_from(start_of_day(self.today), self.retention)
        return oldest is None or kind.bucket_of(start_of_day(day)) >= oldest


async def agreement(
    mongo: MongoSink,
    types: Types,
    day: dt.date,
    counters: Collection[str],
    kept: Kept,
    entities_max: int,
    moving: Collection[str],
) -> Agreement:
    """Compares at most `entities_max` entities that were active on the day. `moving`: entities that may differ longer.

    The rollups are not written in one instant, so entities that disagree are read again a few times.
    """
    compared = found = 0
    some: list[Disagreement] = []
    async for entities in active_entities(mongo, types, day.isoformat(), CHUNK_ENTITIES, entities_max):
        compared += len(entities)
        differing = await _disagreements(mongo, day, counters, kept, entities)
        for _ in range(LOOKS):
            if not differing:
                break
            await asyncio.sleep(PAUSE_S)
            again = {each.entity for each in differing}.difference(moving)
            differing = await _disagreements(mongo, day, counters, kept, sorted(again))
        found += len(differing)
        some += differing[: SOME_MAX - len(some)]
    return Agreement(compared, found, some)


def within(day: dt.date) -> Iterator[tuple[Kind, Kind]]:
    """Pairs of the day's buckets of which the first lies wholly in the second."""
    for inner, outer in combinations(OF_A_DAY, 2):
        if inner.lies_in(outer, start_of_day(day)):
            yield inner, outer
    yield from ((kind, TOTALS) for kind in OF_A_DAY)


async def _disagreements(
    mongo: MongoSink, day: dt.date, counters: Collection[str], kept: Kept, entities: Sequence[str]
) -> list[Disagreement]:
    if not entities:
        return []
    at = start_of_day(day)
    names: dict[Kind, str | None] = {TOTALS: None, **{kind: kind.bucket_of(at) for kind in OF_A_DAY}}
    # The inner buckets are read first: a flush in between can only add to the outer ones.
    hours: dict[str, dict[str, int]] = {}
    if kept.holds(HOURLY, day) and kept.holds(DAILY, day):
        of_hours = [key for key in entities if key.partition(":")[0] in kept.hourly]
        hours = await sums_of_hours(mongo, of_hours, day, counters)
    documents = {
        (kind, key): document
        for kind in (*OF_A_DAY, TOTALS)
        for key, document in (await bucket(mongo, kind, entities, names[kind])).items()
    }
    pairs = [(inner, outer) for inner, outer in within(day) if kept.holds(inner, day) and kept.holds(outer, day)]
    date = day.isoformat()
    above = [
        Disagreement(key, counter, f"{HOURLY.name} {date}", here, f"{DAILY.name} {date}", there)
        for key, sums in hours.items()
        for counter, here in sums.items()
        if here > (there := amount_of(documents.get((DAILY, key), {}).get(counter)))
    ]
    return above + [
        Disagreement(
            key, counter,
            " ".join(filter(None, (inner.name, names[inner]))), here,
            " ".join(filter(None, (outer.name, names[outer]))), there,
        )
        for key in entities
        for inner, outer in pairs
        for counter in counters
        if (here := total(documents.get((inner, key), {}), counter))
        > (there := total(documents.get((outer, key), {}), counter))
    ]  # fmt: skip
