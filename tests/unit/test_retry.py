"""Pauses differ, and are never longer than they may be."""

from __future__ import annotations

from daemon.retry import jittered


def test_a_pause_lies_between_half_of_it_and_all_of_it_and_differs_each_time() -> None:
    pauses = [jittered(2.0) for _ in range(1_000)]
    assert all(1.0 <= pause <= 2.0 for pause in pauses)
    assert len(set(pauses)) > 900
