"""Whatever a promoted replica lacks, in any order of sending, flushing, crashing and failing over: each event that was
acknowledged counts once.

Hypothesis plays producers, two flushers and the failures. The scripts, `Drain` and `MongoSink` are the real ones, and
so are Redis and MongoDB. A flusher stops before and after each of its requests to a store. It goes on, is overtaken, or
dies there.

A promoted replica is another Redis that was given a prefix of the first one's append-only file. With `appendfsync
always` that file is the replication stream, and Redis leaves out a half of a transaction at its end.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import datetime as dt
import hashlib
import json
import logging
import os
import random
import re
import secrets
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pymongo.asynchronous.pool import AsyncConnection

from daemon.buffer import scripts
from daemon.buffer.confirm import Confirmation, Memory
from daemon.buffer.connection import Connection
from daemon.buffer.counters import Behind, Counters, Empty, Limits
from daemon.buffer.layout import Layout
from daemon.buffer.wire import unlimited
from daemon.config import domain_counters
from daemon.domain.claim import ClaimName
from daemon.domain.event import Event
from daemon.errors import HeldError
from daemon.flush import drain
from daemon.flush.drain import Drain
from daemon.ingest.decode import Batch, Decoder, build_catalogue
from daemon.rollups import floors
from daemon.rollups.floors import Floor, fence
from daemon.rollups.mongo import MongoSink
from daemon.verify.audit.audit import auditor
from tests.kit.oracle import expected_rollups
from tests.kit.pair import CutBack
from tests.kit.system import ROLLUPS, System, event

EXAMPLES = os.environ.get("CRASH_EXAMPLES", "")
"""So many, random each time, and a failure is shrunk; without it a fixed few."""
EXAMPLES_FIXED = 20
OPS_MAX = 120
FLUSHERS = 2
ENTITIES = 4
DAY = dt.date(2026, 2, 19)
DRAIN_ROUNDS_MAX = 200
LONG_S = 3_600.0
CONFIRMED_SHARE = 0.6
KINDS = (
    *["send"] * 30, *["flush"] * 46, *["confirm"] * 10, *["die"] * 3, *["send_unknown"] * 5, *["resend"] * 3,
    *["fail_over"] * 3,
)  # fmt: skip

Ops = list[tuple[str, int]]
OPS: st.SearchStrategy[Ops] = st.lists(
    st.tuples(st.sampled_from(("nothing", *KINDS)), st.integers(0, 2**16)), min_size=OPS_MAX // 2, max_size=OPS_MAX
)

_actor: contextvars.ContextVar[Actor | None] = contextvars.ContextVar("actor", default=None)


class Actor:
    """A coroutine that stops before and after each request to a store, until `step` or `crash`."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self._asked = 0
        self._answered = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None
        self._is_dying = False

    @property
    def running(self) -> bool:
        return self._task is not None

    async def begin(self, work: Coroutine[Any, Any, Any]) -> None:
        context = contextvars.copy_context()
        context.run(_actor.set, self)
        self._task = asyncio.create_task(work, context=context)
        await self._settle()

    async def step(self, choice: int) -> Any:
        """Lets one of the requests that wait go on. Returns what the coroutine returned, once it has."""
        self._waiting.pop(choice % len(self._waiting)).set_result(None)
        return await self._settle()

    async def finish(self) -> Any:
        result = None
        while self.running:
            result = await self.step(0)
        return result

    async def crash(self) -> None:
        if self._task is not None:
            self._is_dying, ready = True, _loop()
            self._task.cancel()
            for future in self._waiting:
                future.cancel()
            await asyncio.wait({self._task})
            while ready._ready:  # noqa: ASYNC110  (what was cancelled ends)
                await asyncio.sleep(0)
            self._is_dying = False
        self._task = None
        self._waiting.clear()

    async def pause(self) -> None:
        if self._is_dying:
            raise asyncio.CancelledError
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def has_asked(self) -> None:
        self._asked += 1
        self._answered.clear()

    def has_answer(self) -> None:
        self._asked -= 1
        if not self._asked:
            self._answered.set()

    async def _settle(self) -> Any:
        """Until every request that was sent has its answer, and nothing else can go on."""
        assert self._task is not None
        ready = _loop()
        while not self._task.done():
            await asyncio.sleep(0)
            if self._asked:
                await self._answered.wait()
            elif self._waiting and not ready._ready:
                return None
        task, self._task = self._task, None
        return task.result()


def _loop() -> Any:
    """asyncio's: `_ready` is what it runs in its next turn."""
    return asyncio.get_running_loop()


async def _asking(call: Coroutine[Any, Any, Any]) -> Any:
    """One request to Redis, as a step of the actor that makes it."""
    actor = _actor.get()
    if actor is None:
        return await call
    try:
        await actor.pause()
        actor.has_asked()
        try:
            reply = await call
        finally:
            actor.has_answer()
        await actor.pause()
        return reply
    finally:
        call.close()


@pytest.fixture(autouse=True)
def stepping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request to a store is a step: those to Redis, and MongoDB's on the wire."""
    run, command = Connection.run, Connection.command
    send, receive = AsyncConnection.send_message, AsyncConnection.receive_message
    monkeypatch.setattr(Connection, "run", lambda *args: _asking(run(*args)))
    monkeypatch.setattr(Connection, "command", lambda *args: _asking(command(*args)))

    asking: dict[AsyncConnection, Actor] = {}

    async def send_message(self: AsyncConnection, message: bytes, *args: Any) -> None:
        actor = None if b"helloOk" in message else _actor.get()
        if actor is not None:
            await actor.pause()
            actor.has_asked()
            asking[self] = actor
        await send(self, message, *args)

    async def receive_message(self: AsyncConnection, request_id: int | None) -> Any:
        actor = asking.pop(self, None)
        try:
            reply = await receive(self, request_id)
        finally:
            if actor is not None:
                actor.has_answer()
        if actor is not None:
            await actor.pause()
        return reply

    monkeypatch.setattr(AsyncConnection, "send_message", send_message)
    monkeypatch.setattr(AsyncConnection, "receive_message", receive_message)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Stream:
    """The replication stream of a Redis, as its append-only file has it."""

    def __init__(self, server: CutBack) -> None:
        self._server = server
        self.client = server.client()
        self.begin = 0

    @property
    def length(self) -> int:
        return self._server.remember()

    def start_anew(self) -> None:
        self.client.flushall()
        self.begin = self.length

    def upto(self, length: int) -> bytes:
        """The whole transactions of so many bytes."""
        with self._server.file.open("rb") as file:
            file.seek(self.begin)
            found = file.read(length - self.begin)
        reader, whole, end, is_open = _Commands(found), 0, 0, False
        for command, end in reader:
            is_open = command == b"MULTI" or (is_open and command != b"EXEC")
            if not is_open:
                whole = end
        return found[:whole]

    def take_in(self, commands: bytes) -> None:
        """Becomes a Redis that was given exactly these."""
        self.start_anew()
        if not commands:
            return
        n = sum(1 for _ in _Commands(commands))
        connection = self.client.connection_pool.get_connection()
        connection.send_packed_command([commands])
        for _ in range(n):
            connection.read_response()
        self.client.connection_pool.release(connection)


class _Commands:
    """(first word, end) of each whole command in these bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        at, data = 0, self._data
        while (line := data.find(b"\r\n", at)) >= 0:
            n, at, first = int(data[at + 1 : line]), line + 2, b""
            for word in range(n):
                line = data.find(b"\r\n", at)
                if line < 0:
                    return
                length = int(data[at + 1 : line])
                at = line + 2 + length + 2
                if at > len(data):
                    return
                first = first if word else data[line + 2 : line + 2 + length].upper()
            yield first, at


class Call(NamedTuple):
    """An acknowledged call that replicas may not have."""

    end: int
    """Of the stream, once it was answered."""
    ids: list[int]


class Trial:
    """One example."""

    def __init__(self, world: World, *, resends: bool) -> None:
        self.world, self.resends = world, resends
        self.sent: list[Event] = []
        self.acknowledged: set[int] = set()
        self.unknown: list[list[int]] = []
        self.ring: list[Call] = []
        self.failovers = 0
        self.asked = 0
        world.trial = self

    async def run(self, ops: Ops) -> None:
        world = self.world
        await world.empty()
        self.confirmed = world.primary.length
        for kind, number in ops:
            if kind != "nothing":
                await getattr(self, kind)(random.Random(number))
        for flusher in world.flushers:
            await flusher.actor.crash()
            flusher.restart()
        await self.resend(random.Random(0))
        while self.unknown:
            await self.send_unknown(random.Random(0))
        self.confirmed = world.primary.length
        await self.drain()

    async def lack_what_was_confirmed(self) -> None:
        """A replica takes over without what replicas had confirmed, as no crash does. Of it, a claim was flushed."""
        world, dice = self.world, random.Random(0)
        await world.empty()
        kept = 0
        for _ in range(2):
            kept = world.primary.length
            for number in range(3):
                await self.send(random.Random(number))
            while self.unknown:
                await self.send_unknown(dice)
            await self.drain()
        world.promote(world.primary.upto(kept))
        self.ring.clear()
        self.failovers += 1
        await self.drain()

    async def drain(self) -> None:
        for each in range(DRAIN_ROUNDS_MAX):
            flusher = self.world.flushers[each % FLUSHERS]
            await flusher.actor.begin(flusher.drain.apply_next())
            if isinstance(await flusher.actor.finish(), Empty):
                return
        raise AssertionError("not drained")

    def expected(self) -> dict[str, Any]:
        counted = [(self.sent[n].entity, "view", DAY, 1) for n in self.acknowledged]
        return expected_rollups(counted)

    # Producers --------------------------------------------------------------------------------------------------

    async def _ingest(self, ids: list[int]) -> None:
        await self.world.ingest.ingest([unlimited([self.sent[n] for n in ids])])

    async def send(self, dice: random.Random) -> None:
        ids = []
        for _ in range(dice.randint(1, 3)):
            if self.sent and dice.random() < 0.15:
                ids.append(dice.randrange(len(self.sent)))
            else:
                ids.append(len(self.sent))
                self.sent.append(self.world.event(len(self.sent), dice.randrange(ENTITIES)))
        fate = dice.random()
        if fate >= 0.1:
            await self._ingest(ids)
        if fate < 0.2:  # it was not sent, or its answer was lost
            self.unknown.append(ids)
        else:
            self._has_answer(ids)

    async def send_unknown(self, dice: random.Random) -> None:
        if self.unknown:
            ids = self.unknown.pop(dice.randrange(len(self.unknown)))
            await self._ingest(ids)
            self._has_answer(ids)

    def _has_answer(self, ids: list[int]) -> None:
        self.acknowledged.update(ids)
        if self.resends:
            self.ring.append(Call(self.world.primary.length, ids))

    async def resend(self, _: random.Random) -> None:
        """The worker has a new connection."""
        for call in self.ring:
            await self._ingest(call.ids)
        end = self.world.primary.length
        self.ring = [Call(end, call.ids) for call in self.ring]

    # Redis ------------------------------------------------------------------------------------------------------

    async def confirm(self, dice: random.Random) -> None:
        self.confirmed = dice.randint(self.confirmed, self.world.primary.length)
        self.ring = [call for call in self.ring if call.end > self.confirmed]

    def confirmation(self, *, waits: bool) -> Confirmation:
        """As of a primary with one replica, which answers a flusher in time or not."""
        self.asked += 1
        held = waits and random.Random(self.asked).random() < self.world.confirmed_share
        if held:
            self.confirmed = self.world.primary.length
        return Confirmation(f"history {self.failovers}", f"history {self.failovers - 1}", 1, held)

    async def fail_over(self, dice: random.Random) -> None:
        stream = self.world.primary
        kept = stream.upto(dice.randint(self.confirmed, stream.length))
        self.world.promote(kept)
        self.confirmed = self.world.primary.length
        self.ring = [Call(1 << 62, call.ids) for call in self.ring]  # until they are sent again
        self.failovers += 1

    # Flushers ---------------------------------------------------------------------------------------------------

    async def flush(self, dice: random.Random) -> None:
        flusher = dice.choice(self.world.flushers)
        if not flusher.actor.running:
            await flusher.actor.begin(flusher.drain.apply_next())
        for _ in range(dice.randint(1, 16)):
            if flusher.actor.running:
                await flusher.actor.step(dice.randrange(5))

    async def die(self, dice: random.Random) -> None:
        flusher = dice.choice(self.world.flushers)
        await flusher.actor.crash()
        flusher.restart()


class Flusher:
    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.actor = Actor()
        self.restart()

    def restart(self) -> None:
        """Another process, as far as the others can tell."""
        world = self.world
        self.drain = Drain(
            Counters(world.connection(), 0, Limits.of(world.config)),
            world.mongo,
            world.flush,
            owner=f"{self.number}:{secrets.token_hex(4)}",
            zeros={domain: domain_counters(world.config, domain) for domain in world.config.domains},
            mapped=(),
        )


class World:
    """Two Redis, one of which is the primary, and MongoDB. For many trials, one after the other."""

    def __init__(self, system: System, servers: tuple[CutBack, CutBack]) -> None:
        self.system = system
        self.streams = [Stream(server) for server in servers]
        self.config = system.config(MONGO__TIMEOUT_MS="20000", REDIS__TIMEOUT_MS="60000")
        # At 1 us a script, each freezes one entity. No lease lasts.
        self.flush = msgspec.structs.replace(
            self.config.flush, lease_ms=0, claim_us_max=1, claim_entities_max=3, fall_back_s=LONG_S
        )
        self.connections: list[Connection] = []
        self.trial: Trial
        self.confirmed_share = CONFIRMED_SHARE
        """Of a flusher's questions whether the replica holds its claim."""
        self.decoder = Decoder(build_catalogue(self.config), batch_events_max=10, clock=time.time)

    async def open(self) -> None:
        self.mongo = MongoSink(self.config.mongo)
        self.generation = (await self.mongo.builds.read()).built
        self.ingest = Counters(self.connection(), 0, Limits.of(self.config))
        self.flushers = [Flusher(self, number) for number in range(FLUSHERS)]

    async def close(self) -> None:
        await self._end()
        await self.mongo.close()

    @property
    def primary(self) -> Stream:
        return self.streams[0]

    def connection(self) -> Connection:
        connection = Connection(self.config.redis, Layout(self.config))
        connection.confirm = partial(self._confirm, connection)  # type: ignore[method-assign]  # as of a replica
        self.connections.append(connection)
        self._lead(connection)
        return connection

    async def _confirm(self, connection: Connection, timeout_ms: int) -> Confirmation:
        async def ask() -> Confirmation:
            await connection.connect()
            return self.trial.confirmation(waits=timeout_ms > 0)

        told: Confirmation = await _asking(ask())
        return told

    def _lead(self, connection: Connection) -> None:
        at = urlsplit(self.primary._server.url)
        connection._options |= {"host": at.hostname, "port": at.port}

    def event(self, number: int, entity: int) -> Event:
        one = event(event_id=f"e{number}", entity_id=f"m{entity}", occurred_at=f"{DAY}T12:00:00Z")
        decoded = self.decoder.batch(json.dumps([one]).encode())
        assert isinstance(decoded, Batch)
        return decoded.events[0]

    async def _end(self) -> None:
        for flusher in self.flushers:
            await flusher.actor.crash()
        for connection in self.connections:
            await connection.close()
        self.connections.clear()

    async def empty(self) -> None:
        await self._end()
        self.primary.start_anew()
        mongo = self.system.mongo
        for name in mongo.list_collection_names():
            if name != "analytics_domain_builds":
                mongo[name].delete_many({})
        await fence(self.mongo, 0, self.generation)
        self.ingest = Counters(self.connection(), 0, Limits.of(self.config))
        await self.ingest.look()
        for flusher in self.flushers:
            flusher.restart()

    def promote(self, commands: bytes) -> None:
        self.streams.reverse()
        self.primary.take_in(commands)
        for connection in self.connections:
            if connection._protocol is not None:
                connection._protocol.drop("the primary is gone")
            self._lead(connection)

    async def broken(self) -> list[Any]:
        section = msgspec.structs.replace(self.config.redis, url=self.primary._server.url)
        async with auditor(msgspec.structs.replace(self.config, redis=section)) as by:
            return list((await by.audit(thorough=False)).broken)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, server_folder: Path) -> Iterator[tuple[CutBack, CutBack]]:
    with (
        CutBack(server_folder / "crash-one", appendfsync="always") as one,
        CutBack(server_folder / "crash-two", appendfsync="always") as two,
    ):
        yield one, two


class DifferenceError(AssertionError):
    def __init__(self, lost: int, doubled: int, trial: Trial, ops: Ops) -> None:
        super().__init__(f"{lost} lost, {doubled} doubled, {trial.failovers} failovers: {ops}")
        self.lost, self.doubled = lost, doubled


def compare(trial: Trial, ops: Ops) -> None:
    expected, found = trial.expected(), trial.world.system.rollups()
    for name in ROLLUPS:
        there, wanted = _flat(found[name]), _flat(expected[name])
        lost, doubled = (wanted - there).total(), (there - wanted).total()
        if lost or doubled:
            raise DifferenceError(lost, doubled, trial, ops)


def _flat(documents: dict[str, dict[str, int]]) -> Counter[tuple[str, str]]:
    return Counter({(id_, field): n for id_, fields in documents.items() for field, n in fields.items()})


def play(system: System, servers: tuple[CutBack, CutBack], examples: int, *, resends: bool = True) -> None:
    """Raises DifferenceError if a count is wrong."""
    system.flush()  # whole domains are built
    world = World(system, servers)
    wrong: list[Exception] = []
    with asyncio.Runner() as runner:
        runner.run(world.open())

        @settings(
            max_examples=examples, database=None, derandomize=not EXAMPLES, suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, *([Phase.shrink] if EXAMPLES else [])],
        )  # fmt: skip
        @given(ops=OPS)
        def whatever(ops: Ops) -> None:
            if wrong and not EXAMPLES:
                raise wrong[0]  # played again, it may take another course: the clocks are real ones
            trial = Trial(world, resends=resends)
            try:
                runner.run(trial.run(ops))
                compare(trial, ops)
            except (DifferenceError, HeldError) as error:
                wrong.append(error)
                raise
            assert not runner.run(world.broken()), ops

        try:
            whatever()
        finally:
            runner.run(world.close())


def test_each_acknowledged_event_counts_once(system: System, servers: tuple[CutBack, CutBack]) -> None:
    play(system, servers, int(EXAMPLES or EXAMPLES_FIXED))


def test_the_same_with_a_clock_that_stands_still(
    system: System, servers: tuple[CutBack, CutBack], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a replica whose clock is far behind: two histories give the same seqs to different counts."""
    for name, now in (("CLAIM", r"tonumber\(time\[1\]\) \* 1000000 .*"), ("AMEND", r"time\[1\] \* 1e6 \+ time\[2\]")):
        script = getattr(scripts, name)
        source, n = re.subn(now, "0", script.source)
        assert n == 1
        sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        monkeypatch.setattr(scripts, name, dataclasses.replace(script, source=source, sha=sha))
    play(system, servers, int(EXAMPLES or EXAMPLES_FIXED))


def take_over_without_what_was_confirmed(system: System, servers: tuple[CutBack, CutBack], *, confirms: bool) -> None:
    """Raises HeldError, or DifferenceError if a count is wrong and the shard is not held."""
    system.flush()
    world = World(system, servers)
    world.confirmed_share = 1.0 if confirms else 0.0
    with asyncio.Runner() as runner:
        runner.run(world.open())
        try:
            trial = Trial(world, resends=True)
            runner.run(trial.lack_what_was_confirmed())
            compare(trial, [])
        finally:
            runner.run(world.close())


def test_a_replica_that_lacks_a_confirmed_claim_is_held(system: System, servers: tuple[CutBack, CutBack]) -> None:
    with pytest.raises(HeldError):
        take_over_without_what_was_confirmed(system, servers, confirms=True)


# A test that cannot fail proves nothing: with a rule switched off, it does ---------------------------------------


def test_events_are_lost_if_nobody_sends_again_what_replicas_may_lack(
    system: System, servers: tuple[CutBack, CutBack]
) -> None:
    with pytest.raises(DifferenceError) as difference:
        play(system, servers, EXAMPLES_FIXED, resends=False)
    assert difference.value.lost


def test_events_are_lost_in_silence_if_no_claim_is_confirmed(system: System, servers: tuple[CutBack, CutBack]) -> None:
    with pytest.raises(DifferenceError) as difference:
        take_over_without_what_was_confirmed(system, servers, confirms=False)
    assert difference.value.lost
    assert not difference.value.doubled


def test_events_are_doubled_if_a_redis_that_came_back_older_is_not_amended(
    system: System, servers: tuple[CutBack, CutBack], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def adopt(self: Drain, behind: Behind, floor: Floor, _: Memory) -> None:
        await self._counters.amend(floor.name, behind.acked, [], [], [])

    monkeypatch.setattr(Drain, "_meet_behind", adopt)
    with pytest.raises(DifferenceError) as difference:
        play(system, servers, EXAMPLES_FIXED)
    assert difference.value.doubled


def test_events_are_doubled_if_the_floor_is_raised_without_comparing(
    system: System, servers: tuple[CutBack, CutBack], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a late flusher, whose claim is of a history that was lost."""

    async def raised(mongo: MongoSink, shard: int, name: ClaimName, _: int, *more: Any) -> Any:
        return await floors.advance(mongo, shard, name, (await floors.read_floor(mongo, shard)).seq, *more)

    monkeypatch.setattr(drain, "advance", raised)
    with pytest.raises((DifferenceError, HeldError)):
        play(system, servers, EXAMPLES_FIXED * 20)  # it ends at the first one that is wrong
