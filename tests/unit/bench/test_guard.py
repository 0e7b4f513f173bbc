"""The regression guard's verdict: what the machine's noise explains, and what it doesn't."""

from __future__ import annotations

import msgspec

from bench import guard
from bench.guard import WATCHED, figures, lost

QUIET = {name: [1.0, 1.0, 1.0] for each in WATCHED.values() for name in (each.cost, each.calibration)}
BASELINE = dict.fromkeys(WATCHED, 1.0)


def test_a_run_like_the_baseline_loses_nothing() -> None:
    assert lost(figures(QUIET), BASELINE) == []


def test_a_slower_machine_loses_nothing() -> None:
    slower = {name: [cost * 3 for cost in costs] for name, costs in QUIET.items()}
    assert lost(figures(slower), BASELINE) == []


def test_a_disturbed_round_loses_nothing() -> None:
    assert lost(figures({**QUIET, "single_worker": [5.0, 1.1, 4.0]}), BASELINE) == []


def test_what_every_round_pays_is_a_loss() -> None:
    dearer = guard.WORKER + 0.01
    assert lost(figures({**QUIET, "single_worker": [dearer] * 3}), BASELINE) == ["single-cpu"]


def test_the_committed_baseline_has_every_figure() -> None:
    committed = msgspec.json.decode(guard.BASELINE.read_bytes(), type=guard.Baseline)
    assert committed.figures.keys() == WATCHED.keys()
