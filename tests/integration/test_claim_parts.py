"""A batch is taken in part by part while it is frozen; whatever happens in between, what is handed out is all of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from daemon.buffer.connection import Connection
from daemon.buffer.counters import Ahead, Busy, Claim, Counters, Limits
from daemon.buffer.layout import Layout
from daemon.buffer.wire import Amounts
from daemon.domain.claim import NO_CLAIM, ClaimName
from tests.kit.system import System, event

ONE_SYSTEM = True

ENTITIES = 12
LEASE_OVER_S = 0.01
Meddle = Callable[[], Awaitable[None]]


class Content(dict[str, int]):
    """Entity → amount of all its fields."""

    def add(self, amounts: Amounts) -> None:
        for entity, pairs in amounts:
            self[entity] = self.get(entity, 0) + sum(int(amount) for _, amount in pairs)


class Meddled(Counters):
    """Something happens before a call of `claim.lua`, the first being number 1."""

    calls = 0
    before: Mapping[int, Meddle]

    async def _freeze(self, *args: Any) -> list[Any]:
        self.calls += 1
        if self.calls in self.before:
            await self.before[self.calls]()
        return await super()._freeze(*args)


def counters(system: System, connection: Connection, before: Mapping[int, Meddle] = {}) -> Meddled:
    config = system.config()
    made = Meddled(connection, 0, Limits.of(config))
    made.before = before
    return made


async def claim(of: Counters, owner: str, lease_ms: int = 1) -> Any:
    """An entity a call. The floor follows what was acknowledged, as a flusher reads it anew."""
    floor = NO_CLAIM
    while isinstance(
        found := await of.claim(
            Content, owner=owner, floor=floor, lease_ms=lease_ms, entities_max=100, fields_max=1_000, us_max=1
        ),
        Ahead,
    ):
        floor = ClaimName(found.acked, "")
    return found


def count(system: System, value: int = 1) -> None:
    system.count(*(event(entity_id=str(n), value=value) for n in range(ENTITIES)))


def expected(value: int = 1) -> dict[str, int]:
    return {f"jav:movie:{n}": value for n in range(ENTITIES)}


@asynccontextmanager
async def two(system: System) -> AsyncIterator[tuple[Connection, Connection]]:
    """The connections of two flushers."""
    config = system.config()
    made = Connection(config.redis, Layout(config)), Connection(config.redis, Layout(config))
    yield made
    for connection in made:
        await connection.close()


async def dies() -> None:
    raise asyncio.CancelledError


def test_each_part_is_handed_over_once(system: System) -> None:
    count(system)

    async def work() -> None:
        async with two(system) as (own, _):
            first = counters(system, own)
            claimed = await claim(first, "a")
            assert isinstance(claimed, Claim)
            assert (claimed.content, claimed.again, first.calls) == (expected(), False, ENTITIES)
            repeated = await claim(first, "a")
            assert (repeated.content, repeated.again, repeated.seq) == (expected(), True, claimed.seq)

    asyncio.run(work())


def test_who_finishes_another_s_batch_gets_all_of_it(system: System) -> None:
    count(system)

    async def work() -> None:
        async with two(system) as (one, other):
            with pytest.raises(asyncio.CancelledError):
                await claim(counters(system, one, {5: dies}), "a")
            await asyncio.sleep(LEASE_OVER_S)
            second = counters(system, other)
            claimed = await claim(second, "b")
            assert (claimed.content, claimed.again) == (expected(), True)
            assert second.calls == ENTITIES - 4 + 1

    asyncio.run(work())


def overtaken(system: System, by: Callable[[Connection], Awaitable[None]]) -> Any:
    """What a flusher gets that was frozen past its lease after two parts, while another was at work."""

    async def work() -> Any:
        async with two(system) as (own, other):

            async def meanwhile() -> None:
                await asyncio.sleep(LEASE_OVER_S)
                await by(other)

            return await claim(counters(system, own, {3: meanwhile}), "a")

    return asyncio.run(work())


def test_who_was_overtaken_in_between_gets_all_of_it(system: System) -> None:
    """Another one froze some parts and died."""
    count(system)

    async def another(connection: Connection) -> None:
        with pytest.raises(asyncio.CancelledError):
            await claim(counters(system, connection, {4: dies}), "b")
        await asyncio.sleep(LEASE_OVER_S)

    claimed = overtaken(system, another)
    assert (claimed.content, claimed.again) == (expected(), True)


@pytest.mark.parametrize("is_sealed", [True, False])
def test_parts_of_a_batch_that_is_gone_are_forgotten(system: System, *, is_sealed: bool) -> None:
    """Another one took the batch over and acknowledged it, and more was counted since."""
    count(system)

    async def another(connection: Connection) -> None:
        second = counters(system, connection)
        claimed = await claim(second, "b")
        assert claimed.content == expected()
        assert await second.ack(claimed.name, claimed.acked, [], [])
        await asyncio.to_thread(count, system, 7)
        if is_sealed:
            assert (await claim(second, "b")).content == expected(7)
            await asyncio.sleep(LEASE_OVER_S)

    assert overtaken(system, another).content == expected(7)


def test_who_was_overtaken_and_finds_a_batch_leased_is_told(system: System) -> None:
    count(system)

    async def another(connection: Connection) -> None:
        await claim(counters(system, connection), "b", lease_ms=60_000)

    assert isinstance(overtaken(system, another), Busy)


def test_a_redis_that_came_back_without_its_last_second_is_asked_again(system: System) -> None:
    """What it then freezes may bear the names of parts that were taken in before, and hold something else."""
    count(system)
    key = "anl:{0}:claim"

    async def work() -> None:
        async with two(system) as (own, _):

            async def comes_back() -> None:
                """As if the second part had never been frozen, and then another under its name."""
                names = sorted(field for field in system.redis.hkeys(key) if field.startswith(b"payload:"))
                first, second = (system.redis.hget(key, name) for name in names)
                assert first != second
                system.redis.hset(key, names[1], first or b"")
                await own.close()

            claimed = await claim(counters(system, own, {3: comes_back}), "a")
            assert claimed.again
            assert sorted(claimed.content.values()) == [1] * (ENTITIES - 2) + [2]

    asyncio.run(work())
