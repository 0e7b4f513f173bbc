"""What twenty open dashboards cost single events: the 99th percentile of their latency with and without.

The dashboards are requests, as the page makes them, from a process of its own: half of them show the overview, half
"Health". Each is opened during the first seconds of a round, with all that a page loads, and left open then. What a
browser does besides is none of tallyd's, and twenty browsers would take both cores.

`python -m bench.dashboards URL SECONDS` is that process.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from urllib.parse import urlencode

import httpx

from bench import paced
from bench.ground import INGEST, Ground, GroundError
from bench.measure import Bar, Row, in_turn
from bench.paced import Latencies
from bench.reads import DATABASE, PREFIX, fill
from bench.settings import Settings
from bench.single import CONNECTIONS, PATH, counted_run
from daemon.domain.window import days_between
from daemon.web.dashboard import PATH as PAGE
from tests.kit.commands import ROOT
from tests.kit.system import with_database

DASHBOARDS = 20
SHARE_OF_MAXIMUM = 0.5
ROUND_PARTS = 4
"""A round is so many times as long as one of wrk, because the page asks every 2 to 30 seconds."""
OPENED_WITHIN_S = 4.0
BARS = (Bar("ratio", "at most", 1.1),)

TYPES, COUNTERS, LISTS_S, LIST_DAYS = ("movie", "actor", "tag"), ("view", "download"), 30, 30
LIST = "top/jav/{type}?counter={counter}&window=30d&limit=10&compare=1&enrich=1"
OVERVIEW = {"status": 15, "summary/jav?days=90&compare=1&top=0": 15}
HEALTH = {"status": 2, "dead?limit=20": 15}
"""What a page asks, behind PREFIX → every how many seconds. An overview also has lists."""


def measure(ground: Ground, settings: Settings) -> list[Row]:
    """One row. Fills MongoDB first, unless an earlier run on this stack did."""
    fill(ground, settings.read_entities)
    mongo = with_database(ground.stack.mongo, DATABASE)
    seconds = ROUND_PARTS * settings.http_s
    watched: list[Latencies] = []
    # On the way to a browser on this machine no key is needed.
    with ground.served(INGEST, MONGO__URL=mongo, DASHBOARD__ENABLED="true") as served:
        ground.forget()
        ground.warm_dedupe()
        counted_run(ground, served, PATH, events=1, connections=CONNECTIONS, seconds=1)
        fastest = counted_run(ground, served, PATH, events=1, connections=CONNECTIONS, seconds=settings.http_s)
        rate = fastest.per_second * SHARE_OF_MAXIMUM

        def answer() -> Latencies:
            served.check()
            ground.rest()
            return paced.run(served.url, PATH, per_second=rate, seconds=seconds, connections=CONNECTIONS)

        def beside(_: int) -> float:
            with _open(served.url, seconds):
                watched.append(answer())
            return watched[-1].p99_ms

        rounds = in_turn(settings.rounds, beside, lambda _: answer().p99_ms, again_max=settings.again_max)
    return [
        paced.row(
            name="dashboards",
            what=f"99th percentile of {rate:,.0f} single events/s, half of the maximum, beside {DASHBOARDS} dashboards"
            f" of {settings.read_entities:,} entities",
            rounds=rounds,
            peer_name="the same without dashboards",
            bars=BARS,
            watched=watched,
        )
    ]


@contextmanager
def _open(url: str, seconds: float) -> Iterator[None]:
    """The dashboards, for the time of the block. Raises GroundError unless every answer was good."""
    command = [sys.executable, "-m", "bench.dashboards", url, str(seconds)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as opened:
        yield
        said = opened.communicate(timeout=60)[0]
        if opened.returncode:
            raise GroundError(f"The dashboards were not answered well:\n{said[-2000:]}")


async def _watch(url: str, seconds: float) -> None:
    limits = httpx.Limits(max_connections=DASHBOARDS * 6)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client, asyncio.timeout(None) as ends:
        ends.reschedule(asyncio.get_running_loop().time() + seconds)
        await asyncio.gather(*(_dashboard(client, number) for number in range(DASHBOARDS)))


async def _dashboard(client: httpx.AsyncClient, number: int) -> None:
    await asyncio.sleep(OPENED_WITHIN_S * number / DASHBOARDS)
    page = await _get(client, PAGE)
    named = re.findall(r'(?:src|href)="(dashboard/[^"]+)"', page.text)
    await asyncio.gather(*(_get(client, f"/{name}") for name in (*named, f"{PREFIX[1:]}domains")))
    is_overview = bool(number % 2)
    asked = OVERVIEW if is_overview else HEALTH
    repeated = [_repeat(client, PREFIX + path, every_s) for path, every_s in asked.items()]
    await asyncio.gather(*repeated, *([_lists(client)] if is_overview else []))


async def _lists(client: httpx.AsyncClient) -> None:
    """The lists of each type, and the course of each entity in them."""
    today = dt.datetime.now(dt.UTC).date()
    days = days_between(today - dt.timedelta(LIST_DAYS - 1), today)
    while True:
        for type_ in TYPES:
            paths = (PREFIX + LIST.format(type=type_, counter=counter) for counter in COUNTERS)
            lists = await asyncio.gather(*(_get(client, path) for path in paths))
            ids = {row["entity_id"] for each in lists for row in each.json()["rows"]}
            if ids:
                asked = urlencode({"id": sorted(ids), "from": days[0], "to": days[-1]}, doseq=True)
                await _get(client, f"{PREFIX}series/jav/{type_}?{asked}")
        await asyncio.sleep(LISTS_S)


async def _repeat(client: httpx.AsyncClient, path: str, every_s: float) -> None:
    while True:
        await _get(client, path)
        await asyncio.sleep(every_s)


async def _get(client: httpx.AsyncClient, path: str) -> httpx.Response:
    """A page that is told to come back does so."""
    answer = await client.get(path)
    if answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
        await asyncio.sleep(float(answer.headers["retry-after"]))
        return await _get(client, path)
    return answer.raise_for_status()


def main() -> None:
    """Exit code 0: every request was answered 200."""
    try:
        asyncio.run(_watch(sys.argv[1], float(sys.argv[2])))
    except TimeoutError:
        return  # the time is up


if __name__ == "__main__":
    main()
