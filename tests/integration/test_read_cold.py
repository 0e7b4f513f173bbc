"""Reads that the cache does not have: each question is asked once, few at a time, and others are told to come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from daemon.read.api import Api
from daemon.read.endpoint import PREFIX
from daemon.response import Response
from tests.kit.loop import in_loop
from tests.kit.proxy import Fault, Gate, Proxy
from tests.kit.servers import MONGO, Server
from tests.kit.system import System, event, wait_until, with_database


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


@pytest.mark.parametrize(
    ("path", "limit", "collection"),
    [
        ("series/jav/movie/{n}", "READ__SERIES_AT_ONCE_MAX", "analytics_entity_daily"),
        ("top/jav/movie?limit={n}", "READ__TOPS_AT_ONCE_MAX", "analytics_entity_totals"),
        ("summary/jav?days={n}", "READ__SUMMARIES_AT_ONCE_MAX", "analytics_entity_daily"),
    ],
)
def test_few_reads_of_a_kind_are_under_way_at_once(
    shared_system: System, path: str, limit: str, collection: str
) -> None:
    """The others wait their time, and are told to come back."""
    mongo = Gate(shared_system.env["TALLYD_MONGO__URL"], collection.encode())
    env = {limit: "1", "READ__WAIT_MS": "100", "READ__RETRY_AFTER_S": "7", "READ__TIMEOUT_MS": "20000"}

    @in_loop
    async def work() -> None:
        async with reading(shared_system, MONGO__URL=mongo.url(), **env) as reader:
            first = asyncio.create_task(reader.get(path.format(n=7)))
            assert await asyncio.to_thread(mongo.tripped.wait, 10)
            same = asyncio.create_task(reader.get(path.format(n=7)))
            for n in (14, 30, 90):
                refused = await reader.get(path.format(n=n))
                assert (refused.status, dict(refused.headers)["retry-after"]) == (503, "7")
                assert b"wait already" in refused.body
            mongo.release()
            assert (await first).status == 200
            assert await same is await first
            assert (await reader.get(path.format(n=14))).status == 200

    with mongo.running():
        work()


def test_a_mongodb_that_hangs_costs_ingest_nothing_and_reads_come_back(system: System, tmp_path: Path) -> None:
    """After the first time-outs reads are refused without asking."""
    with Server(MONGO, tmp_path / "mongo") as mongo:
        url = with_database(mongo.url, "t")
        with system.ingest(MONGO__URL=url, READ__TIMEOUT_MS="500", READ__CACHE_TTL_MS="0") as ingest:
            path = f"{PREFIX}totals/jav/movie/a"
            assert ingest.client.get(path).status_code == 200
            mongo.freeze()
            try:
                with ThreadPoolExecutor(32) as readers:
                    asked = [readers.submit(ingest.client.get, path) for _ in range(300)]
                    assert all(ingest.post(event()).status_code == 202 for _ in range(100))
                    assert {each.result().status_code for each in asked} == {503}
                ingest.says("MongoDB does not answer: reads are refused until it does.")
            finally:
                mongo.thaw()
            wait_until(lambda: ingest.client.get(path).status_code == 200, "MongoDB answers again")
            ingest.says("reads are answered again")
            assert ingest.text().count("reads are refused") == 1


@in_loop
async def test_while_mongodb_hangs_no_read_asks_it(system: System, tmp_path: Path) -> None:
    mongo = await asyncio.to_thread(Server(MONGO, tmp_path / "mongo").__enter__)
    proxy = Proxy(with_database(mongo.url, "t"))
    try:
        with proxy.running():
            async with reading(system, MONGO__URL=proxy.url(), READ__TIMEOUT_MS="300") as reader:
                assert (await reader.get("totals/jav/movie/a")).status == 200
                mongo.freeze()
                proxy.trap(b"analytics_entity", Fault.HOLD_REQUEST, keep=True)
                found = await asyncio.gather(*(reader.get(f"totals/jav/movie/{n}") for n in range(50)))
                assert {each.status for each in found} == {503}
                assert proxy.tripped.is_set()
                proxy.trap(b"analytics_entity", Fault.HOLD_REQUEST, keep=True)
                for path in ("totals/jav/movie/{}", "series/jav/movie/{}", "top/jav/movie?limit={}"):
                    assert [(await reader.get(path.format(n))).status for n in range(1, 50)] == [503] * 49
                assert not proxy.tripped.is_set()
    finally:
        await asyncio.to_thread(mongo.stop)
