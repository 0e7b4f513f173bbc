"""Who talks to the stores: producers, ingest hosts with their rings and spools, flushers with their leases.

A flusher is a generator that stops before and after each request. So it may die there, be frozen, or be overtaken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.simulation.model import (
    AwayError,
    Content,
    Entry,
    Floor,
    HeldError,
    Memory,
    Mongo,
    Name,
    Pair,
    Store,
    add_up,
)

if TYPE_CHECKING:
    from tests.simulation.world import World

LEASE_US = 1_000_000
REPLICATED_US = 300_000
FALL_BACK_US = 10_000_000
UNSYNCED_US = 2_500_000
PARTS_MAX = 3

Steps = Generator[None]


class Link:
    """One client's connection to the primary of a pair."""

    def __init__(self, world: World, pair: Pair, client: object) -> None:
        self.world, self.pair, self.client = world, pair, client
        self.store: Store | None = None
        self.opened = 0
        self.memory = Memory(0, 0)

    def connect(self, *, may_break: bool = True) -> Store:
        """Raises AwayError if nobody answers, or if the connection turns out to be broken."""
        store = self.pair.reached_by(self.client, self.world.now)
        was, self.store = self.store, store
        if store is None:
            raise AwayError("Redis")
        if store is not was:
            self.opened += 1
            self.memory = Memory(store.history, store.epoch)
            if was is not None and may_break and self.world.dice.random() < 0.5:
                self.store = None
                raise AwayError("Redis")
        return store

    def run(self, script: str, shard: int, *args: Any) -> Any:
        return self.connect().run(script, shard, self.world.now, *args)


class Call(NamedTuple):
    """What Redis answered, or what waits in the spool."""

    shard: int
    events: Mapping[int, int]


class Kept(NamedTuple):
    """A call in the ring. `memory`: who answered; history 0: nobody knows. `at`: when (us)."""

    memory: Memory
    at: int
    call: Call


class Host:
    """An ingest host: one worker, its ring and its spool."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.up = True
        self.links: dict[Pair, Link] = {}
        self.spool: deque[Call] = deque()
        self.rings: dict[Pair, list[Kept]] = {}

    def link(self, pair: Pair) -> Link:
        if pair not in self.links:
            self.links[pair] = Link(self.world, pair, self)
        return self.links[pair]

    def send(self, call: Call) -> None:
        """Returns once the call may be answered 202."""
        try:
            self._count(call)
        except AwayError:
            self.spool.append(call)

    def _count(self, call: Call) -> None:
        """Raises AwayError. Redis may have counted the call all the same."""
        world, pair = self.world, self.world.pair_of[call.shard]
        link = self.link(pair)
        link.run("ingest", call.shard, call.events)
        if world.dice.random() < 0.02:
            link.store = None
            raise AwayError("the reply is lost")
        if world.rules.resend:
            self.rings.setdefault(pair, []).append(Kept(link.memory, world.now, call))

    def replay(self) -> None:
        """One segment of the spool. It is deleted once Redis has answered."""
        if self.spool:
            try:
                self._count(self.spool[0])
            except AwayError:
                return
            self.spool.popleft()

    def confirm(self, pair: Pair) -> None:
        """A turn of the ring's loop: lets go what is safe, and sends again what another history may lack."""
        ring = self.rings.get(pair)
        if not ring:
            return
        link, now = self.link(pair), self.world.now
        try:
            store = link.connect()
            here = link.memory
            ring[:] = [kept for kept in ring if kept.memory.epoch == here.epoch]
            if any(kept.memory != here for kept in ring):
                for n, kept in enumerate(ring):
                    if kept.memory != here:
                        link.run("ingest", kept.call.shard, kept.call.events)
                        ring[n] = Kept(here, now, kept.call)
            elif not pair.replicas or pair.held(store, store.position):
                ring[:] = [kept for kept in ring if kept.at > now - UNSYNCED_US]
        except AwayError:
            return

    def kill(self) -> None:
        """The worker, by SIGKILL. The kernel keeps the file of its ring, and nobody knows who answered those calls."""
        for ring in self.rings.values():
            ring[:] = [kept._replace(memory=Memory(0, kept.memory.epoch)) for kept in ring]
        self.links.clear()

    def lose_power(self) -> list[Call]:
        """Its ring is gone, its spool is not. Returns the ring's calls."""
        gone = [kept.call for ring in self.rings.values() for kept in ring]
        self.rings.clear()
        self.links.clear()
        return gone


class Flusher:
    """One flusher process. Some of its shards' claims are under way at the same time."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.frozen_until = 0
        self.restart()

    def restart(self) -> None:
        self.owner = f"{self.name}:{self.world.dice.getrandbits(32)}"
        self.links: dict[int, Link] = {}
        self.under_way: dict[int, Steps] = {}

    def begin(self, shard: int) -> None:
        self.under_way.setdefault(shard, self.apply_next(shard))

    def step(self, shard: int) -> None:
        try:
            next(self.under_way[shard])
        except StopIteration:
            del self.under_way[shard]
        except AwayError:
            del self.under_way[shard]
        except HeldError as held:
            del self.under_way[shard]
            self.world.is_held(held)

    # What follows is daemon/flush/drain.py, request by request -----------------------------------------------------

    def apply_next(self, shard: int) -> Steps:
        world, mongo = self.world, self.world.mongo
        if shard not in self.links:
            self.links[shard] = Link(world, world.pair_of[shard], self)
        link = self.links[shard]
        while True:
            yield
            mongo = self.mongo()
            floor = mongo.floor(shard)
            yield
            memory = link.memory
            claim = yield from self._claim(shard, link, floor.name)
            if claim is None:
                return
            kind, acked, name, content, again = claim
            if self.world.rules.one_memory and link.memory != memory:
                continue
            if kind == "behind":
                yield from self._meet_behind(shard, link, acked, floor, name)
                continue
            if kind == "ahead":
                yield from self._meet_ahead(shard, acked)
                continue
            if not floor.name.seq or again:
                yield
                link.connect()
                if link.memory.epoch != memory.epoch:
                    continue
            self.mongo().epochs.add(memory.epoch)
            yield
            if name.seq == floor.name.seq:
                decided = self.mongo().is_decided(shard, name)
            else:
                history = yield from self._confirmed_in(link, memory)
                epoch = memory.epoch if self.world.rules.one_memory else link.memory.epoch
                self.mongo().write(shard, Entry(name, floor.name, epoch, content, history))
                yield
                decided = self.mongo().advance(shard, name, acked)
            yield
            if not decided:
                continue
            yield from self._write(name, content)
            link.run("ack", shard, name, acked)
            yield
            self.mongo().forget(shard)
            return

    def mongo(self) -> Mongo:
        """For one request. Raises AwayError."""
        self.world.mongo.check(self.world.now)
        return self.world.mongo

    def _claim(self, shard: int, link: Link, floor: Name) -> Generator[None, None, Any]:
        """None: nothing to do. Else (kind, acked, name, parts, again)."""
        dice, parts = self.world.dice, dict[int, Content]()
        opened = -1
        while True:
            state = link.connect().shards[shard]
            dirty = state.dirty()
            take = dice.sample(dirty, dice.randint(0 if state.open else min(1, len(dirty)), len(dirty)))
            more = dice.random() < 0.3 and len(state.parts) < PARTS_MAX
            reply = link.run("claim", shard, self.owner, LEASE_US, floor, take, more, dice.getrandbits(60) + 1)
            yield
            if opened < 0:
                opened = link.opened
            match reply:
                case ("busy" | "empty",):
                    return None
                case ("behind", acked, in_flight):
                    return "behind", acked, in_flight, [], False
                case ("ahead", acked):
                    return "ahead", acked, floor, [], False
                case ("more", part, payload):
                    parts |= {part: payload} if payload else {}
                case ("new", name, payload, acked, names):
                    parts |= {name.seq: payload} if payload else {}
                    if parts.keys() == names and opened == link.opened:
                        return "claim", acked, name, list(parts.values()), False
                case ("again", name, all_parts, acked):
                    return "claim", acked, name, list(all_parts.values()), True

    def _confirmed_in(self, link: Link, memory: Memory) -> Generator[None, None, int]:
        """The history whose replica holds what is claimed; 0: none."""
        if not self.world.rules.confirm:
            return 0
        store = link.connect()
        position, until = store.position, self.world.now + REPLICATED_US
        while link.pair.replicas:
            if link.connect() is not store:
                return 0
            if link.pair.held(store, position):
                return store.history if link.memory == memory else 0
            if self.world.now > until:
                return 0
            yield
        return 0

    def _write(self, name: Name, content: list[Content]) -> Steps:
        documents = list(add_up(content).items())
        self.world.dice.shuffle(documents)
        for entity, amount in documents:
            self.mongo().add(entity, name.seq, amount)
            yield

    def _meet_behind(self, shard: int, link: Link, acked: int, floor: Floor, in_flight: Name) -> Steps:
        dice, memory = self.world.dice, link.memory
        yield
        link.connect()
        yield
        last = self.mongo().journal.get((shard, floor.name))
        yield
        if last is not None:
            if not self.mongo().is_decided(shard, last.name):
                return
            yield
            yield from self._write(last.name, last.parts)
        mongo, epoch = self.mongo(), link.memory.epoch
        is_new = epoch not in mongo.epochs
        mongo.epochs.add(epoch)
        yield
        is_lost = last is None or last.epoch != epoch
        if not self.world.rules.own_epoch and not acked and is_lost and (is_new or epoch > floor.name.seq):
            link.run("amend", shard, acked, floor.name, [], dice.getrandbits(60) + 1)
            yield
            return
        since = None
        if self.world.rules.own_epoch or not is_lost:
            since = self.mongo().since(shard, acked, floor.name, epoch)
        yield
        before = link.connect().before
        if self.world.rules.one_memory and link.memory != memory:
            return
        yield
        if floor.accepted != acked:
            self._check_held(shard, acked, floor, since and since[1], before, epoch, in_flight)
        adopted, forgotten = since or (floor.name, [])
        if adopted.seq != acked:
            link.run("amend", shard, acked, adopted, [], dice.getrandbits(60) + 1)
            yield
        for entry in forgotten:
            link.connect()
            if self.world.rules.one_memory and link.memory != memory:
                return
            own = entry.epoch == epoch or not self.world.rules.own_epoch
            parts = entry.parts if own else []
            link.run("amend", shard, entry.before.seq, entry.name, parts, dice.getrandbits(60) + 1)
            yield
        if floor.accepted is not None:
            self.mongo().end_held(shard)
            yield

    def _check_held(
        self,
        shard: int,
        acked: int,
        floor: Floor,
        forgotten: list[Entry] | None,
        before: int,
        epoch: int,
        in_flight: Name,
    ) -> None:
        if forgotten is None:
            raise HeldError(shard, acked, forgotten)
        unknown = forgotten
        if self.world.rules.in_flight and forgotten and forgotten[0].name == in_flight:
            unknown = forgotten[1:]
        if self.world.rules.own_epoch:
            unknown = [each for each in unknown if each.epoch == epoch]
        since = unknown[0].name.seq if unknown else floor.name.seq
        if floor.name.seq - since > FALL_BACK_US or any(each.history and each.history == before for each in unknown):
            raise HeldError(shard, acked, forgotten)

    def _meet_ahead(self, shard: int, acked: int) -> Steps:
        yield
        if self.mongo().floor(shard).name.seq >= acked:
            return
        yield
        self.world.mongo_was_older(shard)
        self.mongo().raise_floor(shard, acked)
