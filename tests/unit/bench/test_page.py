"""The benchmarks' page: it says what the results say, and what is committed is what was measured."""

from __future__ import annotations

import pytest

from bench import page
from bench.measure import Bar, Row
from bench.results import Result


def test_the_committed_page_is_the_one_made_from_the_committed_results() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.text(page.read_all()), "run `python -m bench --page`"


@pytest.mark.parametrize(("ours", "said"), [([8.0, 9.0, 9.5], "| held |"), ([11.0, 12.0, 30.0], "| NOT HELD |")])
def test_a_bar_is_judged_by_the_median(ours: list[float], said: str) -> None:
    row = Row(name="latency", what="w", unit="ms", ours=ours, bars=(Bar("value", "at most", 10),))
    assert said in _line("latency", row)


def test_a_row_that_must_hold_both_bars_holds_neither_with_one() -> None:
    bars = (Bar("value", "at most", 12), Bar("ratio", "at most", 0.1))
    row = Row(name="memory", what="w", unit="bytes/event", ours=[11.0], peer=[100.0], bars=bars, all_bars=True)
    assert "| NOT HELD |" in _line("memory", row)


def test_a_bar_that_a_busy_machine_missed_is_undecided() -> None:
    bars = (Bar("ratio", "at least", 0.7),)
    row = Row(name="single", what="w", unit="events/s", ours=[1.0], peer=[2.0], bars=bars, others=0.5)
    assert "| undecided |" in _line("single", row)


def test_a_row_nobody_measured_is_not_left_out() -> None:
    assert "| durable | not measured yet |" in page.text({})


def _line(name: str, row: Row) -> str:
    text = page.text({"single": Result(group="single", date="2026-02-19", machine={"commit": "c"}, rows=[row])})
    return next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
