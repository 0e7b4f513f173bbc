"""What `Counters` tells the scripts."""

from __future__ import annotations

from daemon.buffer.counters import Limits
from daemon.config import load

CONFIG = load(environ={"TALLYD_RATE_LIMIT__PER_MINUTE": "60"})


def test_only_new_requests_are_rate_limited() -> None:
    assert Limits.of(CONFIG, rate_limited=True).rate_per_minute == 60
    assert Limits.of(CONFIG).rate_per_minute == 0
    assert Limits.of(CONFIG)[1:] == (CONFIG.dedupe.window_s, CONFIG.dedupe.events_per_window)
