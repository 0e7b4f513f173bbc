"""What Redis and MongoDB hold, and what each request does to it. The names are those of `lua/` and `daemon/rollups`.

An amount is a `Vector`: how often each event is in it. The protocol only adds and takes off, so whatever holds for the
sums holds for each event. What a script decides, it decides by the sum, as Redis does.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

Vector = dict[int, int]
"""Event → how often it is in an amount."""
Content = dict[int, Vector]
"""Entity → its amount."""

DISK_LAG_US = 2_000_000
"""What `appendfsync everysec` may lose."""


class AwayError(Exception):
    """A store did not answer. Whether it did what it was asked is unknown."""


class HeldError(Exception):
    """The shard waits for an operator. `chain`: whether the journal reaches back to what Redis knows."""

    def __init__(self, shard: int, acked: int, forgotten: list[Entry] | None) -> None:
        super().__init__(f"shard {shard} is held behind {acked}")
        self.shard, self.acked, self.forgotten = shard, acked, forgotten


class Name(NamedTuple):
    seq: int
    nonce: int


NO_CLAIM = Name(0, 0)


class Rules(NamedTuple):
    """Each can be switched off, and then some count must be wrong."""

    confirm: bool = True
    """R1: a claim waits for the replica before MongoDB, for as long as `flush.replicated_ms`."""
    resend: bool = True
    """R2: what replicas may lack is sent again."""
    amend: bool = True
    """R3: what a Redis forgot of the journal is taken off it."""
    compare: bool = True
    """The floor moves by compare-and-set."""
    rename: bool = True
    """An amend renames any other claim in flight, not only one with a lower seq."""
    dedupe: bool = True
    nonce: bool = True
    """A claim is recognised by its nonce besides its seq."""
    in_order: bool = True
    """Ack and amend ask for the claim before theirs."""
    one_memory: bool = True
    """A journal entry has the epoch of the Redis that the claim is of, and that Redis is the one to be amended, whoever
    answers by then."""
    clock: bool = True
    """A seq is the time. If clocks stand still, two histories give one seq to different counts, and all must hold."""
    own_epoch: bool = True
    """What a Redis forgot is taken off it only if it was claimed in its own epoch."""
    in_flight: bool = True
    """A claim that is in flight, and whose ack Redis forgot, says nothing of how far Redis fell back."""


def add(to: Vector, amount: Vector, sign: int = 1) -> None:
    for event, n in amount.items():
        total = to.get(event, 0) + sign * n
        if total:
            to[event] = total
        else:
            to.pop(event, None)


def add_up(contents: Iterable[Content]) -> Content:
    result: Content = {}
    for content in contents:
        for entity, amount in content.items():
            add(result.setdefault(entity, {}), amount)
    return result


class Shard:
    """One shard in one Redis. Each method but `copy` is a script: it runs to the end or not at all."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.live: Content = {}
        self.seq = self.nonce = self.acked = self.last = 0
        """`seq` 0: no claim is in flight."""
        self.owner, self.until, self.open = "", 0, False
        self.parts: dict[int, Content] = {}

    def copy(self) -> Shard:
        other = Shard()
        other.__dict__ |= self.__dict__
        other.seen = set(self.seen)
        other.live = {entity: dict(amount) for entity, amount in self.live.items()}
        other.parts = dict(self.parts)
        return other

    @property
    def accounted(self) -> int:
        return self.acked if self.seq else self.last

    def dirty(self) -> list[int]:
        return [entity for entity, amount in self.live.items() if sum(amount.values())]

    def ingest(self, rules: Rules, _: int, events: Mapping[int, int]) -> None:
        """`events`: id → entity."""
        for event, entity in events.items():
            if event not in self.seen or not rules.dedupe:
                self.seen.add(event)
                add(self.live.setdefault(entity, {}), {event: 1})

    def claim(
        self, rules: Rules, now: int, owner: str, lease: int, floor: Name, take: Collection[int], more: bool, nonce: int
    ) -> tuple[Any, ...]:
        acked = self.accounted
        if acked > floor.seq:
            return "ahead", acked
        is_floor = self.seq and not self.open and self.seq == floor.seq
        is_floor = is_floor and (not floor.nonce or not rules.nonce or self.nonce == floor.nonce)
        if acked < floor.seq and not is_floor:
            return "behind", acked, Name(self.seq, self.nonce) if self.seq and not self.open else NO_CLAIM
        if self.seq:
            if self.owner != owner and self.until > now:
                return ("busy",)
            self.owner, self.until = owner, now + lease
            if not self.open:
                return "again", Name(self.seq, self.nonce), dict(self.parts), acked
        payload = {entity: self.live.pop(entity) for entity in take if entity in self.live}
        if not payload and not self.open:
            return ("empty",)
        more = more and bool(self.dirty())
        if not self.open:
            self.acked = acked
        if payload or not more:
            self.seq = self.last = max(self.last + 1, floor.seq + 1, now if rules.clock else 0)
            self.nonce = nonce
        if payload:
            self.parts[self.seq] = payload
        self.owner, self.until, self.open = owner, now + lease, more
        if more:
            return "more", self.seq, payload
        return "new", Name(self.seq, self.nonce), payload, acked, set(self.parts)

    def ack(self, rules: Rules, _: int, name: Name, acked: int) -> bool:
        is_it = self.seq == name.seq and (self.nonce == name.nonce or not rules.nonce)
        if not is_it or (self.acked != acked and rules.in_order):
            return False
        self.parts, self.seq, self.open = {}, 0, False
        self.last = name.seq
        return True

    def amend(self, rules: Rules, now: int, acked: int, name: Name, parts: Collection[Content], nonce: int) -> bool:
        if self.accounted != acked and rules.in_order:
            return False
        in_flight = self.seq
        is_it = in_flight == name.seq and not self.open and (self.nonce == name.nonce or not rules.nonce)
        if is_it:
            self.parts, self.seq = {}, 0
        elif rules.amend:
            for part in parts:
                for entity, amount in part.items():
                    add(self.live.setdefault(entity, {}), amount, -1)
        if in_flight and not is_it:
            self.acked = name.seq
            if rules.rename or in_flight <= name.seq:
                self.seq = self.last = max(self.last + 1, name.seq + 1, now if rules.clock else 0)
                self.nonce = nonce
        else:
            self.last = name.seq
        return True


class Memory(NamedTuple):
    history: int
    epoch: int


Op = tuple[str, int, int, tuple[Any, ...]]


class Store:
    """One Redis process, with its shards. `followers` are given its stream: its own file, and its replica."""

    histories = itertools.count(1)

    def __init__(self, rules: Rules, shards: Mapping[int, Shard], epoch: int, skew: int, before: int = 0) -> None:
        """`before`: the history that it took over, as a replica that was promoted."""
        self.rules, self.shards, self.epoch, self.skew = rules, dict(shards), epoch, skew
        self.history, self.before = next(Store.histories), before
        self.position = 0
        self.followers: list[Follower] = []

    def copies(self) -> dict[int, Shard]:
        return {number: shard.copy() for number, shard in self.shards.items()}

    def run(self, script: str, shard: int, now: int, *args: Any) -> Any:
        op = (script, shard, now + self.skew, args)
        self.position += 1
        for follower in self.followers:
            follower.pending.append((self.position, now, op))
        return apply(self.rules, self.shards, op)


def apply(rules: Rules, shards: Mapping[int, Shard], op: Op) -> Any:
    script, shard, now, args = op
    script_of: Callable[..., Any] = getattr(Shard, script)
    return script_of(shards[shard], rules, now, *args)


class Follower:
    """A state of a Redis that lags: what its file holds, or what its replica holds."""

    def __init__(self, store: Store) -> None:
        self.rules, self.shards, self.position = store.rules, store.copies(), store.position
        self.pending: deque[tuple[int, int, Op]] = deque()
        store.followers.append(self)

    def catch_up(self, most: int, since: int = 0) -> None:
        """Takes in so many operations, and all from before `since`."""
        pending = self.pending
        while pending and (most > 0 or pending[0][1] < since):
            self.position, _, op = pending.popleft()
            apply(self.rules, self.shards, op)
            most -= 1


class Pair:
    """A primary and its replica, which take over from each other."""

    def __init__(self, rules: Rules, shards: Iterable[int], now: int, *, replicas: int) -> None:
        self.rules, self.numbers, self.replicas = rules, list(shards), replicas
        self.serve(Store(rules, {number: Shard() for number in self.numbers}, now, 0))
        self.old: Store | None = None
        """A primary that is cut off, whom it still reaches, and until when."""
        self.old_side: set[object] = set()
        self.old_until = 0
        self.away_until = 0
        self.lags = False
        self.backup = self.primary.copies()

    def serve(self, store: Store) -> None:
        self.primary, self.disk = store, Follower(store)
        self.replica = Follower(store) if self.replicas else None

    def reached_by(self, client: object, now: int) -> Store | None:
        if self.old is not None and now > self.old_until:
            self.old = None
        if self.old is not None and client in self.old_side:
            return self.old
        return None if now < self.away_until else self.primary

    def held(self, store: Store, position: int) -> bool:
        """Whether the replica has said that it holds what `store` had executed by then."""
        replica = self.replica
        return replica is not None and replica in store.followers and replica.position >= position

    def promote(self, skew: int) -> None:
        """The replica takes over with what it has. It has a replica of its own at once, a copy."""
        assert self.replica is not None
        self.serve(Store(self.rules, self.replica.shards, self.primary.epoch, skew, self.primary.history))
        self.lags = False

    def take_over_stale(self, skew: int) -> None:
        """A replica takes over that lacks what it once confirmed: by force, or made of a backup."""
        stale = Store(self.rules, self.backup, self.primary.epoch, skew, self.primary.history)
        self.serve(stale)
        self.backup, self.lags = stale.copies(), False

    def restart(self, skew: int) -> None:
        """The primary is killed, and comes back with what its file has, before anybody takes over."""
        self.serve(Store(self.rules, self.disk.shards, self.primary.epoch, skew))
        self.lags = False

    def wipe(self, now: int) -> None:
        self.serve(Store(self.rules, {number: Shard() for number in self.numbers}, now, 0))
        self.old, self.lags, self.backup = None, False, self.primary.copies()


class Entry(NamedTuple):
    name: Name
    before: Name
    epoch: int
    parts: list[Content]
    history: int
    """Whose replica held the claim; 0: none is known to."""


class Floor(NamedTuple):
    name: Name = NO_CLAIM
    accepted: int | None = None


class Mongo:
    """Floors, journal and documents. A document is one entity's totals: each other rollup has the same guard."""

    def __init__(self, rules: Rules, kept: int) -> None:
        self.rules, self.kept = rules, kept
        self.floors: dict[int, Floor] = {}
        self.journal: dict[tuple[int, Name], Entry] = {}
        self.documents: dict[int, tuple[int, Vector]] = {}
        self.epochs: set[int] = set()
        self.away_until = 0

    def copy(self) -> Mongo:
        other = Mongo(self.rules, self.kept)
        other.floors, other.journal, other.epochs = dict(self.floors), dict(self.journal), set(self.epochs)
        other.documents = {entity: (seq, dict(amount)) for entity, (seq, amount) in self.documents.items()}
        return other

    def check(self, now: int) -> None:
        if now < self.away_until:
            raise AwayError("MongoDB")

    def floor(self, shard: int) -> Floor:
        return self.floors.get(shard, Floor())

    def write(self, shard: int, entry: Entry) -> None:
        self.journal.setdefault((shard, entry.name), entry)

    def advance(self, shard: int, name: Name, before: int) -> bool:
        floor = self.floor(shard)
        if floor.name.seq == before or (not self.rules.compare and floor.name.seq < name.seq):
            self.floors[shard] = Floor(name)
            return True
        return self.is_decided(shard, name)

    def is_decided(self, shard: int, name: Name) -> bool:
        floor = self.floor(shard).name
        return floor.seq == name.seq and (not floor.nonce or floor.nonce == name.nonce or not self.rules.nonce)

    def raise_floor(self, shard: int, seq: int) -> None:
        floor = self.floor(shard)
        if floor.name.seq < seq:
            self.floors[shard] = floor._replace(name=Name(seq, 0))

    def since(self, shard: int, acked: int, end: Name, epoch: int) -> tuple[Name, list[Entry]] | None:
        """The claims after `acked`, or after the last one from before the `epoch`: that one, and they. None: the
        journal does not reach back."""
        found: list[Entry] = []
        name = end
        while name.seq > acked:
            entry = self.journal.get((shard, name))
            if self.rules.own_epoch:
                if not acked and (name.seq < epoch if entry is None else entry.epoch < epoch):
                    return name, found[::-1]
                if entry is not None and entry.epoch > epoch:
                    return None
            if entry is None:
                return None
            found.append(entry)
            name = entry.before
        return (name, found[::-1]) if name.seq == acked else None

    def forget(self, shard: int) -> None:
        names = sorted(name for number, name in self.journal if number == shard)
        for name in names[: -self.kept]:
            del self.journal[shard, name]

    def add(self, entity: int, seq: int, amount: Vector) -> None:
        """The guarded update of one document."""
        applied, total = self.documents.get(entity, (0, {}))
        if applied < seq:
            total = dict(total)
            add(total, amount)
            self.documents[entity] = (seq, total)

    def accept(self, shard: int, floor: int, acked: int) -> None:
        found = self.floor(shard)
        if found.name.seq == floor:
            self.floors[shard] = found._replace(accepted=acked)

    def end_held(self, shard: int) -> None:
        self.floors[shard] = self.floor(shard)._replace(accepted=None)
