"""Takes an import's events and checkpoints to Redis, or nowhere for a dry run.

Repeating is safe: events are deduplicated, and a checkpoint is overwritten. So if Redis does not answer, it is asked
again for `import.store_wait_ms_max`, or until the import is told to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import NamedTuple, TypeVar

from daemon.buffer.confirm import Memory
from daemon.buffer.connection import Connection, opened
from daemon.buffer.counters import Counters, Limits
from daemon.buffer.imports import RESTARTED, Checkpoint, Imports, RestartedError
from daemon.buffer.keys import by_shard
from daemon.buffer.layout import Layout
from daemon.buffer.outcome import Counted
from daemon.buffer.wire import unlimited
from daemon.config import Config
from daemon.domain.event import Event
from daemon.errors import LayoutError, RedisStoreError, StoreError
from daemon.retry import jittered

PAUSE_FIRST_S = 0.25
PAUSE_MAX_S = 4.0

T = TypeVar("T")


class Taken(NamedTuple):
    """The result of one call: the events that were new, and how often the call was repeated."""

    events: int
    repeats: int


class DryRun:
    """Takes everything and stores nothing."""

    async def reached(self, first_line: str) -> list[Checkpoint]:  # noqa: ARG002 - as RedisStore
        return []

    async def count(self, events: Sequence[Event]) -> Taken:
        return Taken(len(events), 0)

    async def save(self, first_line: str, reached: Checkpoint, replaces: Checkpoint | None) -> None:
        pass

    async def settle(self) -> None:
        pass


class RedisStore:
    """The shards' counters and the records of what was imported. Methods raise StoreError."""

    def __init__(
        self, config: Config, connections: Sequence[Connection], imports: Imports, stopping: threading.Event
    ) -> None:
        limits = Limits.of(config)
        self._counters = [Counters(connection, shard, limits) for shard, connection in enumerate(connections)]
        self._connections = connections
        self._answered: dict[int, Memory] = {}
        """Shard → what answered its first call."""
        self._section = config.redis
        self._imports = imports
        self._wait_s = config.import_.store_wait_ms_max / 1000
        self._stopping = stopping

    async def reached(self, first_line: str) -> list[Checkpoint]:
        found, _ = await self._insist(lambda: self._imports.find(first_line))
        return found

    async def save(self, first_line: str, reached: Checkpoint, replaces: Checkpoint | None) -> None:
        for shard, memory in self._answered.items() if self._connections[0].is_of_cluster else ():
            await self._insist(self._connections[shard].ping)
            if await self._counters[shard].connected() != memory:
                raise RestartedError(RESTARTED)
        await self._insist(lambda: self._imports.save(first_line, reached, replaces))

    async def count(self, events: Sequence[Event]) -> Taken:
        parts = by_shard(events, len(self._counters), attrgetter("entity"))
        calls = [self._count(self._counters[shard], part) for shard, part in parts.items()]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)  # all end before the first failure is raised
        counted, repeats = 0, 0
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            counted, repeats = counted + outcome.events, max(repeats, outcome.repeats)
        return Taken(counted, repeats)

    async def settle(self) -> None:
        """Returns once Redis can no longer forget what it answered, see `ingest/unconfirmed.py`.

        Raises RestartedError if it was restarted meanwhile."""
        safe_s = time.monotonic() + self._section.unsynced_ms / 1000
        give_up_s = safe_s + self._wait_s
        for shard, memory in self._answered.items():
            while True:
                told, _ = await self._insist(partial(self._connections[shard].confirm, self._section.timeout_ms))
                if told.history != memory.history:
                    raise RestartedError(RESTARTED)
                if time.monotonic() >= safe_s and (told.held or not told.wanted):
                    break
                if time.monotonic() >= give_up_s:
                    raise RedisStoreError("The replicas of Redis do not confirm what was imported. Run it again.")
                await asyncio.sleep(PAUSE_FIRST_S)

    async def _count(self, counters: Counters, events: Sequence[Event]) -> Taken:
        request = unlimited(events)
        (outcome,), repeats = await self._insist(lambda: counters.ingest([request]))
        self._answered.setdefault(counters.shard, await counters.connected())
        assert isinstance(outcome, Counted), "a request without a limit is never limited"
        return Taken(outcome.new, repeats)

    async def _insist(self, attempt: Callable[[], Awaitable[T]]) -> tuple[T, int]:
        """The result of the first attempt that succeeds, and how many failed before."""
        loop = asyncio.get_running_loop()
        give_up_at, pause_s, failures = loop.time() + self._wait_s, PAUSE_FIRST_S, 0
        while True:
            try:
                return await attempt(), failures
            except (LayoutError, RestartedError):
                raise
            except StoreError:
                failures += 1
                if self._stopping.is_set() or loop.time() + pause_s > give_up_at:
                    raise
            await asyncio.sleep(jittered(pause_s))
            pause_s = min(pause_s * 2, PAUSE_MAX_S)


Store = RedisStore | DryRun


@contextlib.asynccontextmanager
async def opened_store(config: Config, stopping: threading.Event, *, dry_run: bool) -> AsyncIterator[Store]:
    """Connects to Redis, unless it is a dry run. Raises StoreError if Redis cannot be reached, LayoutError if its
    layout is another."""
    if dry_run:
        yield DryRun()
        return
    layout = Layout(config)
    connections = [Connection(config.redis, layout, shard) for shard in range(config.redis.shards)]
    try:
        async with opened(config.redis) as redis:
            await connections[0].ping()
            yield RedisStore(config, connections, Imports(redis, layout.keys), stopping)
    finally:
        for connection in connections:
            await connection.close()
