"""How long and how often each benchmark measures: the full run, and the quick one."""

from __future__ import annotations

from typing import NamedTuple


class Settings(NamedTuple):
    rounds: int
    again_max: int
    """How many more rounds to measure for each one wanted, if the machine is not quiet."""
    http_s: int
    """Seconds of one round of wrk."""
    peers: bool
    """Whether to measure all peers, nginx and FastAPI too: `just bench-peers` installs them."""
    alone_events: int
    """Events of one round of the script alone."""
    flush_rounds: int
    flush_new_rounds: int
    """Of flushes into documents that don't exist yet; 0: none."""
    memory_events: int
    """Beyond what the dedupe memory is laid out for by default (10 million), its sets would become dearer."""
    memory_events_per_window: int
    scale_entities: int
    """The largest flush."""
    read_entities: int
    """Thousands; each has ten daily documents."""


FULL = Settings(
    rounds=5,
    again_max=1,
    http_s=4,
    peers=True,
    alone_events=400_000,
    flush_rounds=9,
    flush_new_rounds=5,
    memory_events=10_000_000,
    memory_events_per_window=10_000_000,
    scale_entities=1_000_000,
    read_entities=1_000_000,
)
QUICK = Settings(
    rounds=3,
    again_max=0,
    http_s=2,
    peers=False,
    alone_events=200_000,
    flush_rounds=5,
    flush_new_rounds=0,
    memory_events=500_000,
    memory_events_per_window=500_000,
    scale_entities=10_000,
    read_entities=20_000,
)
