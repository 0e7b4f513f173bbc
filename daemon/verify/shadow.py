"""The application's column against tallyd's, row by row, while both count. Called by `tallyd shadow-compare`.

MySQL sums and ranks, so memory stays flat here. Both columns are read in one statement. Tallyd's column lacks the
counts of a few seconds, which are not flushed yet.

MongoDB keeps one result for each day, table and counter in `analytics_shadow`; the last run of a day holds. The growth
of both columns since an earlier day says whether their difference still grows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from daemon.config import ReplicaTable
from daemon.replica.mysql import MysqlSink
from daemon.rollups.collections import SHADOW
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import MongoSink

QUERY_TIMEOUT_S = 300.0
"""What reading a whole table may take, besides the usual time-out."""
PERCENTS = (50, 90, 99)
WINDOWS_DAYS = (1, 7, 14, 30, 90)


class Percentiles(Struct, frozen=True):
    """Nearest rank: at least p percent of the rows lie at or below."""

    p50: float
    p90: float
    p99: float
    max: float


class Worst(Struct, frozen=True):
    """A row and its difference: tallyd's count minus the application's. `percent`: of the application's."""

    key: str
    label: str | None
    own: int
    tallyd: int
    difference: int
    percent: float | None


class Comparison(Struct, frozen=True):
    """One counter of one table. `own`: the application's sum. `apart`: the sum of the rows' differences without signs.

    So differences of opposite signs do not cancel out.
    """

    entity_type: str
    counter: str
    own_column: str
    tallyd_column: str
    rows: int
    differing: int
    own: int
    tallyd: int
    difference: int
    apart: int
    apart_percent: float | None
    absolute: Percentiles
    """Of the rows' differences without sign."""
    percent: Percentiles
    """The same, as percent of the application's count (at least 1)."""
    worst: list[Worst]


class Snapshot(Struct, frozen=True):
    """One day's sums."""

    date: dt.date
    own: int
    tallyd: int
    apart: int


class Trend(Struct, frozen=True):
    """How much both grew since the oldest day in a window. `difference`: tallyd's growth minus the application's."""

    days: int
    since: dt.date
    own: int
    tallyd: int
    difference: int
    percent: float | None
    apart_before: int


class BadDay(Struct, frozen=True):
    """`why`: how the sentence about the date goes on."""

    date: dt.date
    why: str


async def compare(mysql: MysqlSink, entity_type: str, table: ReplicaTable, counter: str, worst_max: int) -> Comparison:
    """Raises StoreError."""
    own, tallyd = (_amount(column) for column in (table.shadow[counter], table.columns[counter]))
    apart = f"ABS({tallyd} - {own})"
    percent = f"ROUND(100 * {apart} / GREATEST({own}, 1), 3)"
    label = f"CAST(`{table.label}` AS CHAR)" if table.label else "NULL"
    source = f"FROM `{table.table}`"

    async def query(sql: str, *args: object) -> list[tuple[Any, ...]]:
        return await mysql.query(sql, args, extra_s=QUERY_TIMEOUT_S)

    [(rows, *sums)] = await query(
        f"SELECT COUNT(*), COALESCE(SUM({own}), 0), COALESCE(SUM({tallyd}), 0), COALESCE(SUM({apart}), 0),"
        f" COALESCE(SUM({apart} > 0), 0) {source}"
    )
    sum_own, sum_tallyd, sum_apart, differing = map(int, sums)
    absolute = await query(f"SELECT {apart} AS apart, COUNT(*) {source} GROUP BY apart ORDER BY apart")
    relative = await query(f"SELECT {percent} AS apart, COUNT(*) {source} GROUP BY apart ORDER BY apart")
    worst = await query(
        f"SELECT CAST(`{table.key}` AS CHAR), {label}, {own}, {tallyd} {source} WHERE {apart} > 0"
        f" ORDER BY {apart} DESC, `{table.key}` LIMIT %s",
        worst_max,
    )
    return Comparison(
        entity_type, counter, table.shadow[counter], table.columns[counter], rows, differing,
        sum_own, sum_tallyd, sum_tallyd - sum_own, sum_apart, percent_of(sum_apart, sum_own),
        percentiles(absolute, rows), percentiles(relative, rows),
        [
            Worst(key or "", name, here, there, there - here, percent_of(there - here, here))
            for key, name, here, there in worst
        ],
    )  # fmt: skip


async def record(mongo: MongoSink, comparison: Comparison, now: dt.datetime) -> None:
    """Keeps the result as the day's. Raises StoreError."""
    id_ = f"{comparison.entity_type}:{comparison.counter}:{now.date()}"
    names = ("entity_type", "counter", "own", "tallyd", "apart", "differing")
    found = {name: getattr(comparison, name) for name in names} | msgspec.structs.asdict(comparison.absolute)
    with store_error(mongo.address):
        await mongo.database[SHADOW].replace_one(
            {"_id": id_}, {**found, "date": now.date().isoformat(), "at": now}, upsert=True
        )


async def snapshots(mongo: MongoSink, comparison: Comparison, today: dt.date) -> list[Snapshot]:
    """The recorded days before `today` in the longest window, the oldest first. Raises StoreError."""
    first = f"{comparison.entity_type}:{comparison.counter}:{today - dt.timedelta(days=WINDOWS_DAYS[-1])}"
    before = f"{comparison.entity_type}:{comparison.counter}:{today}"
    with store_error(mongo.address):
        cursor = mongo.database[SHADOW].find({"_id": {"$gte": first, "$lt": before}}).sort("_id", 1)
        return [
            Snapshot(dt.date.fromisoformat(found["date"]), int(found["own"]), int(found["tallyd"]), int(found["apart"]))
            async for found in cursor
        ]


def trends(past: Sequence[Snapshot], comparison: Comparison, today: dt.date) -> list[Trend]:
    """The trend of each window that has a recorded day. `past`: as `snapshots` returns it."""
    found = []
    for days in WINDOWS_DAYS:
        start = next((each for each in past if each.date >= today - dt.timedelta(days=days)), None)
        if start is not None:
            own, tallyd = comparison.own - start.own, comparison.tallyd - start.tallyd
            found.append(Trend(days, start.date, own, tallyd, tallyd - own, percent_of(tallyd - own, own), start.apart))
    return found


def bad_day(past: Sequence[Snapshot], today: dt.date, days: int, within: Callable[[Snapshot], bool]) -> BadDay | None:
    """The first of the last `days` days, today left out, that has no result or one that is not `within` bounds.

    `past`: as `snapshots` returns it.
    """
    by_date = {each.date: each for each in past}
    for back in range(days - 1, 0, -1):
        date = today - dt.timedelta(days=back)
        found = by_date.get(date)
        if found is None:
            return BadDay(date, "has no result")
        if not within(found):
            return BadDay(date, f"was {found.apart:,} apart")
    return None


def percent_of(part: int, whole: int) -> float | None:
    """None if the whole is 0 and the part is not."""
    return round(100 * part / whole, 4) if whole else (None if part else 0.0)


def percentiles(histogram: Sequence[tuple[Any, int]], rows: int) -> Percentiles:
    """`histogram`: (value, number of rows), ascending."""
    found: list[float] = []
    counted = 0
    for value, times in histogram:
        counted += times
        while len(found) < len(PERCENTS) and counted * 100 >= PERCENTS[len(found)] * rows:
            found.append(float(value))
    if not histogram:
        return Percentiles(0, 0, 0, 0)
    p50, p90, p99 = found
    return Percentiles(p50, p90, p99, float(histogram[-1][0]))


def _amount(column: str) -> str:
    return f"CAST(COALESCE(`{column}`, 0) AS SIGNED)"  # unsigned values cannot be subtracted
