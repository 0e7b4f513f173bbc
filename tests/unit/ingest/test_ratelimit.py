"""Addresses known to be over their limit: remembered until the moment Redis named, and never too many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.ingest.ratelimit import Blocked


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def test_an_address_is_blocked_until_the_moment_named() -> None:
    clock = Clock()
    blocked = Blocked(10, clock)
    assert blocked.left_ms("a") == 0, "nobody has blocked it"
    blocked.block("a", 60_000)
    assert 59_000 < blocked.left_ms("a") <= 60_000
    assert blocked.left_ms("b") == 0
    clock.now_s += 59.5
    assert 0 < blocked.left_ms("a") <= 500
    clock.now_s += 0.5
    assert blocked.left_ms("a") == 0
    clock.now_s -= 50  # once let go, it is forgotten
    assert blocked.left_ms("a") == 0


def test_blocking_again_names_a_new_moment() -> None:
    clock = Clock()
    blocked = Blocked(10, clock)
    blocked.block("a", 1_000)
    clock.now_s += 0.9
    blocked.block("a", 5_000)
    clock.now_s += 1
    assert blocked.left_ms("a") > 0


@pytest.mark.parametrize(("blocked_in_turn", "known"), [("abc", "bc"), ("abbb", "ab"), ("abac", "ac")])
def test_the_address_blocked_first_is_forgotten_first(blocked_in_turn: str, known: str) -> None:
    blocked = Blocked(2, Clock())
    for address in blocked_in_turn:
        blocked.block(address, 60_000)
    assert [address for address in "abc" if blocked.left_ms(address)] == [*known]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 60_000), st.floats(0, 30))), st.integers(1, 5))
def test_it_never_remembers_too_many_or_blocks_too_long(steps: list[tuple[str, int, float]], most: int) -> None:
    clock = Clock()
    blocked = Blocked(most, clock)
    until: dict[str, float] = {}
    for address, left_ms, pause_s in steps:
        blocked.block(address, left_ms)
        until[address] = clock.now_s + left_ms / 1000
        assert len(blocked._until) <= most
        clock.now_s += pause_s
        for name, until_s in until.items():
            assert blocked.left_ms(name) <= max(0.0, until_s - clock.now_s) * 1000 + 1
