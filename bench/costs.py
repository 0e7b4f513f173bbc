"""The costs that the guard watches, each beside a calibration taken in the same round.

Costs are CPU time by the kernel's account where that is possible: a neighbour on the machine takes wall time from us,
and hardly any CPU time. Wall time is watched, too, because a sleep costs no CPU.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import uvloop

from bench import batch, events, memory, processes, single, wrk
from bench.flush import FlushBench
from bench.ground import Ground, Served

HTTP_S = 2
"""Seconds of one run of wrk; the kernel counts CPU time in hundredths."""
PLAIN_COMMANDS = 200_000
FEW, MANY = 2_000, 20_000
"""Entities of the flushes that must cost the same an entity."""
DEDUPE_EVENTS = 250_000
DEDUPE_STRINGS = 100_000

Costs = dict[str, list[float]]
"""Name of a cost or calibration → what it was in each round."""


class Meter:
    """Measures costs on one ground, round by round. `close` it at the end."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._stack = ExitStack()
        self._tallyd, self._bare = self._stack.enter_context(single.both(ground))
        self._pipeline = self._stack.enter_context(ground.pipeline())
        runner = self._stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        self._flush = FlushBench(ground, runner)
        self._stack.callback(self._flush.close)
        self._plain = batch.plain_commands(PLAIN_COMMANDS)
        self.costs: Costs = {}

    def close(self) -> None:
        self._stack.close()

    def prepare(self) -> None:
        """Indexes, and a dedupe memory with something in it; and its bytes, which are the same each time.

        No round is there to warm up: the first is dearer, and the smallest of all counts.
        """
        self._add("dedupe_bytes", memory.dedupe_bytes(self._ground, DEDUPE_EVENTS))
        self._add("string_bytes", memory.string_bytes(self._ground, DEDUPE_STRINGS))
        self._flush.prepare()
        self._ground.warm_dedupe()

    def round(self) -> None:
        """One of everything, each beside its calibration."""
        self._redis_plain()
        self._http("bare", self._bare, single.PATH, 1, single.CONNECTIONS)
        self._http("single", self._tallyd, single.PATH, 1, single.CONNECTIONS)
        self._http("batch", self._tallyd, batch.PATH, batch.EVENTS, batch.CONNECTIONS)
        self._flush.drain()
        self._flushed("flush", events.ENTITIES)
        self._flushed_plainly()
        self._flushed("flush_few", FEW)
        self._flushed("flush_many", MANY)

    def _add(self, name: str, cost: float) -> None:
        self.costs.setdefault(name, []).append(cost)

    def _redis_plain(self) -> None:
        before_s = self._ground.redis_cpu_s()
        self._pipeline.send(self._plain, batch.EVENTS)
        self._add("redis_plain", (self._ground.redis_cpu_s() - before_s) / PLAIN_COMMANDS)

    def _http(self, name: str, served: Served, path: str, events_per_request: int, connections: int) -> None:
        """Adds NAME_wall, NAME_worker and NAME_redis: seconds an event, of the clock and of the CPU."""
        self._ground.rest()
        served.check()
        workers = processes.tree(served.pid)
        with self._spent(lambda: processes.cpu_s(workers)) as spent:
            run = wrk.run(served.url + path, events=events_per_request, connections=connections, seconds=HTTP_S)
        count = run.requests * events_per_request
        self._add(f"{name}_wall", run.us / 1e6 / count)
        self._add(f"{name}_worker", spent["ours"] / count)
        self._add(f"{name}_redis", spent["redis"] / count)

    def _flushed(self, name: str, entities: int) -> None:
        """Adds NAME_wall, NAME_cpu, NAME_redis and NAME_mongo: seconds an entity."""
        self._flush.make_dirty(entities)
        with self._spent(time.process_time) as spent:
            per_second = self._flush.drain(entities)
        self._add_flush(name, per_second, spent, entities)

    def _flushed_plainly(self) -> None:
        rollup = self._flush.rolled_up(0)
        with self._spent(time.process_time) as spent:
            per_second = self._flush.write_plain(rollup)
        self._add_flush("plain", per_second, spent, events.ENTITIES)

    def _add_flush(self, name: str, per_second: float, spent: dict[str, float], entities: int) -> None:
        self._add(f"{name}_wall", 1 / per_second)
        self._add(f"{name}_cpu", spent["ours"] / entities)
        self._add(f"{name}_redis", spent["redis"] / entities)
        self._add(f"{name}_mongo", spent["mongo"] / entities)

    @contextmanager
    def _spent(self, ours: Callable[[], float]) -> Iterator[dict[str, float]]:
        """Seconds of CPU that were used inside the block, there at its end. `ours`: the clock of whom it is about."""
        clocks = {"ours": ours, "redis": self._ground.redis_cpu_s, "mongo": self._ground.mongo_cpu_s}
        spent: dict[str, float] = {}
        before = {name: clock() for name, clock in clocks.items()}
        yield spent
        spent.update({name: clock() - before[name] for name, clock in clocks.items()})
