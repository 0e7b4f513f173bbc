"""A read leaves the worker's event loop to others: no question makes one stretch of work long."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest

from daemon.read.api import Api
from daemon.read.endpoint import PREFIX
from tests.kit.loop import Stretches
from tests.kit.reads import free
from tests.kit.system import System

CALLS_MAX = 4_500
"""Of functions, at a stretch. A bare question to MongoDB makes about 1,000 of them."""
TODAY = dt.datetime.now(dt.UTC).date()
IDS = [f"0f8fad5b-d9cb-469f-a165-{n:012d}" for n in range(500)]
POINTS = 990
RECENT = 100
"""Points of the series of many entities: a hundred of them then have as many as they may."""
LISTED = 150
"""Entities of one day, each of that day alone: so no list says anything of those of the others."""


def document(entity: str, day: str = "", **fields: int) -> dict[str, Any]:
    key = f"jav:movie:{entity}"
    own = {"domain": "jav", "entity_type": "movie", "entity_id": entity, **fields}
    return {"_id": f"{key}:{day}", "date": day, **own} if day else {"_id": key, **own}


@pytest.fixture(scope="module")
def filled(shared_system: System) -> System:
    shared_system.make_indexes()
    shared_system.flush()  # whole domains are built, of nothing
    days = [(TODAY - dt.timedelta(n)).isoformat() for n in range(POINTS)]
    daily = [document("long", day, view=1, download=2) for day in days]
    daily += [document(id_, day, view=1, download=2) for id_ in IDS for day in days[:2]]
    daily += [document(f"{day} {n}", day, view=n + 2, download=n + 2) for day in days[:90] for n in range(LISTED)]
    shared_system.mongo.analytics_entity_daily.insert_many(daily)
    shared_system.mongo.analytics_entity_totals.insert_many([document(id_, view=3, download=1) for id_ in IDS])
    return shared_system


@pytest.mark.parametrize(
    "question",
    [
        "series/jav/movie/long?from={first}",
        "series/jav/movie/unknown?from={first}",
        "series/jav/movie/long?from={middle}&compare=1",
        "series/jav/movie?from={recent}&ids=long,{few}",
        "totals/jav/movie?ids={ids}",
        "totals/jav/movie?ids={ids}&window=90d&compare=1",
        "top/jav/movie?window=90d&limit=100",
        "top/jav/movie?window=90d&limit=100&ids={ids}&compare=1",
        "summary/jav?days=90",
    ],
)
def test_no_read_keeps_the_loop_for_long(filled: System, question: str) -> None:
    first, middle, recent = ((TODAY - dt.timedelta(days - 1)).isoformat() for days in (POINTS, POINTS // 2, RECENT))
    asked = {"first": first, "middle": middle, "recent": recent, "ids": ",".join(IDS), "few": ",".join(IDS[:99])}
    path, _, query = question.format(**asked).partition("?")

    async def work() -> int:
        api = Api(filled.config(READ__TIMEOUT_MS="60000", READ__SUM_TIMEOUT_MS="60000"))
        try:
            await api.answer("GET", f"{PREFIX}totals/jav/movie/first", "", (), free)  # connects
            with Stretches() as stretches:
                answer = await api.answer("GET", PREFIX + path, query, (), free)
            assert answer.status == 200
            return stretches.longest
        finally:
            await api.close()

    assert asyncio.run(work()) < CALLS_MAX


@pytest.mark.parametrize("entity", ["long", "unknown"])
def test_a_series_looks_at_the_documents_of_its_points_only(filled: System, entity: str) -> None:
    """By the index of the natural key: also of an entity among whose neighbours are millions."""
    found = filled.mongo.command(
        "explain",
        {
            "find": "analytics_entity_daily",
            "filter": {
                "domain": "jav", "entity_type": "movie", "entity_id": entity,
                "date": {"$gte": (TODAY - dt.timedelta(9)).isoformat(), "$lte": TODAY.isoformat()},
            },
        },
        verbosity="executionStats",
    )["executionStats"]  # fmt: skip
    assert (found["totalDocsExamined"], found["totalKeysExamined"]) == ((10, 10) if entity == "long" else (0, 0))
