"""What the rollups say of one day: its sums, and whether it lies within its week, its month, its year and the totals.

A week may lie in two months or two years, so only buckets that lie wholly in another are compared with it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from daemon.domain.bucket import buckets_of
from daemon.domain.retention import kept_from
from daemon.domain.rollup import DAILY, KINDS, MONTHLY, TOTALS, WEEKLY, YEARLY, Kind, total
from daemon.read.days import Types, active_entities, bucket
from daemon.rollups.mongo import MongoSink
from daemon.verify.report.artifact import Agreement, Disagreement

CHUNK_ENTITIES = 1_000
SOME_MAX = 20
LOOKS = 5
PAUSE_S = 0.3


class Kept(NamedTuple):
    """The retention that is configured, and the day it is counted from. See `daemon.domain.retention`."""

    today: dt.date
    daily_days: int
    weekly_weeks: int

    def holds(self, kind: Kind, bucket: str) -> bool:
        oldest = kept_from(kind, self.today, daily_days=self.daily_days, weekly_weeks=self.weekly_weeks)
        return oldest is None or bucket >= oldest


async def agreement(
    mongo: MongoSink,
    types: Types,
    day: dt.date,
    counters: Collection[str],
    kept: Kept,
    entities_max: int,
    moving: Collection[str],
) -> Agreement:
    """Of at most `entities_max` entities that were active on the day. What disagrees is read again a few times, for the
    rollups are not written in one instant; `moving`: entities whose rollups may rightly differ for longer."""
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
    """Which of the day's buckets lies wholly in which other."""
    monday = day - dt.timedelta(days=day.weekday())
    sunday = monday + dt.timedelta(days=6)
    yield from ((DAILY, WEEKLY), (DAILY, MONTHLY), (DAILY, YEARLY), (MONTHLY, YEARLY))
    if monday.strftime("%Y-%m") == sunday.strftime("%Y-%m"):
        yield WEEKLY, MONTHLY
    if monday.year == sunday.year:
        yield WEEKLY, YEARLY
    yield from ((kind, TOTALS) for kind in (DAILY, WEEKLY, MONTHLY, YEARLY))


async def _disagreements(
    mongo: MongoSink, day: dt.date, counters: Collection[str], kept: Kept, entities: Sequence[str]
) -> list[Disagreement]:
    if not entities:
        return []
    names = _bucket_names(day)
    # The inner buckets first: a flush in between can only add to the outer ones.
    documents = {
        (kind, key): document
        for kind in (DAILY, WEEKLY, MONTHLY, YEARLY, TOTALS)
        for key, document in (await bucket(mongo, kind, entities, names[kind])).items()
    }
    pairs = [
        (inner, outer)
        for inner, outer in within(day)
        if kept.holds(inner, names[inner] or "") and kept.holds(outer, names[outer] or "")
    ]
    return [
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


def _bucket_names(day: dt.date) -> dict[Kind, str | None]:
    buckets = buckets_of(day.isoformat())
    assert buckets is not None
    return {kind: getattr(buckets, kind.bucket_field) if kind.bucket_field else None for kind in KINDS}
