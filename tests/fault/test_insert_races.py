"""Two who insert the same document at the same moment: one of them gets E11000, and what it brought is not lost.

A mongod of its own stops the second between its find and its insert, where the first then inserts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import pymongo
import pytest

from daemon.config import MongoSection, load
from daemon.domain.entity import Entity
from daemon.domain.outcome import Failure, SinkResult
from daemon.domain.rollup import DAILY, KINDS, TOTALS, Document, Malformed, Rollup
from daemon.move.backfill.history import Bucket, History
from daemon.replica.adopt import adopt
from daemon.rollups.dead_letters import Letter, Retried
from daemon.rollups.mongo import MongoSink
from tests.kit.servers import MONGO, Server

UPSERT, INSERT = "hangBeforeUpsertPerformsInsert", "hangDuringBatchInsert"
MOVIE = Entity("jav", "movie", "a")
ZEROS = {"jav": ("download", "view")}
SEQ = 5
TOTALS_DOCUMENT = {"_id": MOVIE.key, "domain": "jav", "entity_type": "movie", "entity_id": "a"}
DAY = f"{MOVIE.key}:2026-02-19"

Work = Callable[[MongoSink], Awaitable[Any]]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    def command(*args: Any) -> list[str]:
        return [*MONGO.command(*args), "--setParameter", "enableTestCommands=1"]

    with Server(msgspec.structs.replace(MONGO, command=command), tmp_path_factory.mktemp("mongo")) as server:
        yield server.url


def raced(url: str, work: Work, first: tuple[str, dict[str, Any]], point: str = UPSERT) -> Any:
    """Runs `work`, and inserts `first` (collection, document) just before its own insert, which is an upsert or an
    `insert` command (`point`)."""

    async def run() -> Any:
        sink = MongoSink(MongoSection(url=url))
        try:
            working = asyncio.ensure_future(work(sink))
            await asyncio.to_thread(insert_in_between)
            return await working
        finally:
            await sink.close()

    def insert_in_between() -> None:
        admin.command("waitForFailPoint", point, timesEntered=before + 1, maxTimeMS=10_000)
        if point == UPSERT:
            database[first[0]].insert_one(dict(first[1]))
        else:
            database[first[0]].replace_one({"_id": first[1]["_id"]}, dict(first[1]), upsert=True)
        admin.command("configureFailPoint", point, mode="off")

    with pymongo.MongoClient[dict[str, Any]](url) as client:
        admin, database = client.admin, client["tallyd"]
        data = {"nss": f"tallyd.{first[0]}", "shouldContinueOnInterrupt": False}
        before = admin.command("configureFailPoint", point, mode="alwaysOn", data=data)["count"]
        try:
            return asyncio.run(run())
        finally:
            admin.command("configureFailPoint", point, mode="off")


@pytest.fixture
def database(url: str) -> Iterator[Any]:
    with pymongo.MongoClient[dict[str, Any]](url) as client:
        client.drop_database("tallyd")
        yield client["tallyd"]


def claim() -> Rollup:
    documents = {kind: [] for kind in KINDS} | {TOTALS: [Document(MOVIE.key, MOVIE, None, {"view": 3})]}
    return Rollup(documents, list[Malformed]())


async def flush(sink: MongoSink) -> SinkResult:
    return await sink.write(claim(), SEQ, ZEROS)


def test_a_flush_beside_which_a_backfill_inserts_is_not_taken_for_applied(url: str, database: Any) -> None:
    seeded = TOTALS_DOCUMENT | {"view": 0, "download": 0, "base": {"view": 100, "download": 0}}
    assert raced(url, flush, (TOTALS.collection, seeded)) == SinkResult(1)
    found = database[TOTALS.collection].find_one()
    assert (found["view"], found["base"]["view"], found["flush_seq"]) == (3, 100, SEQ)


def test_a_flush_beside_which_another_inserts_the_same_claim_is_applied_once(url: str, database: Any) -> None:
    flushed = TOTALS_DOCUMENT | {"view": 3, "download": 0, "flush_seq": SEQ}
    assert raced(url, flush, (TOTALS.collection, flushed)) == SinkResult(0, already=1)
    assert database[TOTALS.collection].find_one()["view"] == 3


async def flush_alike(sink: MongoSink) -> SinkResult:
    both = [Document(entity.key, entity, None, {"view": 3}) for entity in (MOVIE, Entity("jav", "movie", "b"))]
    return await sink.write(Rollup({kind: [] for kind in KINDS} | {TOTALS: both}, []), SEQ, ZEROS)


def test_an_insert_beside_which_a_backfill_inserts_is_not_taken_for_applied(url: str, database: Any) -> None:
    seeded = TOTALS_DOCUMENT | {"view": 0, "download": 0, "base": {"view": 100, "download": 0}}
    assert raced(url, flush_alike, (TOTALS.collection, seeded), INSERT) == SinkResult(2, inserted=1)
    found = database[TOTALS.collection].find_one(MOVIE.key)
    assert (found["view"], found["base"]["view"], found["flush_seq"]) == (3, 100, SEQ)


def test_an_insert_beside_which_another_inserts_the_same_claim_is_applied_once(url: str, database: Any) -> None:
    flushed = TOTALS_DOCUMENT | {"view": 3, "download": 0, "flush_seq": SEQ}
    assert raced(url, flush_alike, (TOTALS.collection, flushed), INSERT) == SinkResult(1, already=1, inserted=1)
    assert [found["view"] for found in database[TOTALS.collection].find()] == [3, 3]


async def seed(sink: MongoSink) -> Any:
    return await adopt(sink, {MOVIE: {"view": 100}}, {}, ZEROS)


def test_a_backfill_beside_which_a_flush_inserts_still_sets_the_base(url: str, database: Any) -> None:
    documents, failures = raced(url, seed, (TOTALS.collection, TOTALS_DOCUMENT | {"view": 3, "flush_seq": SEQ}))
    assert failures == []
    found = database[TOTALS.collection].find_one()
    assert documents[MOVIE.key]["base"] == found["base"] == {"view": 100}
    assert (found["view"], found["flush_seq"]) == (3, SEQ)


def test_a_backfill_beside_which_another_inserts_keeps_that_ones_base(url: str, database: Any) -> None:
    documents, _ = raced(url, seed, (TOTALS.collection, TOTALS_DOCUMENT | {"view": 0, "base": {"view": 99}}))
    assert documents[MOVIE.key]["base"] == {"view": 99}


def test_a_day_beside_which_a_flush_inserts_still_gets_its_base(url: str, database: Any) -> None:
    async def set_day(sink: MongoSink) -> None:
        history = History(load(environ={}), sink, None, {}, dry_run=False)  # type: ignore[arg-type]  # MySQL is not asked
        await history._set(DAILY, {Bucket(MOVIE, "2026-02-19"): {"view": 12}})

    flushed = TOTALS_DOCUMENT | {"_id": DAY, "date": "2026-02-19", "view": 3, "flush_seq": SEQ}
    raced(url, set_day, (DAILY.collection, flushed))
    found = database[DAILY.collection].find_one()
    assert (found["view"], found["base"]) == (3, {"view": 12})


def test_a_dead_letter_beside_which_a_flush_inserts_is_not_taken_for_applied(url: str, database: Any) -> None:
    async def bury() -> Letter:
        sink = MongoSink(MongoSection(url=url))
        await sink.dead_letters.bury(0, 4, claim(), [Failure(TOTALS.collection, MOVIE.key, "")], ZEROS)
        [letter] = [letter async for letter in sink.dead_letters.each()]
        await sink.close()
        return letter

    letter = asyncio.run(bury())
    flushed = TOTALS_DOCUMENT | {"view": 10, "flush_seq": SEQ}
    done = raced(url, lambda sink: sink.dead_letters.retry(letter), (TOTALS.collection, flushed))
    assert done is Retried.APPLIED
    assert database[TOTALS.collection].find_one()["view"] == 13
