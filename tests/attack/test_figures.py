"""The figures of attacks: what counts as a miss, and that the page shows what was measured."""

from __future__ import annotations

from msgspec import structs

from tests.attack import figures
from tests.attack.legit import Answered


def test_the_page_shows_what_was_measured() -> None:
    assert figures.table(figures.read()) in figures.PAGE.read_text(encoding="utf-8"), "run just attack --write"


def test_each_bar_that_is_missed_is_named() -> None:
    held = next(each for each in figures.read().found if not each.misses)
    refused = structs.replace(held.attacked, answered=held.attacked.events // 2)
    assert structs.replace(held, attacked=refused).misses == ["50.00% answered 202"]
    assert structs.replace(held, taken=held.taken_max + 1).misses
    assert structs.replace(held, peak_mib=2.1 * held.before_mib).misses == ["memory 2.1 times"]
    assert structs.replace(held, attacker_released_s=6.0).misses == ["released after 6.0 s"]
    assert structs.replace(held, troubles=("lost",)).misses == ["lost"]


def test_an_event_without_an_answer_is_none_that_was_answered() -> None:
    answered = [Answered("a", 1.0, 1.01, 202), Answered("b", 1.5, 11.5, 0), Answered("c", 1.9, 1.92, 503)]
    found = figures.phase(answered, 1.0, 2.0)
    assert (found.events, found.answered) == (3, 1)
    assert found.statuses == {"202": 1, "503": 1, "lost": 1}
    assert found.gap_ms == 990.0
