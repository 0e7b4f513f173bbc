"""What an action adds."""

from __future__ import annotations

from daemon.domain.action import Action


def test_an_action_moves_each_counter_by_one_or_by_the_value() -> None:
    rating = Action("rating", 1, 5, {"rating_count": "one", "rating_sum": "value"})
    assert rating.effect(4, "2026-02-19").increments == (
        ("rating_count", "rating_count:2026-02-19", "1"),
        ("rating_sum", "rating_sum:2026-02-19", "4"),
    )


def test_the_same_value_and_day_give_the_same_effect() -> None:
    view = Action("view", 1, 100, {"view": "value"})
    assert view.effect(3, "2026-02-19") is view.effect(3, "2026-02-19")
    assert view.effect(3, "2026-02-19") is not view.effect(4, "2026-02-19")
    assert view.effect(3, "2026-02-19") is not view.effect(3, "2026-02-20")


def test_effects_stay_right_when_there_are_too_many_to_remember() -> None:
    view = Action("view", 1, 10**9, {"view": "value"})
    first = view.effect(1, "2026-02-19").increments
    for value in range(70_000):
        assert view.effect(value, "2026-02-19").increments[0][2] == str(value)
    assert view.effect(1, "2026-02-19").increments == first
