"""How far apart two clocks are, told from one question and answer."""

from __future__ import annotations

import pytest

from daemon.doctor.clock import APART_FATAL_S, APART_WARN_S, NO_LIMIT_S, check_clock, compare

NOON_S = 1_770_000_000.0


def test_a_server_that_answers_with_the_middle_is_not_apart() -> None:
    assert compare(NOON_S + 0.05, NOON_S, NOON_S + 0.1).apart_s == 0


def test_a_slow_network_is_no_difference() -> None:
    clock = compare(NOON_S, NOON_S, NOON_S + 8)  # it answered at once, and the answer took 8 s
    assert clock.offset_s == -4
    assert clock.apart_s == 0
    assert check_clock(clock, "why").severity == "ok"


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize(
    ("apart_s", "severity"),
    [
        (0.0, "ok"),
        (APART_WARN_S, "ok"),
        (APART_WARN_S + 0.1, "warning"),
        (APART_FATAL_S - 1, "warning"),
        (APART_FATAL_S + 1, "fatal"),
    ],
)
def test_the_difference_decides(apart_s: float, severity: str, direction: int) -> None:
    verdict = check_clock(compare(NOON_S + direction * apart_s, NOON_S, NOON_S), "why")
    assert verdict.severity == severity
    assert bool(verdict.fix) is (severity != "ok")


def test_it_says_which_is_ahead() -> None:
    assert check_clock(compare(NOON_S + 30, NOON_S, NOON_S), "why").found == "30.0 s ahead of this machine's"
    assert check_clock(compare(NOON_S - 30, NOON_S, NOON_S), "why").found == "30.0 s behind this machine's"


def test_where_nothing_is_lost_even_a_day_is_a_warning() -> None:
    assert check_clock(compare(NOON_S + 86_400, NOON_S, NOON_S), "why", NO_LIMIT_S).severity == "warning"
