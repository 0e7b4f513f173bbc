"""Real code, one store call at a time: the caller decides which one goes on, and where one dies.

`Stepped` stands for an object whose coroutine methods are calls to a store. Each waits twice, before it is sent and
before its reply is handed over. One that is cancelled in between never sent it, or never got its reply.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from daemon.buffer.connection import Connection
from daemon.buffer.counters import Counters, Limits
from daemon.config import domain_counters, replica_tables
from daemon.flush import drain
from daemon.flush.drain import Drain
from daemon.replica.known import KnownIds
from daemon.rollups import floors
from daemon.rollups.mongo import MongoSink
from tests.kit.system import System

QUIET_POLL_S = 0.0005


class Actor:
    """A coroutine that stops at every step, until `step` or `crash`."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []
        self._busy = 0
        self._task: asyncio.Task[Any] | None = None

    @property
    def running(self) -> bool:
        return self._task is not None

    async def begin(self, work: Coroutine[Any, Any, Any]) -> None:
        assert self._task is None
        self._task = asyncio.create_task(work)
        await self._quiet()

    async def step(self, choice: int) -> None:
        """Lets one of the calls that wait go on (the five bulks wait at once)."""
        assert self._waiting
        self._waiting.pop(choice % len(self._waiting))[1].set_result(None)
        await asyncio.sleep(0)  # it goes on in the next turn of the loop; until then nothing shows that it does
        await self._quiet()

    async def step_until(self, name: str) -> None:
        """To where a call of this name waits to be sent or to be heard of, or to the end."""
        await self.step(0)
        while self.running and name not in (waiting for waiting, _ in self._waiting):
            await self.step(0)

    async def finish(self) -> Any:
        """To the end. Returns what the coroutine returned."""
        task = self._task
        assert task is not None
        while self.running:
            await self.step(0)
        return task.result()

    async def crash(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._task = None
        self._waiting.clear()

    @asynccontextmanager
    async def call(self, name: str) -> AsyncIterator[None]:
        await self._pause(name)
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
        await self._pause(name)

    async def _pause(self, name: str) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((name, future))
        await future

    async def _quiet(self) -> None:
        """Until every call that is under way has its reply."""
        assert self._task is not None
        while not self._task.done() and (self._busy or not self._waiting):  # noqa: ASYNC110  (many places change it)
            await asyncio.sleep(QUIET_POLL_S)
        if self._task.done():
            self._task.result()
            self._task = None


class Stepped:
    """`inner`, with its coroutine methods as steps of the actor. `whole`: those that step by themselves further in."""

    def __init__(self, inner: Any, actor: Actor, *, whole: tuple[str, ...] = (), **parts: Any) -> None:
        self._inner = inner
        self._actor = actor
        self._whole = whole
        self._parts = parts

    def __getattr__(self, name: str) -> Any:
        if name in self._parts:
            return self._parts[name]
        attribute = getattr(self._inner, name)
        if name in self._whole or not callable(attribute):
            return attribute
        if inspect.iscoroutinefunction(attribute):
            return lambda *args, **options: self._step(name, attribute(*args, **options))
        return attribute

    async def _step(self, name: str, call: Coroutine[Any, Any, Any]) -> Any:
        try:
            async with self._actor.call(name):
                return await call
        finally:
            call.close()  # one that was never sent


def _stepping(call: Callable[..., Coroutine[Any, Any, Any]]) -> Any:
    """A function of `rollups/floors.py`: a step of the actor whose MongoDB it is given."""

    async def stepped(mongo: Any, *args: Any, **options: Any) -> Any:
        if not isinstance(mongo, Stepped):
            return await call(mongo, *args, **options)
        return await mongo._step(call.__name__, call(mongo._inner, *args, **options))

    return stepped


for _call in (floors.read_floor, floors.note_older, floors.open_epoch, floors.advance, floors.read_decided):
    setattr(drain, _call.__name__, _stepping(_call))


class SteppedMongo(MongoSink):
    """Each of the five bulks is a step."""

    def __init__(self, section: Any, actor: Actor) -> None:
        super().__init__(section, decides=True)
        self._actor = actor

    async def _write_kind(self, *args: Any) -> Any:
        async with self._actor.call("bulk"):
            return await super()._write_kind(*args)


class SteppedCounters(Counters):
    """Each script of a claim and of an ack is a step."""

    def __init__(self, connection: Connection, limits: Limits, actor: Actor) -> None:
        super().__init__(connection, 0, limits)
        self._actor = actor

    async def _freeze(self, *args: Any) -> Any:
        async with self._actor.call("claim"):
            return await super()._freeze(*args)

    async def _ack(self, *args: Any) -> Any:
        async with self._actor.call("ack"):
            return await super()._ack(*args)


class Flusher:
    """A `Drain` that can be stopped anywhere."""

    def __init__(self, system: System, number: int) -> None:
        self.config = config = system.config()
        self.actor = Actor()
        self.mongo = SteppedMongo(config.mongo, self.actor)
        letters = Stepped(self.mongo.dead_letters, self.actor)
        self.stepped_mongo: Any = Stepped(self.mongo, self.actor, whole=("write",), dead_letters=letters)
        self.number = number
        self.known: KnownIds | None = None
        """Of the next restart."""

    def restart(self, connection: Connection) -> None:
        """Another process, as far as the others can tell."""
        limits = Limits.of(self.config)
        counters: Any = Stepped(SteppedCounters(connection, limits, self.actor), self.actor, whole=("claim", "ack"))
        self.drain = Drain(
            counters,
            self.stepped_mongo,
            self.config.flush,
            owner=f"{self.number}:{secrets.token_hex(4)}",
            zeros={domain: domain_counters(self.config, domain) for domain in self.config.domains},
            mapped=replica_tables(self.config).keys(),
            known=self.known,
        )
