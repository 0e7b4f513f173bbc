"""`tallyd_flush_failures` names the store that failed, whichever loop of the flusher met the failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from daemon.flush.flusher import Flusher
from daemon.metrics import FLUSH
from tests.kit.system import System

CLOSED = {"redis": "redis://127.0.0.1:1/0", "mongo": "mongodb://127.0.0.1:1/x", "mysql": "mysql://root@127.0.0.1:1/x"}
STORES = (*CLOSED, "none")
SOON = {"FLUSH__INTERVAL_S": "0.01", "FLUSH__RETRY_MS": "10", "MONGO__TIMEOUT_MS": "300"}

Loop = Callable[[Flusher], Coroutine[Any, Any, None]]


def failures() -> dict[str, float]:
    return {store: FLUSH.get_sample_value("tallyd_flush_failures_total", {"store": store}) or 0 for store in STORES}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pymongo, closed while it connects
@pytest.mark.parametrize(
    ("loop", "away"),
    [
        (lambda flusher: flusher._run_loops(lambda: None), "redis"),
        (lambda flusher: flusher._run_loops(lambda: None), "mongo"),
        (lambda flusher: flusher._drain_loop(flusher.shards[0]), "redis"),
        (lambda flusher: flusher._drain_loop(flusher.shards[0]), "mongo"),
        (lambda flusher: flusher._replica_loop(flusher.shards[0]), "redis"),
        (lambda flusher: flusher._replica_loop(flusher.shards[0]), "mysql"),
        (lambda flusher: flusher._forget_loop(), "redis"),
    ],
)
def test_a_failure_is_counted_for_the_store_that_is_away(system: System, loop: Loop, away: str) -> None:
    system.redis.zadd("anl:{0}:replica", {"jav:movie:m": 1})

    async def fail() -> None:
        async with Flusher(system.config(**SOON, **{f"{away.upper()}__URL": CLOSED[away]})) as flusher:
            running = asyncio.create_task(loop(flusher))
            while not flusher.trouble:  # noqa: ASYNC110  (nothing tells when it is set)
                await asyncio.sleep(0.01)
            flusher.stop()
            await running

    before = failures()
    asyncio.run(fail())
    assert {store for store, count in failures().items() if count > before[store]} == {away}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pymongo, closed while it connects
def test_a_stop_waits_for_no_store_that_is_away_at_the_start(system: System) -> None:
    patient = {"MONGO__URL": CLOSED["mongo"], "MONGO__TIMEOUT_MS": "120000", "FLUSH__STOP_TIMEOUT_S": "120"}

    async def start_and_stop() -> None:
        async with Flusher(system.config(**patient)) as flusher, asyncio.timeout(60):
            running = asyncio.create_task(flusher.run(lambda: None))
            await asyncio.sleep(0.2)
            flusher.stop()
            await running

    asyncio.run(start_and_stop())
