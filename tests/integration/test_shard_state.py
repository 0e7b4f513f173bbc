"""What is read of one shard in Redis at one moment."""

from __future__ import annotations

import asyncio

import pytest

from daemon.buffer.connection import opened
from daemon.buffer.keys import Keys
from daemon.buffer.state import ShardState, read_state
from daemon.config import RedisSection
from tests.kit.system import System, event

ONE_SYSTEM = True
WINDOW_S = 172_800
ALL_KEYS = Keys(RedisSection().prefix)
KEYS = ALL_KEYS.shard(0)


def state_of(system: System) -> ShardState:
    async def work() -> ShardState:
        async with opened(system.config().redis) as redis:
            return await read_state(redis, ALL_KEYS, 0, WINDOW_S)

    return asyncio.run(work())


def test_a_shard_that_never_counted_holds_nothing(system: System) -> None:
    state = state_of(system)
    assert (state.dirty, state.in_flight, state.in_flight_age_s, state.due, state.due_age_s) == (0, 0, None, 0, None)
    assert (state.refused, state.acked_at_s, state.ledger) == (0, None, {})
    assert (state.dedupe_events, state.dedupe_last_events, state.dedupe_buckets) == (0, 0, 0)


def test_what_is_dirty_in_flight_due_and_refused_is_counted_and_has_an_age(system: System) -> None:
    system.count(event(entity_id="a"), event(entity_id="b"))
    now_s = system.redis.time()[0]
    system.redis.hset(KEYS.claim, mapping={"seq": "7", "entities": "3", "since": f"{(now_s - 100) * 1000}"})
    system.redis.zadd(KEYS.due, {"jav:movie:a": (now_s - 500) * 1e6, "jav:movie:b": (now_s - 5) * 1e6})
    system.redis.hset(KEYS.refused, "jav:movie:a", "why")
    state = state_of(system)
    assert (state.dirty, state.in_flight, state.due, state.refused) == (2, 3, 2, 1)
    assert 100 <= (state.in_flight_age_s or 0) < 400
    assert 500 <= (state.due_age_s or 0) < 900
    assert state.ledger == {"accepted:view": 2}
    assert (state.dedupe_events, state.dedupe_last_events) == (2, 0)


@pytest.mark.parametrize(("ago", "expected"), [(0, (9, 4)), (1, (0, 9)), (2, (0, 0))])
def test_a_window_that_no_event_has_opened_yet_has_none(system: System, ago: int, expected: tuple[int, int]) -> None:
    gen = system.redis.time()[0] // WINDOW_S - ago
    system.redis.hset(KEYS.seen, mapping={"gen": gen, "bits": 4, "events": 9, "prev_events": 4})
    state = state_of(system)
    assert (state.dedupe_events, state.dedupe_last_events) == expected
    assert state.dedupe_buckets == 16


def test_foreign_values_of_the_dedupe_memory_are_taken_for_none(system: System) -> None:
    system.redis.hset(KEYS.seen, mapping={"gen": "word", "bits": "-", "events": "1.5"})
    assert state_of(system).dedupe_events == 0
