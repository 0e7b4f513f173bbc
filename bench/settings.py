"""How long and how often each benchmark measures: the full run, and the short one of `--check`."""

from __future__ import annotations

from typing import NamedTuple


class Settings(NamedTuple):
    rounds: int
    again_max: int
    """How many more rounds to measure for each one, if the machine is not quiet. The check has its attempts instead."""
    http_s: int
    """Seconds of one round of wrk."""
    alone_events: int
    """Events of one round of the script alone."""
    flush_rounds: int
    flush_new_rounds: int
    """Of flushes into documents that don't exist yet."""
    memory_events: int
    memory_events_per_window: int
    """What the dedupe memory is laid out for. The default layout is for 10 million: at 2 million events its sets are
    small, which costs the most bytes an event. The short run keeps that proportion."""


FULL = Settings(
    rounds=5,
    again_max=2,
    http_s=4,
    alone_events=400_000,
    flush_rounds=9,
    flush_new_rounds=5,
    memory_events=2_000_000,
    memory_events_per_window=10_000_000,
)
CHECK = Settings(
    rounds=3,
    again_max=0,
    http_s=2,
    alone_events=200_000,
    flush_rounds=5,
    flush_new_rounds=3,
    memory_events=250_000,
    memory_events_per_window=1_250_000,
)
