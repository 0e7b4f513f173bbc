"""Reads that the cache does not have: each question is asked once, few at a time, and others are told to come back."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from daemon.read.endpoint import PREFIX
from daemon.read.gate import Kind
from tests.kit.loop import in_loop
from tests.kit.proxy import Fault, Gate, Proxy
from tests.kit.reads import reading
from tests.kit.servers import MONGO, Server
from tests.kit.system import System, event, wait_until, with_database


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
        ("summary/jav?days={n}", "READ__SUMMARIES_AT_ONCE_MAX", "analytics_domain_builds"),
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
            wait_until(lambda: ingest.client.get(path).status_code == 200, "MongoDB answers within half a second")
            refusals = ingest.text().count("MongoDB does not answer")
            mongo.freeze()
            try:
                with ThreadPoolExecutor(32) as readers:
                    asked = [readers.submit(ingest.client.get, path) for _ in range(300)]
                    assert all(ingest.post(event()).status_code == 202 for _ in range(100))
                    # The first may have been answered before the signal came to every thread.
                    assert [each.result().status_code for each in asked][-100:] == [503] * 100
                assert ingest.text().count("MongoDB does not answer") == refusals + 1
            finally:
                mongo.thaw()
            wait_until(lambda: ingest.client.get(path).status_code == 200, "MongoDB answers again")
            ingest.says("MongoDB answers again")


@in_loop
async def test_while_mongodb_hangs_no_read_asks_it(system: System, tmp_path: Path) -> None:
    mongo = await asyncio.to_thread(Server(MONGO, tmp_path / "mongo").__enter__)
    proxy = Proxy(with_database(mongo.url, "t"))
    try:
        with proxy.running():
            async with reading(system, MONGO__URL=proxy.url(), READ__TIMEOUT_MS="300") as reader:
                for _ in range(100):  # a busy machine takes longer than the time-out
                    if (await reader.get("totals/jav/movie/a")).status == 200:
                        break
                    await asyncio.sleep(0.1)
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


# What it costs its sender --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "other_spelling", "kind"),
    [
        ("totals/jav/movie/paid", "&", Kind.TOTALS),
        ("series/jav/movie/paid", "bucket=daily", Kind.SERIES),
        ("top/jav/movie", "limit=10", Kind.TOP),
        ("summary/jav", "days=30", Kind.SUMMARY),
    ],
)
def test_a_read_is_charged_by_what_it_asks_of_the_stores(
    shared_system: System, path: str, other_spelling: str, kind: Kind
) -> None:
    @in_loop
    async def work() -> None:
        async with reading(shared_system, READ__CACHE_TTL_MS="60000") as reader:
            both = await asyncio.gather(reader.get(path), reader.get(path))
            assert both[0] is both[1]
            assert reader.charged == [kind, None], "who joins a read asks for nothing"
            await reader.get(path)
            await reader.get(f"{path}?{other_spelling}")
            assert reader.charged == [kind, None, None, None]
            assert (await reader.get(f"{path}?no=1")).status == 422
            assert len(reader.charged) == 4, "the application charges for refusals"

    work()


@in_loop
async def test_an_exact_total_is_charged_each_time_and_a_reader_with_a_key_never(shared_system: System) -> None:
    async with reading(shared_system) as reader:
        for _ in range(2):
            assert (await reader.get("totals/jav/movie/paid?fresh=1")).status == 200
        assert reader.charged == [Kind.FRESH, Kind.FRESH]
    key = "a-key-for-the-readers"
    async with reading(shared_system, READ__KEY=key) as reader:
        assert (await reader.get("totals/jav/movie/paid", (b"x-tallyd-key", key.encode()))).status == 200
        assert (await reader.get("totals/jav/movie/paid")).status == 401
        assert reader.charged == []


def test_a_reader_without_a_budget_left_is_refused_and_others_are_not(system: System) -> None:
    def client(address: str) -> httpx.Client:
        return httpx.Client(base_url=ingest.url, transport=httpx.HTTPTransport(local_address=address), timeout=10)

    with (
        system.ingest(BUDGET__PER_MINUTE="60", READ__CACHE_TTL_MS="60000") as ingest,
        client("127.0.0.2") as greedy,
        client("127.0.0.3") as modest,
    ):
        answers = [greedy.get(f"{PREFIX}series/jav/movie/{n}") for n in range(60)]
        assert answers[0].status_code == 200
        refused = [each for each in answers if each.status_code == 429]
        assert refused
        assert all(each.headers["retry-after"] and len(each.content) <= 4_096 for each in refused)
        assert modest.get(f"{PREFIX}series/jav/movie/0").status_code == 200
        assert modest.post("/api/v1/analytics/events", json=event()).status_code == 202


@pytest.mark.parametrize(
    ("path", "stale_s", "kept"),
    [("top/jav/movie", "60", True), ("summary/jav", "60", True), ("top/jav/movie", "0", False),
     ("totals/jav/movie/a", "60", False)],
)  # fmt: skip
def test_a_list_that_cannot_be_read_now_is_answered_as_it_was(
    shared_system: System, path: str, stale_s: str, *, kept: bool
) -> None:
    mongo = Proxy(shared_system.env["TALLYD_MONGO__URL"])
    env = {"READ__TOP_CACHE_TTL_MS": "1", "READ__CACHE_TTL_MS": "1", "READ__TIMEOUT_MS": "5000"}

    @in_loop
    async def work() -> None:
        async with reading(shared_system, MONGO__URL=mongo.url(), READ__STALE_S=stale_s, **env) as reader:
            first = await reader.get(path)
            assert first.status == 200
            mongo.cut()
            await asyncio.sleep(0.01)  # longer than its time in the cache
            again = await reader.get(path)
            assert (again is first) == kept
            assert again.status == (200 if kept else 503)
            mongo.restore()
            # What is read again is read anew.
            while (again := await reader.get(path)) is first or again.status != 200:
                assert again.status in (200, 503)
                await asyncio.sleep(0.1)

    with mongo.running():
        work()
