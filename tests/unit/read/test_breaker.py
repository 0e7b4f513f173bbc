"""The breaker of a store: open after failures in a row, one trial at a time, closed by an answer."""

from __future__ import annotations

import asyncio

from daemon.errors import MongoAwayError
from daemon.read.breaker import FAILURES_MAX, PAUSE_S, Breaker
from tests.kit.loop import in_loop


class Mongo:
    """Answers a ping when the test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pings = 0
        self.away = True
        self.gate = asyncio.Event()
        self.gate.set()

    async def ping(self) -> None:
        self.pings += 1
        await self.gate.wait()
        if self.away:
            raise MongoAwayError("away")


def opened(mongo: Mongo) -> Breaker:
    breaker = Breaker("MongoDB", mongo.ping, lambda: mongo.now_s)
    for _ in range(FAILURES_MAX):
        assert not breaker.open
        breaker.failed()
    assert breaker.open
    return breaker


@in_loop
async def test_it_opens_after_failures_in_a_row_only() -> None:
    mongo = Mongo()
    breaker = Breaker("MongoDB", mongo.ping, lambda: mongo.now_s)
    for _ in range(10):
        breaker.failed()
        breaker.answered()
        assert await breaker.lets_pass()
    assert mongo.pings == 0


@in_loop
async def test_while_it_is_open_nobody_asks_until_it_is_time_and_then_one_does() -> None:
    mongo = Mongo()
    breaker = opened(mongo)
    assert not any([await breaker.lets_pass() for _ in range(100)])
    assert mongo.pings == 0
    mongo.now_s += PAUSE_S
    mongo.gate.clear()
    trial = asyncio.create_task(breaker.lets_pass())
    await asyncio.sleep(0)
    assert not any([await breaker.lets_pass() for _ in range(100)])
    mongo.gate.set()
    assert not await trial
    assert mongo.pings == 1
    assert not await breaker.lets_pass()


@in_loop
async def test_a_trial_that_is_answered_lets_all_pass() -> None:
    mongo = Mongo()
    breaker = opened(mongo)
    mongo.now_s += PAUSE_S
    mongo.away = False
    assert await breaker.lets_pass()
    assert not breaker.open
    assert all([await breaker.lets_pass() for _ in range(100)])
    assert mongo.pings == 1


@in_loop
async def test_a_trial_whose_reader_goes_away_does_not_stop_the_next_one() -> None:
    mongo = Mongo()
    breaker = opened(mongo)
    mongo.now_s += PAUSE_S
    mongo.gate.clear()
    trial = asyncio.create_task(breaker.lets_pass())
    await asyncio.sleep(0)
    trial.cancel()
    await asyncio.wait([trial])
    mongo.now_s += PAUSE_S
    mongo.gate.set()
    mongo.away = False
    assert await breaker.lets_pass()
