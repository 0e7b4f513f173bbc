"""The sets of the dedupe memory whose windows are over are deleted, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from daemon.buffer.connection import Arg, Connection
from daemon.buffer.dedupe import SCAN_KEYS, Forgetting
from daemon.buffer.keys import Keys
from daemon.buffer.layout import Layout
from daemon.errors import StoreError
from tests.kit.system import System, event, wait_until

ONE_SYSTEM = True

KEYS = Keys("anl")
SEEN = KEYS.shard(0).seen


def sets(system: System) -> set[str]:
    return {key.decode() for key in system.redis.scan_iter("anl:{*}:seen:*", count=10_000)}


def generation(system: System) -> int:
    gen = system.redis.hget(SEEN, "gen")
    assert gen
    return int(gen)


def remember(system: System, generation: int, buckets: int = 3, shard: int = 0) -> set[str]:
    """Sets as `ingest.lua` makes them."""
    names = {f"{KEYS.shard(shard).seen}:{generation}:{bucket}" for bucket in range(buckets)}
    for name in names:
        system.redis.sadd(name, 1)
    return names


@asynccontextmanager
async def forgetting(system: System) -> AsyncIterator[Forgetting]:
    config = system.config()
    connection = Connection(config.redis, Layout(config))
    yield Forgetting([connection], config.dedupe.window_s)
    await connection.close()


def forget(system: System) -> int:
    async def work() -> int:
        async with forgetting(system) as memory:
            return await memory.run()

    return asyncio.run(work())


def test_windows_that_are_over_are_forgotten_and_no_others(system: System) -> None:
    system.count(event())
    current = sets(system)
    now = generation(system)
    needed = remember(system, now - 1) | remember(system, now + 1)
    over = remember(system, now - 2, SCAN_KEYS * 2) | remember(system, now - 3) | remember(system, 0)
    assert forget(system) == len(over)
    assert sets(system) == current | needed
    assert forget(system) == 0


def test_what_is_not_ours_stays(system: System) -> None:
    system.count(event())
    foreign = [f"{SEEN}:1", f"{SEEN}:x:1", f"{SEEN}:1:x", f"{SEEN}:-1:1", "anl:{x}:seen:1:1", "laravel:{0}:seen:1:1"]
    for name in foreign:
        system.redis.set(name, "not yours")
    assert forget(system) == 0
    assert system.redis.exists(*foreign) == len(foreign)


def test_each_shard_s_memory_is_looked_at(system: System) -> None:
    system.env["TALLYD_REDIS__SHARDS"] = "2"
    system.count(*(event(entity_id=str(n)) for n in range(20)))
    now = generation(system)
    needed = sets(system) | remember(system, now - 1, shard=1)
    over = remember(system, now - 2) | remember(system, now - 2, shard=1) | remember(system, now - 2, shard=13)
    assert forget(system) == len(over)
    assert sets(system) == needed


@pytest.mark.parametrize("windows", [2, 3, 10_000])
def test_a_clock_that_went_back_forgets_nothing(system: System, windows: int) -> None:
    """It may have been wrong since the machine started, and be put right before the next event."""
    system.count(event())
    ahead = remember(system, generation(system) + windows) | remember(system, generation(system) + windows - 1)
    assert forget(system) == 0
    assert sets(system) >= ahead


def test_it_stops_when_it_is_told(system: System) -> None:
    system.count(event())
    over = remember(system, generation(system) - 2, SCAN_KEYS * 3)
    asked: list[int] = []

    def stopping() -> bool:
        asked.append(1)
        return len(asked) == 3

    async def work() -> None:
        async with forgetting(system) as memory:
            deleted = await memory.run(stopping)
            assert 0 < deleted < len(over)
            assert await memory.run() == len(over) - deleted

    asyncio.run(work())


def test_an_event_counted_before_redis_clock_went_back_is_remembered(system: System) -> None:
    """`ingest.lua` goes on in the window it was in, which is the next one by the clock."""
    counted = event()
    system.count(counted)
    now = generation(system)
    (name,) = sets(system)
    system.redis.rename(name, name.replace(f":{now}:", f":{now + 1}:"))
    system.redis.hset(SEEN, "gen", now + 1)
    assert forget(system) == 0
    assert system.count(counted) == 0


def test_it_looks_once_a_window(system: System) -> None:
    system.count(event())
    now = generation(system)

    async def work() -> None:
        async with forgetting(system) as memory:
            over = remember(system, now - 2)
            assert await memory.run() == len(over)
            remember(system, now - 2)
            looks = commands(system, "scan")
            assert await memory.run() == 0
            assert commands(system, "scan") == looks

    asyncio.run(work())


def test_what_a_failure_left_is_forgotten_the_next_time(system: System) -> None:
    system.count(event())
    over = remember(system, generation(system) - 2, SCAN_KEYS * 3)

    class Failing(Connection):
        unlinks = 0

        async def command(self, *command: Arg) -> Any:
            self.unlinks += command[0] == "UNLINK"
            if self.unlinks == 2:
                raise StoreError("cut off")
            return await super().command(*command)

    async def work() -> None:
        config = system.config()
        connection = Failing(config.redis, Layout(config))
        memory = Forgetting([connection], config.dedupe.window_s)
        with pytest.raises(StoreError, match="cut off"):
            await memory.run()
        left = sets(system) & over
        assert 0 < len(left) < len(over)
        connection.unlinks = 3
        assert await memory.run() == len(left)
        await connection.close()

    asyncio.run(work())


def commands(system: System, name: str) -> int:
    return int(system.redis.info("commandstats").get(f"cmdstat_{name}", {"calls": 0})["calls"])


def test_the_flush_daemon_forgets(system: System) -> None:
    """With windows of a second."""
    system.env["TALLYD_DEDUPE__WINDOW_S"] = "1"
    system.count(event())
    assert sets(system)
    with system.flusher(FLUSH__INTERVAL_S="0.1"):
        wait_until(lambda: not sets(system), "the memory of the event is deleted")


def test_a_single_flush_forgets_too(system: System) -> None:
    system.count(event())
    over = remember(system, generation(system) - 2)
    system.flush()
    assert not sets(system) & over
