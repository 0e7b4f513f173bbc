"""`ingest.lua` alone: the rate limit of a client address, counted in the call that counts its events."""

from __future__ import annotations

import pytest

from tests.kit.shard import Ev, Shard

A, B = "198.51.100.7", "2001:db8::1"


def post(shard: Shard, address: str, *events: Ev, rate: int = 60) -> int:
    (result,) = shard.ingest((address, events), rate=rate)
    return result


def test_sixty_requests_pass_and_the_next_is_told_how_long_to_wait(shard: Shard) -> None:
    assert [post(shard, A, Ev(f"e{n}")) for n in range(60)] == [1] * 60
    assert -60_000 <= post(shard, A, Ev("late")) < 0


def test_the_sixty_first_in_the_same_call_is_refused(shard: Shard) -> None:
    results = shard.ingest(*((A, [Ev(f"e{n}")]) for n in range(62)), rate=60)
    assert results[:60] == [1] * 60
    assert all(-60_000 <= result < 0 for result in results[60:])


def test_nothing_of_a_refused_request_is_counted(shard: Shard) -> None:
    post(shard, A, Ev("e1"), rate=1)
    before = {key: value for key, value in shard.everything().items() if b":rate:" not in key}
    assert post(shard, A, Ev("e2"), Ev("e3"), rate=1) < 0
    assert {key: value for key, value in shard.everything().items() if b":rate:" not in key} == before
    assert shard.count(Ev("e2"), Ev("e3")) == 2, "a refused event is no duplicate when it comes again"


def test_a_refused_request_does_not_stop_the_others_of_its_call(shard: Shard) -> None:
    post(shard, A, rate=1)
    first, second, third = shard.ingest((B, [Ev("e1")]), (A, [Ev("e2")]), ("", [Ev("e3")]), rate=1)
    assert (first, third) == (1, 1)
    assert second < 0
    assert shard.ledger() == {"accepted:view": 2}


def test_another_address_has_a_limit_of_its_own(shard: Shard) -> None:
    post(shard, A, rate=1)
    assert post(shard, A, rate=1) < 0
    assert post(shard, B, Ev("e1"), rate=1) == 1


@pytest.mark.parametrize(("address", "rate"), [("", 1), (A, 0)])
def test_requests_without_an_address_or_a_limit_are_not_limited(shard: Shard, address: str, rate: int) -> None:
    assert [post(shard, address, Ev(f"e{n}"), rate=rate) for n in range(5)] == [1] * 5
    assert not shard.keys("rate")


@pytest.mark.parametrize("events", [0, 1, 100])
def test_requests_count_and_not_events_be_they_none_or_duplicates(shard: Shard, events: int) -> None:
    batch = [Ev(f"e{n}") for n in range(events)]
    assert [post(shard, A, *batch, rate=3) for _ in range(3)] == [events, 0, 0]
    assert post(shard, A, Ev("new"), rate=3) < 0


def test_the_window_starts_with_the_first_request_and_ends_a_minute_later(shard: Shard) -> None:
    post(shard, A, rate=1)
    key = f"{shard.tag}:rate:{A}"
    assert 0 < shard.redis.pttl(key) <= 60_000
    shard.redis.pexpire(key, 40_000)  # as if twenty seconds had passed
    wait = post(shard, A, rate=1)
    assert -40_000 <= wait < 0, "the refused request did not prolong the window"
    shard.redis.pexpire(key, 1)  # and now the rest
    while shard.redis.exists(key):
        pass
    assert post(shard, A, Ev("e1"), rate=1) == 1
    assert 0 < shard.redis.pttl(key) <= 60_000


def test_a_refusal_is_never_mistaken_for_nothing_counted(shard: Shard) -> None:
    """In the last moment of a window, too: the result is below 0, or the window had ended and a new one began."""
    key = f"{shard.tag}:rate:{A}"
    for _ in range(300):
        shard.redis.set(key, 5, px=1)
        assert post(shard, A, rate=5) < 0 or shard.redis.get(key) == b"1"


def test_a_limit_without_an_expiry_heals(shard: Shard) -> None:
    key = f"{shard.tag}:rate:{A}"
    shard.redis.set(key, 500)
    assert -60_000 <= post(shard, A, rate=60) < 0
    assert 0 < shard.redis.pttl(key) <= 60_000


def test_a_lowered_limit_holds_at_once(shard: Shard) -> None:
    for _ in range(5):
        post(shard, A, rate=10)
    assert post(shard, A, rate=5) < 0


def test_every_limit_key_expires(shard: Shard) -> None:
    shard.ingest(*((f"198.51.100.{n}", []) for n in range(50)), rate=60)
    keys = shard.keys("rate:")
    assert len(keys) == 50
    assert all(0 < shard.redis.pttl(key) <= 60_000 for key in keys)
