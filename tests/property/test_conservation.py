"""The law of conservation: whatever happens in whatever order, accepted = live + in flight + applied.

A real Redis runs the real scripts; beside it runs a model of a few dictionaries. What MongoDB does is modelled by the
one thing it promises: a seq is applied once, and none after a later one.
"""

from __future__ import annotations

from collections import Counter

import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.kit.shard import Claimed, Ev, Increment, Shard, step

WINDOW_S = 30 * 86_400
"""Long enough that no real window ends in the middle of a test; `age` ends them."""
RATE = 3

Amounts = Counter[tuple[str, str]]
"""(entity, field) → amount."""

owners = st.sampled_from(["a", "b"])
effects: st.SearchStrategy[tuple[Increment, ...]] = st.sampled_from(
    [
        (step(),),
        (step(amount=7),),
        (step(day="2024-12-30"),),
        (step("download", 2), step("view", 3)),
        (step("sum", 10**9),),
    ]
)
events = st.tuples(
    st.sampled_from([f"e{n}" for n in range(12)]), st.sampled_from([f"jav:movie:{n}" for n in range(4)]), effects
).map(lambda fields: Ev(*fields))
requests = st.lists(
    st.tuples(st.sampled_from(["", "", "1.1.1.1", "2.2.2.2"]), st.lists(events, max_size=6)), min_size=1, max_size=4
)
limits = st.fixed_dictionaries(
    {"entities": st.integers(1, 5), "fields": st.integers(1, 8), "us": st.sampled_from([0, 0, 1_000_000])}
)


class Flow(RuleBasedStateMachine):
    """Producers, two flushers that lose replies, and time."""

    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.shard = Shard(self.client)
        self.seen: dict[int, set[str]] = {}
        """Window, counted back from now (0) → the ids counted in it."""
        self.asked: Counter[str] = Counter()
        """Sender → the events that were taken of it."""
        self.accepted: Amounts = Counter()
        self.duplicate: Counter[str] = Counter()
        self.most = {"entities": 0, "fields": 0}
        """The widest limits of the calls that froze the batch in flight."""
        self.contents: dict[int, Amounts] = {}
        """Seq → what was in flight under it, whoever saw it."""
        self.payloads: dict[int, Amounts] = {}
        """Seq → the batch that was handed out under it."""
        self.applied: Amounts = Counter()
        self.applied_seq = 0
        self.flushed: Counter[str] = Counter()
        self.held: dict[str, int] = {}
        """Owner → the seq it believes to hold."""

    # Producers --------------------------------------------------------------------------------------------------

    @rule(sent=requests)
    def ingest(self, sent: list[tuple[str, list[Ev]]]) -> None:
        results = self.shard.ingest(*sent, rate=RATE, window_s=WINDOW_S)
        for (address, batch), result in zip(sent, results, strict=True):
            taken = min(len(batch), RATE - self.asked[address]) if address else len(batch)
            self.asked[address] += taken
            if batch and not taken:
                assert -60_000 <= result < 0
                continue
            new = sum(self._count(event) for event in batch[:taken])
            if taken == len(batch):
                assert result == new
            else:
                assert result[:2] == [new, len(batch) - taken]

    def _count(self, event: Ev) -> bool:
        new = not any(event.id in self.seen.get(window, ()) for window in (0, -1))
        for counter, field, amount in event.effect:
            if new:
                self.accepted[event.entity, field] += int(amount)
            else:
                self.duplicate[counter] += int(amount)
        if new:
            self.seen.setdefault(0, set()).add(event.id)
        return new

    @precondition(lambda self: self.shard.seen())
    @rule()
    def a_window_ends(self) -> None:
        self.shard.age()
        self.seen = {window - 1: ids for window, ids in self.seen.items()}

    @rule()
    def a_minute_ends(self) -> None:
        for key in self.shard.keys("rate:"):
            self.client.delete(key)
        self.asked.clear()

    # Flushers ---------------------------------------------------------------------------------------------------

    @rule(owner=owners, limits=limits)
    def claim(self, owner: str, limits: dict[str, int]) -> None:
        claimed = self._claim(owner, **limits)
        if claimed.status in ("new", "again"):
            self.held[owner] = claimed.seq

    @rule(owner=owners, limits=limits)
    def claim_and_never_hear_of_it(self, owner: str, limits: dict[str, int]) -> None:
        self._claim(owner, **limits)

    def _claim(self, owner: str, **limits: int) -> Claimed:
        before = self._seq_in_flight()
        claimed = self.shard.claim(owner, floor=self.applied_seq, **limits)
        self.most = {name: max(limits[name], self.most[name] if before else 0) for name in self.most}
        if claimed.status == "more":
            assert claimed.seq > max(before, *self.payloads, 0)
        elif claimed.status == "new":
            assert claimed.seq > max(self.payloads, default=0)
            assert len(claimed.amounts) <= self.most["entities"]
            assert sum(len(fields) for _, fields in claimed.amounts) <= self.most["fields"]
            self.payloads[claimed.seq] = _amounts(claimed)
        elif claimed.status == "again":
            assert self.payloads[claimed.seq] == _amounts(claimed), "the same seq is the same batch"
        return claimed

    @rule(owner=owners)
    def apply(self, owner: str) -> None:
        """What MongoDB does with a claim: nothing, if it has seen this seq or a later one."""
        seq = self.held.get(owner, 0)
        if seq > self.applied_seq:
            self.applied += self.payloads[seq]
            self.applied_seq = seq

    @rule(owner=owners, heard=st.booleans())
    def ack(self, owner: str, heard: bool) -> None:
        """Only what was applied is acknowledged, maybe late and maybe twice."""
        seq = self.held.get(owner, 0)
        if not 0 < seq <= self.applied_seq:
            return
        in_flight = self._seq_in_flight()
        sums: Counter[str] = Counter()
        for (_, field), amount in self.payloads[seq].items():
            sums[field.partition(":")[0]] += amount
        done = self.shard.ack(seq, {f"flushed:{counter}": amount for counter, amount in sums.items()}, ["jav:movie:0"])
        assert done == (in_flight == seq)
        if done:
            self.flushed += sums
        if heard:
            del self.held[owner]

    @precondition(lambda self: self._seq_in_flight())
    @rule()
    def the_lease_runs_out(self) -> None:
        self.client.hset(self.shard.claim_key, "until", 1)

    def _seq_in_flight(self) -> int:
        return int(self.client.hget(self.shard.claim_key, "seq") or 0)

    # The law ----------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        live = Counter({(e, field): n for e, fields in self.shard.live().items() for field, n in fields.items()})
        seq, in_flight = self._seq_in_flight(), Counter[tuple[str, str]]()
        if seq > self.applied_seq:
            in_flight = _amounts(Claimed("", seq, self.shard.frozen(), 0))
            assert self.contents.setdefault(seq, in_flight) == in_flight, "the same seq is the same content"
        assert live + in_flight + self.applied == self.accepted

    @invariant()
    def the_ledger_has_booked_it(self) -> None:
        sums: Counter[str] = Counter()
        for (_, field), amount in self.accepted.items():
            sums[f"accepted:{field.partition(':')[0]}"] += amount
        sums.update({f"duplicate:{counter}": amount for counter, amount in self.duplicate.items()})
        sums.update({f"flushed:{counter}": amount for counter, amount in self.flushed.items()})
        assert Counter(self.shard.ledger()) == sums

    @invariant()
    def an_entity_is_dirty_exactly_when_it_has_a_hash(self) -> None:
        assert self.shard.dirty() == set(self.shard.live())

    def teardown(self) -> None:
        """In the end everything is applied, and Redis holds nothing more of it."""
        if self._seq_in_flight():
            self.the_lease_runs_out()
        while self._claim("z", entities=3, fields=5).status != "empty":
            self.held["z"] = self._seq_in_flight()
            self.apply("z")
            self.ack("z", heard=True)
            self.nothing_is_lost_or_doubled()
        assert self.applied == self.accepted
        assert (self.shard.live(), self.shard.dirty()) == ({}, set())
        self.the_ledger_has_booked_it()


def _amounts(claimed: Claimed) -> Amounts:
    amounts: Amounts = Counter()
    for entity, fields in claimed.amounts:
        amounts.update({(entity, field): amount for field, amount in fields.items()})
    return amounts


def test_whatever_happens_nothing_is_lost_or_doubled(each_redis: redis.Redis) -> None:
    machine = type("Flow", (Flow,), {"client": each_redis})
    run_state_machine_as_test(machine, settings=settings(max_examples=100, stateful_step_count=40))
