"""What the dedupe memory of a shard is laid out for."""

from __future__ import annotations

from daemon.buffer.counters import Limits
from daemon.config import load


def test_the_events_of_a_window_are_shared_by_the_shards() -> None:
    for shards, each in ((1, 10_000_000), (8, 1_250_000), (64, 156_250)):
        config = load(environ={"TALLYD_REDIS__SHARDS": str(shards)})
        assert Limits.of(config).events_per_window == each
