"""Reads that the cache does not have: each question is asked once, few at a time, and others are told to come back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from daemon.read.api import Api
from daemon.read.endpoint import PREFIX
from daemon.response import Response
from tests.kit.loop import in_loop
from tests.kit.system import System


class Reader:
    """The read API of a worker, without HTTP."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def get(self, path: str) -> Response:
        path, _, query = path.partition("?")
        return await self._api.answer("GET", PREFIX + path, query, ())


@asynccontextmanager
async def reading(system: System, **env: str) -> AsyncIterator[Reader]:
    api = Api(system.config(**env))
    try:
        yield Reader(api)
    finally:
        await api.close()


@pytest.mark.parametrize(
    ("path", "spellings"),
    [
        ("summary/jav", ["", "days=30", "days=30&", "&&days=30"]),
        ("top/jav/movie", ["", "limit=10&window=total", "window=total&&limit=10"]),
        ("series/jav/movie/a", ["", "&", "bucket=daily"]),
        ("totals/jav/movie", ["ids=a,b", "id=a&id=b", "ids=a,b&"]),
    ],
)
def test_a_question_is_asked_once_however_it_is_spelled(shared_system: System, path: str, spellings: list[str]) -> None:
    @in_loop
    async def work() -> None:
        async with reading(shared_system, READ__CACHE_TTL_MS="60000", READ__TOP_CACHE_TTL_MS="60000") as reader:
            answers = [await reader.get(f"{path}?{spelling}") for spelling in spellings]
            assert answers[0].status == 200
            assert all(answer is answers[0] for answer in answers)

    work()
