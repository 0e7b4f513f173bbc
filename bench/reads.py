"""The read API in front of a million entities with ten million daily documents, one worker.

Totals by id out of the cache and out of MongoDB, top lists with no cache at all, exact totals, a cold summary; and what
five hundred reads a second leave of the ingest. The documents are made by MongoDB itself, with the popularity of a
catalogue (the n-th is counted in proportion to n to the power of -0.8); that takes two minutes and 1 GB. With --quick
there are 20,000 entities.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from msgspec.structs import replace
from pymongo.database import Database

from bench import single, wrk
from bench.ground import BARE, INGEST, Ground, Served
from bench.measure import Bar, Row, in_turn
from bench.settings import Settings
from daemon.config import domain_counters
from daemon.domain.entity import Entity
from daemon.domain.rollup import DOMAIN_DAILY, Document
from daemon.domain.window import days_between
from daemon.flush.flusher import Flusher
from daemon.rollups.mongo import MongoSink
from tests.kit.system import with_database

SCRIPT = Path(__file__).with_name("reads.lua")
PREFIX = "/api/v1/analytics/"
DATABASE = "bench_reads"
DAYS = 10
WARM_ENTITIES = 1_000
PACE_PER_S = 500
PACED_CONNECTIONS = 250
READ_MS = 10
"""What a read is taken to need. A connection then waits for the rest of its half second, so a read that needs 20 ms
more or less changes the pace by 4 %."""
PAUSE_MS = PACED_CONNECTIONS * 1000 // PACE_PER_S - READ_MS
PACE_TOLERANCE = 0.05
PACE_TRIES = 3
"""A run that was not at the pace is no measurement, and made again."""
READERS_S_MAX = 600
SAMPLES = 100
SUMMARY_SAMPLES = 1
SUMMARY_DAYS = 90
SHARDS = 4
"""Of the days of the domain: more than most systems have."""
FIRST_ENTITY = "0f8fad5b-d9cb-469f-a165-100000000000"
UNCACHED: dict[str, str] = {"READ__CACHE_TTL_MS": "0", "READ__TOP_CACHE_TTL_MS": "0"}


def measure(ground: Ground, settings: Settings) -> list[Row]:
    """Fills MongoDB first, unless an earlier run on this stack did."""
    entities = settings.read_entities
    fill(ground, entities)
    mongo = with_database(ground.stack.mongo, DATABASE)
    at_most_10_ms = (Bar("value", "at most", 10),)
    with ground.served(INGEST, MONGO__URL=mongo) as served, ground.served(BARE) as bare:
        rows = [
            _warm(served, settings),
            _cold(served, settings),
            *_beside_ingest(ground, served, bare, settings, WARM_ENTITIES // 10),
            *_beside_ingest(ground, served, bare, settings, entities),
        ]
    top = f"{PREFIX}top/jav/movie?limit=10&window="
    with ground.served(INGEST, MONGO__URL=mongo, **UNCACHED) as served:
        rows += [_asked(served, f"top-{window}", top + window, at_most_10_ms) for window in ("total", "day", "7d")]
        rows.append(_asked(served, "total-exact", f"{PREFIX}totals/jav/movie/{FIRST_ENTITY}?fresh=1"))
        sums = f"{PREFIX}summary/jav?days=90&top=0"
        rows.append(_p99(_asked(served, "summary-90d", sums, (Bar("value", "at most", 20),))))
        rows.append(_asked(served, "series-90d", f"{PREFIX}series/jav?bucket=weekly&from=2020-01-01"))
        rows.append(_asked(served, "summary", f"{PREFIX}summary/jav?days=7", times=SUMMARY_SAMPLES))
    return rows


def fill(ground: Ground, entities: int) -> None:
    """The documents of thousands of entities, the indexes the flusher makes, and the sums of the domain: those that it
    builds, and as many days of a shard as a summary reads."""
    database = ground.mongo_client[DATABASE]
    if database.analytics_entity_daily.estimated_document_count() != entities * DAYS:
        make_documents(database, entities)

    async def index() -> None:
        config = ground.config(MONGO__URL=with_database(ground.stack.mongo, DATABASE))
        sink = MongoSink(config.mongo)
        await sink.ensure_ranking(domain_counters(config, "jav"))
        async with Flusher(config) as flusher:
            await flusher.prepare()
            await flusher.domains.build()
        generation = (await sink.builds.read()).built
        await sink.set_documents(DOMAIN_DAILY, [(each, {"$set": each.amounts}) for each in _days(generation)])
        await sink.close()

    asyncio.run(index())


def _days(generation: int) -> Iterator[Document]:
    today = dt.datetime.now(dt.UTC).date()
    for shard in range(SHARDS):
        for day in days_between(today - dt.timedelta(SUMMARY_DAYS - 1), today):
            for entity_type in ("movie", "actor", "tag"):
                id_ = DOMAIN_DAILY.id_of(generation, "jav", entity_type, day, str(shard))
                yield Document(id_, Entity("jav", entity_type, ""), day, {"view": 1_000_000, "download": 100_000})


def make_documents(database: Database[dict[str, Any]], entities: int) -> None:
    today = dt.datetime.now(dt.UTC).date()
    days = days_between(today - dt.timedelta(DAYS - 1), today)
    database.seed.replace_one({"_id": 0}, {}, upsert=True)
    thousand = {"$range": [0, 1_000]}
    number = {"$add": [{"$multiply": ["$thousands", 1_000]}, "$ones"]}
    id_ = {"$concat": ["0f8fad5b-d9cb-469f-a165-", {"$toString": {"$add": [100_000_000_000, "$number"]}}]}
    rank = {"$add": ["$number", 1]}
    views = {"$toLong": {"$add": [1, {"$divide": [10_000_000, {"$pow": [rank, 0.8]}]}]}}
    share = {"$divide": [{"$add": [0.5, {"$rand": {}}]}, DAYS]}
    common = {"domain": "jav", "entity_type": "movie", "flush_seq": {"$literal": 1}, "updated_at": "$$NOW"}
    database.seed.aggregate(
        [
            {"$project": {"thousands": {"$range": [0, entities // 1_000]}}},
            {"$unwind": "$thousands"},
            {"$project": {"thousands": 1, "ones": thousand}},
            {"$unwind": "$ones"},
            {"$project": {"number": number}},
            {"$project": {"entity_id": id_, "view": views}},
            {"$project": {**common, "_id": {"$concat": ["jav:movie:", "$entity_id"]}, "entity_id": 1, "view": 1,
                          "download": {"$toLong": {"$divide": ["$view", 7]}}}},
            {"$out": "analytics_entity_totals"},
        ]
    )  # fmt: skip
    database.analytics_entity_totals.aggregate(
        [
            {"$project": {"domain": 1, "entity_type": 1, "entity_id": 1, "flush_seq": 1, "updated_at": 1, "view": 1,
                          "date": days}},
            {"$unwind": "$date"},
            {"$set": {"_id": {"$concat": ["$_id", ":", "$date"]},
                      "view": {"$toLong": {"$ceil": {"$multiply": ["$view", share]}}}}},
            {"$set": {"download": {"$toLong": {"$divide": ["$view", 7]}}}},
            {"$out": "analytics_entity_daily"},
        ]
    )  # fmt: skip


def _warm(served: Served, settings: Settings) -> Row:
    def ours(_: int) -> float:
        return _run(served, entities=WARM_ENTITIES, connections=64, seconds=settings.http_s).per_second

    found = in_turn(settings.rounds, ours, again_max=settings.again_max)
    return Row(
        name="totals-warm",
        what=f"totals by id out of the cache, {WARM_ENTITIES} entities, 64 connections, 1 worker",
        unit="reads/s",
        ours=found.values[0],
        bars=(Bar("value", "at least", 5_000),),
        others=found.others,
    )


def _cold(served: Served, settings: Settings) -> Row:
    """Random ones of them all, at a steady pace: nearly all of them out of MongoDB."""
    runs: list[wrk.Result] = []

    def ours(_: int) -> float:
        runs.append(_read_while(lambda: time.sleep(settings.http_s), served, settings.read_entities))
        return runs[-1].p99_us / 1e3

    found = in_turn(settings.rounds, ours, again_max=settings.again_max)
    return Row(
        name="totals-cold",
        what=f"p99 of totals by id, {_pace(runs)} a second at random of {settings.read_entities:,} entities",
        unit="ms",
        ours=found.values[0],
        bars=(Bar("value", "at most", 20),),
        others=found.others,
        p50_ms=wrk.median_ms([run.p50_us for run in runs]),
        p99_ms=wrk.median_ms([run.p99_us for run in runs]),
    )


def _beside_ingest(ground: Ground, served: Served, bare: Served, settings: Settings, entities: int) -> list[Row]:
    """Ingest at its limit beside the readers and, in turn, beside readers who ask the bare app, and alone: what the
    readers themselves take from the two cores is none of tallyd's."""
    ground.forget()
    ground.warm_dedupe()

    def ingest() -> float:
        run = single.counted_run(
            ground, served, single.PATH, events=1, connections=single.CONNECTIONS, seconds=settings.http_s
        )
        return run.per_second

    readers: list[wrk.Result] = []

    def beside(asked: Served) -> Callable[[int], float]:
        def run(_: int) -> float:
            rates: list[float] = []
            readers.append(_read_while(lambda: rates.append(ingest()), asked, entities))
            return rates[-1]

        return run

    found = in_turn(settings.rounds, beside(served), beside(bare), lambda _: ingest(), again_max=settings.again_max)
    name, (ours, beside_bare, alone) = f"ingest-beside-reads-{entities}", found.values
    return [
        Row(
            name=name + suffix,
            what=f"single events beside {_pace(readers)} reads a second of {entities:,} entities",
            unit="events/s",
            ours=ours,
            peer=peer,
            peer_name=peer_name,
            bars=(Bar("ratio", "at least", 0.95),),
            others=found.others,
        )
        for suffix, peer, peer_name in (
            ("", beside_bare, "the same readers asking a bare Granian app instead"),
            ("-alone", alone, "the same without readers"),
        )
    ]


def _asked(served: Served, name: str, path: str, bars: tuple[Bar, ...] = (), times: int = SAMPLES) -> Row:
    """One question after another, on one connection."""
    took_ms: list[float] = []
    with httpx.Client(base_url=served.url, timeout=60) as client:
        for _ in range(times):
            started = time.perf_counter()
            client.get(path).raise_for_status()
            took_ms.append((time.perf_counter() - started) * 1e3)
    p99_ms = sorted(took_ms)[len(took_ms) * 99 // 100]
    return Row(name=name, what=f"GET {path.removeprefix(PREFIX)}", unit="ms", ours=took_ms, bars=bars, p99_ms=p99_ms)


def _p99(row: Row) -> Row:
    return replace(row, what=f"p99 of {row.what}", ours=[row.p99_ms])


def _run(served: Served, *, entities: int, connections: int, seconds: int) -> wrk.Result:
    """As fast as it goes. Raises WrkError unless every answer was good."""
    served.check()
    command = _command(served, entities, connections, seconds, 0)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 30)
    return wrk.result_of(done.stdout + done.stderr)


def _read_while(work: Callable[[], None], served: Served, entities: int) -> wrk.Result:
    """Reads at the pace for as long as the work takes. If that was not the pace, both are done again. Raises
    WrkError."""
    served.check()
    for _ in range(PACE_TRIES):
        command = _command(served, entities, PACED_CONNECTIONS, READERS_S_MAX, PAUSE_MS)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as readers:
            try:
                work()
            finally:
                readers.send_signal(signal.SIGINT)  # its time is up, it takes that to mean
            reads = wrk.result_of(readers.communicate(timeout=30)[0])
        if abs(reads.per_second / PACE_PER_S - 1) <= PACE_TOLERANCE:
            return reads
    raise wrk.WrkError(f"{reads.per_second:.0f} reads a second are not {PACE_PER_S}: the machine is too busy.")


def _pace(runs: list[wrk.Result]) -> str:
    """The pace that was reached."""
    return f"{median(run.per_second for run in runs):.0f}"


def _command(served: Served, entities: int, connections: int, seconds: int, pause_ms: int) -> list[str]:
    return [
        *(wrk.program(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s", "-s", str(SCRIPT)),
        *(served.url + PREFIX + "totals/jav/movie/", "--", *map(str, (entities, connections, pause_ms))),
    ]
