"""The sets of the dedupe memory whose windows are over are deleted, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from harness import System, event, wait_until

from daemon.buffer.connection import Arg, Connection
from daemon.buffer.forgetting import SCAN_KEYS, Forgetting
from daemon.buffer.keys import shard_keys
from daemon.buffer.layout import Layout
from daemon.errors import StoreError

SEEN = shard_keys(0).seen


def sets(system: System) -> set[str]:
    return {key.decode() for key in system.redis.scan_iter(f"{SEEN}:*", count=10_000)}


def generation(system: System) -> int:
    gen = system.redis.hget(SEEN, "gen")
    assert gen
    return int(gen)


def remember(system: System, generation: int, buckets: int = 3) -> set[str]:
    """Sets as `ingest.lua` makes them."""
    names = {f"{SEEN}:{generation}:{bucket}" for bucket in range(buckets)}
    for name in names:
        system.redis.sadd(name, 1)
    return names


@asynccontextmanager
async def forgetting(system: System) -> AsyncIterator[Forgetting]:
    config = system.config()
    connection = Connection(config.redis, Layout(config))
    yield Forgetting(connection, 0, config.dedupe.window_s)
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
    foreign = [f"{SEEN}:1", f"{SEEN}:x:1", f"{SEEN}:1:x", f"{SEEN}:-1:1", "anl:{1}:seen:1:1", "laravel:seen:1:1"]
    for name in foreign:
        system.redis.set(name, "not yours")
    assert forget(system) == 0
    assert system.redis.exists(*foreign) == len(foreign)


def test_a_generation_ahead_of_the_clock_is_the_current_one(system: System) -> None:
    """Redis' clock went back: `ingest.lua` goes on in the window it was in."""
    system.count(event())
    now = generation(system)
    system.redis.hset(SEEN, "gen", now + 1)
    needed, over = remember(system, now), remember(system, now - 1)
    forget(system)
    assert sets(system) >= needed
    assert not sets(system) & over


@pytest.mark.parametrize("state", ["word", "-5", "1e99", str(2**40), None])
def test_a_damaged_state_forgets_nothing_that_is_needed(system: System, state: str | None) -> None:
    system.count(event())
    now = generation(system)
    needed, over = sets(system) | remember(system, now - 1), remember(system, now - 2)
    system.redis.delete(SEEN)
    if state:
        system.redis.hset(SEEN, "gen", state)
    else:
        system.redis.set(SEEN, "no hash at all")
    assert forget(system) == len(over)
    assert sets(system) == needed


def test_it_looks_once_a_window(system: System) -> None:
    system.count(event())
    now = generation(system)

    async def work() -> None:
        async with forgetting(system) as memory:
            over = remember(system, now - 2)
            assert await memory.run() == len(over)
            again = remember(system, now - 2)
            looks = commands(system, "scan")
            assert await memory.run() == 0
            assert commands(system, "scan") == looks
            system.redis.hset(SEEN, "gen", now + 1)
            assert await memory.run() == len(again)

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
        memory = Forgetting(connection, 0, config.dedupe.window_s)
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
