"""Group commit: who waits together goes together, never too many at once, and everyone is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.buffer.outcome import Counted, Failed, Limited, Outcome
from daemon.buffer.wire import Request, unlimited
from daemon.config import Ingest
from daemon.domain.action import Action
from daemon.domain.event import Event
from daemon.errors import StoreError
from daemon.ingest.batcher import Batcher
from daemon.metrics import IngestTally
from tests.kit.loop import in_loop

EFFECT = Action("view", 1, 100, {"view": "value"}).effect(1, "2026-02-19")


class Held:
    """A store whose calls wait until the test answers them: by default, each request's events are counted."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[Request], asyncio.Future[list[Counted | Limited]]]] = []
        self.in_flight = 0
        self.in_flight_most = 0

    async def ingest(self, requests: Sequence[Request]) -> list[Counted | Limited]:
        future: asyncio.Future[list[Counted | Limited]] = asyncio.get_running_loop().create_future()
        self.calls.append((list(requests), future))
        self.in_flight += 1
        self.in_flight_most = max(self.in_flight_most, self.in_flight)
        try:
            return await future
        finally:
            self.in_flight -= 1

    def sizes(self) -> list[int]:
        return [len(requests) for requests, _ in self.calls]

    def answer(
        self, call: int, *, error: Exception | None = None, results: list[Counted | Limited] | None = None
    ) -> None:
        requests, future = self.calls[call]
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(counted(*(len(each.events) for each in requests)) if results is None else results)

    def answer_all(self) -> None:
        for call, (_, future) in enumerate(self.calls):
            if not future.done():
                self.answer(call)


def request(events: int = 1, name: str = "e") -> Request:
    return unlimited([Event(f"{name}{n}", "jav:movie:m", EFFECT) for n in range(events)])


def counted(*new: int) -> list[Counted | Limited]:
    return [Counted(number) for number in new]


def batcher(store: Held, *, queue: int = 1_000, call: int = 100, calls: int = 2) -> Batcher:
    limits = Ingest(queue_events_max=queue, call_events_max=call, calls_in_flight_max=calls)
    return Batcher(store.ingest, IngestTally(), limits)


async def settle() -> None:
    """Lets everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def store() -> Held:
    return Held()


@in_loop
async def test_a_request_alone_goes_at_once(store: Held) -> None:
    outcome = batcher(store).ask(request(3))
    await settle()
    assert store.sizes() == [1]
    store.answer(0)
    assert await outcome == Counted(3)


@in_loop
async def test_requests_of_one_turn_of_the_loop_go_together(store: Held) -> None:
    group = batcher(store)
    outcomes = [group.ask(request(n)) for n in (1, 2, 3)]
    await settle()
    assert store.sizes() == [3]
    store.answer(0)
    assert await asyncio.gather(*outcomes) == counted(1, 2, 3)


@in_loop
async def test_requests_that_come_meanwhile_wait_and_go_together(store: Held) -> None:
    group = batcher(store, calls=1)
    outcomes = [group.ask(request())]
    await settle()
    for _ in range(5):
        outcomes.append(group.ask(request()))
        await settle()
    assert store.sizes() == [1]
    assert group.waiting_events == 5
    store.answer(0)
    await settle()
    assert store.sizes() == [1, 5]
    assert group.waiting_events == 0
    store.answer(1)
    assert await asyncio.gather(*outcomes) == counted(1) * 6


@in_loop
async def test_there_are_never_more_calls_in_flight_than_allowed(store: Held) -> None:
    group = batcher(store, calls=3, call=1)
    outcomes = [group.ask(request()) for _ in range(20)]
    while not all(outcome.done() for outcome in outcomes):
        await settle()
        store.answer_all()
    assert store.in_flight_most == 3
    assert store.sizes() == [1] * 20


@in_loop
async def test_a_call_carries_no_more_events_than_allowed_beyond_its_first_request(store: Held) -> None:
    group = batcher(store, call=10, calls=1)
    outcomes = [group.ask(request(n)) for n in (50, 4, 6, 1, 0, 9)]
    while not all(outcome.done() for outcome in outcomes):
        await settle()
        store.answer_all()
    assert [[len(each.events) for each in requests] for requests, _ in store.calls] == [[50], [4, 6], [1, 0, 9]]


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 40), st.integers(1, 4))
@in_loop
async def test_requests_go_in_order_and_each_gets_its_own_outcome(sizes: list[int], call: int, calls: int) -> None:
    store = Held()
    group = batcher(store, call=call, calls=calls)
    sent = [request(size, f"r{n}-") for n, size in enumerate(sizes)]
    outcomes = [group.ask(each) for each in sent]
    while not all(outcome.done() for outcome in outcomes):
        await settle()
        for number in reversed(range(len(store.calls))):  # late calls answered first
            if not store.calls[number][1].done():
                store.answer(number)
                break
    assert [outcome.result() for outcome in outcomes] == counted(*sizes)
    assert [each for requests, _ in store.calls for each in requests] == sent
    assert store.in_flight_most <= calls
    assert all(sum(len(each.events) for each in requests[1:]) <= call for requests, _ in store.calls)
    assert group.waiting_events == 0


@in_loop
async def test_there_is_room_for_as_many_events_as_configured(store: Held) -> None:
    group = batcher(store, queue=10, calls=1)
    first = group.ask(request(10))
    await settle()  # on its way: no longer in the queue
    assert group.has_room(10)
    assert not group.has_room(11)
    second = group.ask(request(7))
    assert (group.has_room(3), group.has_room(4)) == (True, False)
    store.answer(0)
    await first
    await settle()
    assert group.has_room(10)
    store.answer(1)
    await second


@in_loop
async def test_a_failed_call_fails_its_own_requests_and_the_next_goes_on(store: Held) -> None:
    group = batcher(store, calls=1)
    lost = [group.ask(request()) for _ in range(3)]
    await settle()
    kept = [group.ask(request()) for _ in range(3)]
    store.answer(0, error=StoreError("Redis is away"))
    assert await asyncio.gather(*lost) == [Failed("Redis is away")] * 3
    await settle()
    store.answer(1)
    assert await asyncio.gather(*kept) == counted(1) * 3


@pytest.mark.parametrize("failure", ["an exception", "too few results", "too many results"])
@in_loop
async def test_a_failure_nobody_planned_for_is_told_and_stops_nothing(failure: str, store: Held) -> None:
    group = batcher(store, calls=1)
    for _ in range(3):
        outcomes = [group.ask(request()) for _ in range(2)]
        await settle()
        last = len(store.calls) - 1
        if failure == "an exception":
            store.answer(last, error=RuntimeError("a bug"))
        else:
            store.answer(last, results=counted(1) if failure == "too few results" else counted(1, 1, 1))
        assert all(isinstance(each, Failed) for each in await asyncio.gather(*outcomes))
    good = group.ask(request())
    await settle()
    store.answer(len(store.calls) - 1)
    assert await good == Counted(1)


@in_loop
async def test_a_call_that_takes_too_long_is_ended_and_the_next_goes_on(store: Held) -> None:
    group = batcher(store, calls=1)
    stuck = [group.ask(request()) for _ in range(2)]
    await settle()
    assert group.end_stuck(60) == 0
    following = group.ask(request())
    assert group.end_stuck(0) == 1
    assert all(isinstance(each, Failed) for each in await asyncio.gather(*stuck))
    await settle()
    assert group.end_stuck(60) == 0
    store.answer(1)
    assert await following == Counted(1)


@in_loop
async def test_a_client_that_went_away_changes_nothing_for_the_others(store: Held) -> None:
    group = batcher(store)
    outcomes: list[asyncio.Future[Outcome]] = [group.ask(request(n)) for n in (1, 2, 3)]
    await settle()
    outcomes[1].cancel()
    store.answer(0)
    assert (await outcomes[0], await outcomes[2]) == (Counted(1), Counted(3))
    following = group.ask(request())
    await settle()
    store.answer(1)
    assert await following == Counted(1)


@in_loop
async def test_draining_waits_for_everything_that_was_submitted(store: Held) -> None:
    group = batcher(store, calls=1, call=1)
    outcomes = [group.ask(request()) for _ in range(5)]
    draining = asyncio.create_task(group.drain())
    while not draining.done():
        assert not all(outcome.done() for outcome in outcomes) or not group.waiting_events
        await settle()
        store.answer_all()
    await draining
    assert [outcome.result() for outcome in outcomes] == counted(1) * 5
    await group.drain()  # there is nothing left: it ends at once
