"""A domain's sums per day: added up once, remembered for as long as they may be, and got done bit by bit."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from daemon.config import Read
from daemon.domain.window import days_between
from daemon.errors import StoreError
from daemon.read.endpoints.summary import REST_FACTOR, DaySums
from daemon.rollups.mongo import MongoSink
from tests.kit.system import System, event

TODAY = dt.datetime.now(dt.UTC).date()
DAYS = days_between(TODAY - dt.timedelta(3), TODAY)
OPEN_TTL_S, CLOSED_TTL_S = 10, 3_600
LIMITS = Read(sum_timeout_ms=10_000, top_cache_ttl_ms=OPEN_TTL_S * 1_000, closed_day_ttl_s=CLOSED_TTL_S)

ReadViews = Callable[[], Coroutine[Any, Any, list[int]]]


class Clock:
    """Each look at it takes `step_s`."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now_s = 0.0
        self.step_s = step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


@pytest.fixture
def counted(system: System) -> System:
    """One view each day, of a movie or a tag."""
    kinds = ("movie", "tag")
    system.count(*(event(entity_type=kinds[n % 2], occurred_at=f"{day}T00:00:00Z") for n, day in enumerate(DAYS)))
    system.flush()
    return system


def with_sums(system: System, clock: Clock, work: Callable[[ReadViews], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        mongo = MongoSink(system.config().mongo)
        sums = DaySums(mongo, LIMITS, clock)

        async def read() -> list[int]:
            return (await sums.read("jav", ("movie", "actor", "tag"), ("view", "download"), DAYS, TODAY))["view"]

        try:
            await work(read)
        finally:
            await mongo.close()

    asyncio.run(run())


def test_days_that_are_over_are_remembered_for_longer(counted: System) -> None:
    clock, daily = Clock(), counted.mongo.analytics_entity_daily

    async def work(read: ReadViews) -> None:
        assert await read() == [1, 1, 1, 1]
        daily.update_many({}, {"$set": {"view": 5}})
        clock.now_s += OPEN_TTL_S - 1
        assert await read() == [1, 1, 1, 1]
        clock.now_s += 1
        assert await read() == [1, 1, 5, 5]
        clock.now_s += CLOSED_TTL_S
        daily.update_many({}, {"$set": {"base": {"view": 2}}})
        assert await read() == [7, 7, 7, 7]

    with_sums(counted, clock, work)


def test_what_did_not_get_done_in_time_goes_on_at_the_next_request(counted: System) -> None:
    async def work(read: ReadViews) -> None:
        for _ in DAYS[1:]:
            with pytest.raises(StoreError, match="it goes on"):
                await read()
        assert await read() == [1, 1, 1, 1]

    with_sums(counted, Clock(step_s=3.0), work)


def test_a_day_that_took_long_is_remembered_for_longer(counted: System) -> None:
    clock = Clock(step_s=1.0)  # so each day takes a second to add up

    async def work(read: ReadViews) -> None:
        assert await read() == [1, 1, 1, 1]
        clock.step_s = 0.0
        counted.mongo.analytics_entity_daily.update_many({}, {"$set": {"view": 5}})
        clock.now_s += REST_FACTOR - 4
        assert await read() == [1, 1, 1, 1]
        clock.now_s += 4
        assert await read() == [1, 1, 5, 5]

    with_sums(counted, clock, work)
