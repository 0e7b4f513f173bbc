"""`ingest.lua` alone: what a sender may send in a minute, counted in the call that counts its events."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.kit.shard import Ev, Req, Shard

A, B = "198.51.100.7", "2001:db8::/64"
KEY, NEW = f"rate:{A}", f"rate:new:{A}"
MINUTE_US = 60_000_000
RATE = 6
"""So few that none is refilled while a test runs."""


def evs(name: str, count: int, entity: str = "jav:movie:m") -> list[Ev]:
    return [Ev(f"{name}{n}", entity) for n in range(count)]


def send(shard: Shard, request: Req) -> Any:
    (result,) = shard.ingest(request)
    return result


def post(shard: Shard, *events: Ev, sender: str = A, rate: int = RATE, refused: int = 0) -> Any:
    return send(shard, Req(sender, events, rate, refused=refused))


def now_us(shard: Shard) -> int:
    seconds, micros = shard.redis.time()
    return int(seconds) * 1_000_000 + int(micros)


def set_until(shard: Shard, ahead_s: float, key: str = KEY) -> None:
    """As if the budget would be whole in so many seconds."""
    shard.redis.set(f"{shard.tag}:{key}", now_us(shard) + int(ahead_s * 1e6), px=60_000)


# Events ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1, 7, 60, 1_000])
@pytest.mark.parametrize("per_call", [1, 3, 2_000])
def test_as_many_events_pass_as_the_limit_says_however_they_come(shard: Shard, rate: int, per_call: int) -> None:
    events, taken, began_us = evs("e", rate * 2), 0, now_us(shard)
    for at in range(0, rate * 2, per_call):
        results = shard.ingest(*(Req(A, [event], rate) for event in events[at : at + per_call]))
        taken += sum(result for result in results if result > 0)
    refilled = (now_us(shard) - began_us) * rate / MINUTE_US
    assert rate <= taken <= rate + refilled
    assert shard.ledger() == {"accepted:view": taken}


def test_a_sender_that_is_over_is_told_when_there_is_room_for_one_event(shard: Shard) -> None:
    assert post(shard, *evs("e", RATE)) == RATE
    assert -10_000 <= post(shard, Ev("late")) < 0


def test_the_budget_refills_evenly(shard: Shard) -> None:
    for spent_s, room in ((60, 0), (50, 1), (39, 2), (1, 5), (-5, 6)):
        set_until(shard, spent_s)
        result = post(shard, *evs(f"{spent_s}-", 100))
        assert (result if room == 0 else result[0]) == (result if room == 0 else room), spent_s
        assert room or result < 0
        assert shard.redis.delete(f"{shard.tag}:{KEY}") == 1


def test_a_batch_is_taken_as_far_as_the_budget_reaches(shard: Shard) -> None:
    assert post(shard, *evs("a", 4)) == 4
    new, missing, wait_ms = post(shard, *evs("b", 30))
    assert (new, missing) == (2, 28)
    assert 1 <= wait_ms <= 10_000
    assert shard.ledger() == {"accepted:view": 6}
    assert shard.count(*evs("b", 30)) == 28, "those that were not taken are no duplicates when they come again"


def test_the_header_s_example(shard: Shard) -> None:
    before_us = now_us(shard)
    assert shard.told(Req(A, [Ev("single")], 60), Req(A, evs("b", 70), 60, refused=10)) == [119, [59, 11, 1_000, 0]]
    until_us = int(shard.redis.get(f"{shard.tag}:{KEY}"))
    assert before_us + MINUTE_US <= until_us <= now_us(shard) + MINUTE_US
    assert 59_000 < shard.redis.pttl(f"{shard.tag}:{KEY}") <= 60_000


def test_every_reply_tells_how_many_more_events_find_room(shard: Shard) -> None:
    twice = Ev("twice")
    assert shard.told(Req(A, [twice], RATE), Req(A, [twice], RATE)) == [1 + 2 * 5, 0 + 2 * 4]
    assert shard.told(Req(A, evs("b", 2), RATE)) == [[2, 0, 0, 2]]
    assert shard.told(Req(A, (), RATE, refused=1)) == [[0, 0, 0, 1]]
    [[new, missing, wait_ms, room]] = shard.told(Req(A, evs("c", 2), RATE, refused=1))
    assert (new, missing, room) == (1, 1, 0)
    assert 1 <= wait_ms <= 10_000
    [[wait_ms, room]] = shard.told(Req(A, [Ev("late")], RATE))
    assert room == 0
    assert 1 <= wait_ms <= 10_000
    assert shard.told(Req(A, [Ev("free")]), Req("", evs("f", 2)), Req("", ())) == [1, [2, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("rate", [30, 60, 1_000, 10**9])
def test_the_room_that_was_told_is_exact(shard: Shard, rate: int) -> None:
    """It is what the budget held at that moment, less the event. And so many more events are taken."""
    for spent_s in (1, 13, 29, 48):
        set_until(shard, spent_s)
        until_us, moments = int(shard.redis.get(f"{shard.tag}:{KEY}")), [now_us(shard)]
        (reply,) = shard.told(Req(A, [Ev(f"first {spent_s}")], rate))
        moments.append(now_us(shard))
        least, most = ((MINUTE_US - until_us + at) * rate // MINUTE_US - 1 for at in moments)
        assert least <= reply // 2 <= most
        if rate <= 1_000:
            taken, *_ = send(shard, Req(A, evs(f"{spent_s} ", 2 * rate), rate))
            assert reply // 2 <= taken <= reply // 2 + 1 + (now_us(shard) - moments[0]) * rate / MINUTE_US


def test_nothing_of_a_refused_request_is_counted(shard: Shard) -> None:
    post(shard, Ev("e1"), rate=1)
    before = {key: value for key, value in shard.everything().items() if b":rate:" not in key}
    assert post(shard, Ev("e2"), Ev("e3"), rate=1) < 0
    assert {key: value for key, value in shard.everything().items() if b":rate:" not in key} == before
    assert shard.count(Ev("e2"), Ev("e3")) == 2


def test_a_refused_request_does_not_stop_the_others_of_its_call(shard: Shard) -> None:
    post(shard, Ev("e0"), rate=1)
    first, second, third = shard.ingest((B, [Ev("e1")]), (A, [Ev("e2")]), ("", [Ev("e3")]), rate=1)
    assert (first, third) == (1, 1)
    assert second < 0
    assert shard.ledger() == {"accepted:view": 3}


def test_each_sender_has_its_own_limit(shard: Shard) -> None:
    assert post(shard, *evs("a", 6)) == 6
    assert post(shard, Ev("a")) < 0
    first, second = shard.ingest(Req(B, evs("b", 10), 10), Req("key:shop", evs("k", 500), 500))
    assert (first, second) == (10, 500)


@pytest.mark.parametrize(("sender", "rate"), [("", 0), (A, 0)])
def test_requests_without_a_limit_are_not_limited(shard: Shard, sender: str, rate: int) -> None:
    assert [post(shard, Ev(f"e{n}"), sender=sender, rate=rate) for n in range(5)] == [1] * 5
    assert not shard.keys("rate")


def test_duplicates_count(shard: Shard) -> None:
    assert post(shard, *evs("e", 3)) == 3
    assert post(shard, *evs("e", 3)) == 0
    assert post(shard, Ev("new")) < 0


def test_a_refusal_costs_but_never_more_than_there_is(shard: Shard) -> None:
    assert post(shard, Ev("e"), refused=2) == 1
    assert post(shard, refused=2) == 0, "a request without events only charges"
    new, missing, _ = post(shard, refused=3)
    assert (new, missing) == (0, 2)
    assert post(shard, refused=1) < 0
    assert int(shard.redis.get(f"{shard.tag}:{KEY}")) <= now_us(shard) + MINUTE_US, "nobody is blocked for longer"


def test_good_events_come_before_the_refused_ones_of_their_request(shard: Shard) -> None:
    assert post(shard, *evs("e", 4), refused=1_000) == 4
    assert post(shard, Ev("late")) < 0


def test_a_refused_request_does_not_prolong_the_wait(shard: Shard) -> None:
    post(shard, *evs("e", RATE))
    until = shard.redis.get(f"{shard.tag}:{KEY}")
    for n in range(20):
        assert post(shard, Ev(f"late{n}")) < 0
    assert abs(int(shard.redis.get(f"{shard.tag}:{KEY}")) - int(until)) <= 40, "a call rounds to a microsecond"


@pytest.mark.parametrize(("old", "expires"), [("60", True), ("500", False), ("0", False)])
def test_a_count_of_0_2_0_is_a_moment_long_past(shard: Shard, old: str, expires: bool) -> None:
    shard.redis.set(f"{shard.tag}:{KEY}", old, px=30_000 if expires else None)
    assert post(shard, *evs("e", RATE)) == RATE
    assert post(shard, Ev("late")) < 0
    assert 0 < shard.redis.pttl(f"{shard.tag}:{KEY}") <= 60_000
    assert not shard.asides()


@pytest.mark.parametrize("until", ["9" * 25, str(2**63 - 1)])
def test_a_moment_too_far_ahead_heals(shard: Shard, until: str) -> None:
    """A foreign one, or the clock went back."""
    shard.redis.set(f"{shard.tag}:{KEY}", until)
    assert -10_000 <= post(shard, Ev("e")) < 0
    assert 0 < shard.redis.pttl(f"{shard.tag}:{KEY}") <= 60_000
    assert int(shard.redis.get(f"{shard.tag}:{KEY}")) <= now_us(shard) + MINUTE_US


def test_after_the_time_named_there_is_room_for_one_event(shard: Shard) -> None:
    rate = 600
    for round_ in range(5):
        set_until(shard, 60)
        wait_ms = -post(shard, Ev(f"{round_}"), rate=rate)
        assert 1 <= wait_ms <= 100
        time.sleep(wait_ms / 1000)
        assert post(shard, Ev(f"{round_}"), rate=rate) == 1


def test_a_lowered_limit_holds_at_once(shard: Shard) -> None:
    assert post(shard, *evs("e", 3), rate=6) == 3
    new, missing, _ = post(shard, *evs("f", 5), rate=2)
    assert (new, missing) == (1, 4), "half of the minute is spent"


def test_every_limit_key_expires_when_its_budget_is_whole(shard: Shard) -> None:
    shard.ingest(*(Req(f"198.51.100.{n}", [Ev(f"e{n}")], 60, 60) for n in range(50)))
    keys = shard.keys("rate:")
    assert len(keys) == 51, "of the senders, and of the one that made the entity dirty"
    assert all(shard.redis.pttl(key) <= 1_000 for key in keys)
    assert all(shard.redis.pttl(key) != -1 for key in keys)


# New entities ---------------------------------------------------------------------------------------------------------


def entities(name: str, count: int) -> list[Ev]:
    return [Ev(f"{name}{n}", f"jav:movie:{name}{n}") for n in range(count)]


def fresh(shard: Shard, *events: Ev, new: int = 10, rate: int = 1_000_000) -> Any:
    return send(shard, Req(A, events, rate, new))


def test_as_many_new_entities_pass_as_the_limit_says(shard: Shard) -> None:
    new, missing, wait_ms = fresh(shard, *entities("a", 15))
    assert (new, missing) == (10, 5)
    assert 1 <= wait_ms <= 6_000
    assert fresh(shard, *entities("b", 1)) < 0
    assert len(shard.dirty()) == 10


def test_events_of_dirty_entities_pass_and_cost_no_new_one(shard: Shard) -> None:
    assert fresh(shard, *entities("a", 10)) == 10
    assert fresh(shard, *(Ev(f"again{n}", f"jav:movie:a{n % 10}") for n in range(100))) == 100
    assert fresh(shard, *entities("a", 10)) == 0, "nor do duplicates"


def test_an_entity_of_many_events_is_new_once(shard: Shard) -> None:
    assert fresh(shard, *evs("x", 100), *entities("a", 9), *evs("y", 100)) == 209
    new, missing, _ = fresh(shard, *evs("z", 20), Ev("new", "jav:movie:new"), *evs("zz", 20))
    assert (new, missing) == (20, 21), "the first that finds no room ends the request"


def test_an_entity_that_was_flushed_is_new_again(shard: Shard) -> None:
    assert fresh(shard, *entities("a", 10)) == 10
    seq = shard.claim_whole().seq
    shard.ack(seq, {"flushed:view": 10})
    assert fresh(shard, Ev("again", "jav:movie:a1")) < 0


def test_new_entities_are_limited_where_events_are_not(shard: Shard) -> None:
    new, missing, _ = fresh(shard, *entities("a", 15), rate=0)
    assert (new, missing) == (10, 5)
    assert {key.removeprefix(f"{shard.tag}:") for key in shard.keys("rate:")} == {NEW}


def test_an_event_that_was_not_taken_for_its_entity_costs_no_event(shard: Shard) -> None:
    [[_, missing, _, room]] = shard.told(Req(B, entities("z", 12), 20, 10))
    assert (missing, room) == (2, 10)
    [[_, room]] = shard.told(Req(B, entities("y", 1), 20, 10))
    assert room == 10
    shard.redis.flushdb()
    fresh(shard, *entities("a", 10), rate=20)
    assert fresh(shard, *entities("b", 10), rate=20) < 0
    assert fresh(shard, *evs("x", 10, "jav:movie:a1"), rate=20) == 10


@pytest.mark.parametrize("foreign", ["string", "hash"])
def test_foreign_values_do_not_stop_the_limit_of_new_entities(shard: Shard, foreign: str) -> None:
    for key in (f"{shard.tag}:{NEW}", shard.dirty_key):
        shard.redis.set(key, "word") if foreign == "string" else shard.redis.hset(key, "a", "b")
    assert fresh(shard, *entities("a", 10)) == 10
    assert fresh(shard, *entities("b", 1)) < 0
    assert set(shard.asides()) == {f"{shard.tag}:{NEW}", shard.dirty_key}
    assert shard.ledger() == {"accepted:view": 10, "aside": 2}
