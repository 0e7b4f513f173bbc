"""The way from a path and a query to a question: however it is spelled, the same question has the same key."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from daemon.config import load
from daemon.metrics import ReadTally
from daemon.read.endpoint import Question
from daemon.read.routes import Routes
from daemon.read.stores import Stores
from daemon.response import Response

DAY = dt.datetime(2026, 2, 19, 5, tzinfo=dt.UTC)
CONFIG = load(environ={"TALLYD_MONGO__URL": "mongodb://nowhere/tallyd", "TALLYD_REDIS__URL": "redis://nowhere"})


def keys(path: str, *queries: str) -> list[str]:
    async def parse() -> list[Question | Response]:
        stores = Stores(CONFIG, ReadTally())
        routes = Routes(CONFIG, stores, lambda: DAY)
        try:
            return [routes.parse(path, query) for query in queries]
        finally:
            await stores.close()

    found = asyncio.run(parse())
    return [each.key for each in found if isinstance(each, Question)]


@pytest.mark.parametrize(
    ("path", "queries"),
    [
        ("summary/jav", ["", "days=30", "days=30&", "&&days=30&&", "d%61ys=3%30", "top=1&compare=0"]),
        ("summary/jav", ["top=0", "enrich=1&top=0"]),
        ("domains", ["", "&"]),
        ("series/jav/movie", ["ids=a,b", "id=a&id=b&to=2026-02-19", "bucket=daily&from=2026-01-21&ids=a,b"]),
        ("top/jav/movie", ["", "limit=10", "window=total&limit=10", "limit=10&&window=total", "enrich=0"]),
        ("series/jav/movie/a", ["", "to=2026-02-19", "bucket=daily&from=2026-01-21", "from=2026-01-21&&bucket=daily"]),
        ("totals/jav/movie", ["ids=a,b", "id=a&id=b", "ids=a&id=b", "ids=a,b,a", "ids=%61%2Cb", "&ids=a,b&"]),
        ("totals/jav/movie/a", ["", "&", "fresh=0", "fresh=false"]),
    ],
)  # fmt: skip
def test_a_question_has_one_key_however_it_is_spelled(path: str, queries: list[str]) -> None:
    found = keys(path, *queries)
    assert len(found) == len(queries)
    assert len(set(found)) == 1


@pytest.mark.parametrize(
    ("path", "queries"),
    [
        ("summary/jav", ["", "days=7", "type=movie", "top=0", "compare=1", "enrich=1"]),
        (
            "top/jav/movie",
            ["", "limit=11", "window=7d", "window=7d&compare=1", "enrich=1", "counter=download", "ids=a"],
        ),
        ("top/jav/actor", [""]),
        ("series/jav/movie/a", ["", "to=2026-02-18", "bucket=weekly", "compare=1"]),
        ("series/jav/movie", ["ids=a", "ids=a,b", "ids=a&bucket=weekly", "ids=a&to=2026-02-18"]),
        ("series/jav/movie/b", [""]),
        ("totals/jav/movie", ["", "ids=a", "ids=a,b", "ids=b,a", "id=a%2Cb", "id=a%27%2C%20%27b", "id=a%5C%27"]),
        ("totals/jav/movie", ["ids=a", "ids=a&window=7d", "ids=a&window=7d&compare=1", "ids=a&window=day"]),
        ("totals/jav/movie/a", ["", "fresh=1"]),
    ],
)
def test_other_questions_have_other_keys(path: str, queries: list[str]) -> None:
    found = keys(path, *queries)
    assert len(set(found)) == len(queries)


@pytest.mark.parametrize("query", ["days=7&days=7", "days=7&days=30", "days="])
def test_a_parameter_given_twice_or_empty_is_refused_whatever_the_cache_holds(query: str) -> None:
    assert keys("summary/jav", query) == []


@pytest.mark.parametrize("path", ["top/jav/movie", "totals/jav/movie"])
@pytest.mark.parametrize("query", ["compare=1", "window=total&compare=1"])
def test_nothing_is_compared_with_what_was_before_everything(path: str, query: str) -> None:
    assert keys(path, query) == []


@pytest.mark.parametrize(
    "query",
    [
        "ids=" + ",".join(f"m{n}" for n in range(101)),
        "ids=" + ",".join(f"m{n}" for n in range(40)) + "&from=2025-01-01",
    ],
)
def test_series_of_too_many_entities_or_points_are_refused(query: str) -> None:
    assert keys("series/jav/movie", query) == []


def test_nothing_is_before_the_first_year() -> None:
    assert len(keys("series/jav/movie/a", "from=0002-01-01&to=0002-01-31&compare=1")) == 1
    assert keys("series/jav/movie/a", "from=0001-01-01&to=0001-01-31&compare=1") == []
