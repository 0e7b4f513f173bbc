"""100 nodes, and chance: whose turn it is, what fails, and the comparison in the end.

The oracle knows each event and whether it was acknowledged. Each acknowledged event must be counted once, and no other
event more than once. Only what a loss of memory takes, by the promise of README.md, may be missing: `excuses`.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from typing import NamedTuple

from tests.simulation.actors import Call, Flusher, Host
from tests.simulation.model import DISK_LAG_US, HeldError, Mongo, Pair, Rules, add_up

ENTITIES = 3
"""Of a shard."""
DRAIN_ROUNDS_MAX = 200


class Faults(NamedTuple):
    """How often each one comes, by weight."""

    fail_over: int = 20
    restart: int = 8
    isolate: int = 6
    heal: int = 6
    lag: int = 8
    away: int = 6
    kill_host: int = 6
    lose_host: int = 3
    return_host: int = 6
    kill_flusher: int = 10
    freeze_flusher: int = 10
    mongo_away: int = 2
    take_over_stale: int = 0
    """A replica is promoted that lacks what it confirmed: by force, or restored from a backup."""
    wipe: int = 0
    """Primary and replica lose all memory: a new epoch."""
    mongo_older: int = 0
    """MongoDB is restored to an earlier moment."""


class Size(NamedTuple):
    pairs: int = 30
    shards: int = 40
    hosts: int = 25
    flushers: int = 12
    ticks: int = 12_000
    tick_us: int = 8_000
    """Between two turns, at most."""
    fault_share: float = 0.02
    replicas: int = 1
    skew_us: int = 0
    """By which the clock of a Redis that takes over may differ."""
    lag_us: int = 4_000_000
    """By which a replica may lag, and for which an isolated primary goes on. Both together stay below
    `flush.fall_back_s`: above it a shard is held."""
    kept: int = 100
    """`flush.journal_claims`."""

    @property
    def nodes(self) -> int:
        return (1 + self.replicas) * self.pairs + self.hosts + self.flushers + 3  # MongoDB


ONE_SHARD = Size(1, 1, hosts=2, flushers=4, ticks=300, tick_us=100_000, fault_share=0.1, lag_us=2_000_000)
SPLIT = Faults(fail_over=20, isolate=30, heal=30, lag=20, restart=4, away=0, kill_host=0, lose_host=0)


class Outcome(NamedTuple):
    lost: int
    doubled: int
    held: int
    acknowledged: int
    excused: int
    faults: Counter[str]
    claims: int
    stuck: bool = False

    @property
    def is_exact(self) -> bool:
        return not (self.lost or self.doubled or self.stuck)


class World:
    def __init__(
        self, seed: int, size: Size | None = None, faults: Faults | None = None, rules: Rules | None = None
    ) -> None:
        self.dice = random.Random(seed)
        self.size, self.rules = size or Size(), rules or Rules()
        size = self.size
        self.now = 1_000_000_000_000
        groups: list[list[int]] = [[] for _ in range(size.pairs)]
        for shard in range(size.shards):
            groups[shard % size.pairs].append(shard)
        self.pairs = [Pair(self.rules, group, self.now, replicas=size.replicas) for group in groups]
        self.pair_of = {shard: pair for pair in self.pairs for shard in pair.numbers}
        self.hosts = [Host(self, f"host{n}") for n in range(size.hosts)]
        self.flushers = [Flusher(self, f"flusher{n}") for n in range(size.flushers)]
        self.mongo = Mongo(self.rules, size.kept)
        self.backup: Mongo | None = None
        self.entity_of: list[int] = []
        self.acknowledged: set[int] = set()
        self.unknown: deque[Call] = deque()
        self.may_lack: set[int] = set()
        self.may_double: set[int] = set()
        self.since_wipe: dict[int, int] = {}
        """Shard → the first event that was sent after its ids were forgotten."""
        self.held = 0
        self.waiting: dict[int, HeldError] = {}
        self.faults: Counter[str] = Counter()
        weights = (faults or Faults())._asdict()
        self.kinds = [kind for kind, weight in weights.items() for _ in range(weight)]

    def run(self) -> Outcome:
        size, dice = self.size, self.dice
        turns = (
            [self.send] * 30
            + [self.flush] * 40
            + [self.replicate] * 12
            + [self.confirm] * 12
            + [self.replay] * 3
            + [self.send_unknown] * 3
            + [self.accept]
        )
        for _ in range(size.ticks):
            self.now += dice.randrange(size.tick_us)
            if dice.random() < size.fault_share:
                kind = dice.choice(self.kinds)
                self.faults[kind] += bool(getattr(self, f"_{kind}")())
            else:
                dice.choice(turns)()
        is_drained = self._drain()
        return self._compare(stuck=not is_drained)

    # Turns ---------------------------------------------------------------------------------------------------------

    def send(self) -> None:
        """A request of up to three events for one shard. One event in seven was sent before."""
        dice = self.dice
        shard = dice.randrange(self.size.shards)
        events: dict[int, int] = {}
        for _ in range(dice.randint(1, 3)):
            event = len(self.entity_of)
            if event and dice.random() < 0.15:
                event = dice.randrange(event)
                if self.entity_of[event] // ENTITIES != shard or event < self.since_wipe.get(shard, 0):
                    continue
            else:
                self.entity_of.append(shard * ENTITIES + dice.randrange(ENTITIES))
            events[event] = self.entity_of[event]
        fate = dice.random()
        host = self._host()
        if fate < 0.05 or host is None:
            self.unknown.append(Call(shard, events))
            return
        host.send(Call(shard, events))
        if fate < 0.1:
            self.unknown.append(Call(shard, events))
        else:
            self.acknowledged.update(events)

    def send_unknown(self) -> None:
        host = self._host()
        if self.unknown and host is not None:
            call = self.unknown.popleft()
            host.send(call)
            self.acknowledged.update(call.events)

    def _host(self) -> Host | None:
        host = self.dice.choice(self.hosts)
        return host if host.up else None

    def flush(self) -> None:
        dice = self.dice
        flusher = dice.choice(self.flushers)
        if self.now < flusher.frozen_until:
            return
        if len(flusher.under_way) < 2:
            flusher.begin(dice.randrange(self.size.shards))
        shard = dice.choice(list(flusher.under_way))
        for _ in range(dice.randint(1, 12)):
            if shard in flusher.under_way:
                flusher.step(shard)

    def replicate(self) -> None:
        dice = self.dice
        for pair in dice.sample(self.pairs, min(3, len(self.pairs))):
            pair.disk.catch_up(1000 if dice.random() < 0.1 else 0, self.now - DISK_LAG_US)
            if pair.replica is not None:
                pair.replica.catch_up(0 if pair.lags else dice.randint(0, 40), self.now - self.size.lag_us)
            if "take_over_stale" in self.kinds and dice.random() < 0.02:
                pair.backup = pair.primary.copies()

    def confirm(self) -> None:
        host = self._host()
        if host is not None:
            for pair in list(host.rings):
                host.confirm(pair)

    def replay(self) -> None:
        host = self._host()
        if host is not None:
            host.replay()

    # Faults. True: it came about ------------------------------------------------------------------------------------

    def _skew(self) -> int:
        return self.dice.randint(-self.size.skew_us, self.size.skew_us)

    def _fail_over(self) -> bool:
        pair = self.dice.choice(self.pairs)
        if pair.replica is None or pair.old is not None:
            return False
        pair.replica.catch_up(self.dice.randint(0, 20), self.now - self.size.lag_us)
        pair.promote(self._skew())
        pair.away_until = self.now + self.dice.randrange(300_000)
        return True

    def _restart(self) -> bool:
        pair = self.dice.choice(self.pairs)
        pair.disk.catch_up(self.dice.randint(0, 20), self.now - DISK_LAG_US)
        pair.restart(self._skew())
        pair.away_until = self.now + self.dice.randrange(300_000)
        return True

    def _isolate(self) -> bool:
        """The primary goes on for those whom it still reaches, until `heal`."""
        pair, dice = self.dice.choice(self.pairs), self.dice
        if pair.replica is None or pair.old is not None:
            return False
        old = pair.primary
        old.followers.remove(pair.replica)
        pair.replica.catch_up(dice.randint(0, 40), self.now - self.size.lag_us)
        clients: list[object] = [*self.hosts, *self.flushers]
        pair.old_side = {client for client in clients if dice.random() < 0.4}
        pair.promote(self._skew())
        pair.old, pair.old_until = old, self.now + dice.randrange(self.size.lag_us)
        pair.away_until = self.now + dice.randrange(600_000)
        return True

    def _heal(self) -> bool:
        cut = [pair for pair in self.pairs if pair.old is not None]
        if cut:
            self.dice.choice(cut).old = None
        return bool(cut)

    def _lag(self) -> bool:
        pair = self.dice.choice(self.pairs)
        pair.lags = not pair.lags
        return True

    def _away(self) -> bool:
        self.dice.choice(self.pairs).away_until = self.now + self.dice.randrange(1_000_000)
        return True

    def _kill_host(self) -> bool:
        host = self.dice.choice(self.hosts)
        host.kill()
        host.up = False
        return True

    def _lose_host(self) -> bool:
        """Its power. What nobody else may have is gone if Redis falls back, too."""
        host = self.dice.choice(self.hosts)
        for call in host.lose_power():
            pair = self.pair_of[call.shard]
            others = [each for each in (pair.primary, pair.disk, pair.replica) if each is not None]
            self.may_lack |= {e for e in call.events if any(e not in each.shards[call.shard].seen for each in others)}
        if self.dice.random() < 0.5 and len(self.hosts) > 2:  # it never returns: its folder is replayed elsewhere
            other = self.dice.choice([each for each in self.hosts if each is not host])
            other.spool.extend(host.spool)
            host.spool.clear()
        host.up = False
        return True

    def _return_host(self) -> bool:
        down = [host for host in self.hosts if not host.up]
        if down:
            self.dice.choice(down).up = True
        return bool(down)

    def _kill_flusher(self) -> bool:
        self.dice.choice(self.flushers).restart()
        return True

    def _freeze_flusher(self) -> bool:
        self.dice.choice(self.flushers).frozen_until = self.now + self.dice.randrange(8_000_000)
        return True

    def _mongo_away(self) -> bool:
        self.mongo.away_until = self.now + self.dice.randrange(1_500_000)
        return True

    def _take_over_stale(self) -> bool:
        pair = self.dice.choice(self.pairs)
        if not pair.replicas or pair.old is not None:
            return False
        for number, state in pair.primary.shards.items():
            self.may_lack |= state.seen - pair.backup[number].seen
        pair.take_over_stale(self._skew())
        return True

    def _wipe(self) -> bool:
        pair = self.dice.choice(self.pairs)
        if pair.old is not None:
            return False
        written = {event: n for _, amount in self.mongo.documents.values() for event, n in amount.items()}
        waiting = [*self.unknown, *(call for host in self.hosts for call in host.spool)]
        for shard in pair.numbers:
            self.may_lack |= self._sent(shard) - written.keys()
            self._excuse_unsettled(shard)
            self.may_double.update(event for call in waiting if call.shard == shard for event in call.events)
            self.since_wipe[shard] = len(self.entity_of)
        pair.wipe(self.now)
        return True

    def _mongo_older(self) -> bool:
        backup, self.backup = self.backup, None if self.backup else self.mongo.copy()
        if backup is None:
            return False
        for key in self.mongo.journal.keys() - backup.journal.keys():  # its claims, and what put others right
            gone = {event for amount in add_up(self.mongo.journal[key].parts).values() for event in amount}
            self.may_lack |= gone
            self.may_double |= gone
        for entity, (_, amount) in self.mongo.documents.items():
            had = backup.documents.get(entity, (0, {}))[1]
            self.may_lack.update(event for event, n in amount.items() if n > had.get(event, 0))
            self.may_double.update(event for event, n in had.items() if n > amount.get(event, 0))
        for shard in self.pair_of:
            self._excuse_unsettled(shard)
        self.mongo = backup
        for flusher in self.flushers:  # as ops/backup.md says, they are stopped
            flusher.restart()
        return True

    def _excuse_unsettled(self, shard: int) -> None:
        """What puts a count right may be lost as well as a count."""
        state = self.pair_of[shard].primary.shards[shard]
        events = {e for content in (state.live, *state.parts.values()) for amount in content.values() for e in amount}
        self.may_lack |= events
        self.may_double |= events

    def mongo_was_older(self, shard: int) -> None:
        assert self.faults["mongo_older"], f"shard {shard}: the journal ends before what Redis knows"

    def is_held(self, held: HeldError) -> None:
        self.held += 1
        self.waiting[held.shard] = held

    def accept(self) -> None:
        """An operator: `tallyd shards accept`."""
        for shard, held in self.waiting.items():
            if held.forgotten is None:
                self.may_lack |= self._sent(shard)
                self.may_double |= self._sent(shard)
            self.mongo.accept(shard, self.mongo.floor(shard).name.seq, held.acked)
        self.waiting.clear()

    def _sent(self, shard: int) -> set[int]:
        return {event for event, entity in enumerate(self.entity_of) if entity // ENTITIES == shard}

    # The end -------------------------------------------------------------------------------------------------------

    def _drain(self) -> bool:
        """Everything comes back. False: it never became empty."""
        self.mongo.away_until = 0
        for pair in self.pairs:
            pair.old, pair.away_until, pair.lags = None, 0, False
        for host in self.hosts:
            host.up = True
        for flusher in self.flushers:
            flusher.restart()
        while self.unknown:
            self.send_unknown()
        for _ in range(DRAIN_ROUNDS_MAX):
            for host in self.hosts:
                for _ in range(len(host.spool)):
                    host.replay()
                for pair in list(host.rings):
                    host.confirm(pair)
            if not any(host.spool for host in self.hosts) and all(self._is_settled(host) for host in self.hosts):
                break
        else:
            return False
        return all(self._drain_shard(shard) for shard in range(self.size.shards))

    def _is_settled(self, host: Host) -> bool:
        return all(
            kept.memory == (pair.primary.history, pair.primary.epoch)
            for pair, ring in host.rings.items()
            for kept in ring
        )

    def _drain_shard(self, shard: int) -> bool:
        pair = self.pair_of[shard]
        for n in range(DRAIN_ROUNDS_MAX):
            self.now += 2_000_000
            self.accept()
            if pair.replica is not None:
                pair.replica.catch_up(1 << 30)
            flusher = self.flushers[n % len(self.flushers)]
            flusher.begin(shard)
            for _ in range(10_000):
                if shard not in flusher.under_way:
                    break
                flusher.step(shard)
                if pair.replica is not None:
                    pair.replica.catch_up(1 << 30)
            state = pair.primary.shards[shard]
            if not state.seq and not state.dirty() and state.accounted == self.mongo.floor(shard).name.seq:
                return True
        return False

    def _compare(self, *, stuck: bool) -> Outcome:
        counted: Counter[int] = Counter()
        for _, amount in self.mongo.documents.values():
            counted.update(amount)
        for pair in self.pairs:  # what adds up to nothing stays in no hash, and so is nowhere else
            for state in pair.primary.shards.values():
                for amount in state.live.values():
                    counted.update(amount)
        lost = doubled = 0
        for event in range(len(self.entity_of)):
            n = counted[event]
            if n < (event in self.acknowledged) and event not in self.may_lack:
                lost += 1
            if n > 1 and event not in self.may_double:
                doubled += 1
        excused = len(self.may_lack & self.acknowledged)
        claims = len(self.mongo.journal)
        return Outcome(lost, doubled, self.held, len(self.acknowledged), excused, self.faults, claims, stuck)
