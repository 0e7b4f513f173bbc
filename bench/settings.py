"""How long and how often each benchmark measures: the full run (the defaults), and the quick one."""

from __future__ import annotations

from typing import NamedTuple


class Settings(NamedTuple):
    rounds: int = 5
    again_max: int = 1
    """How many more rounds to measure for each one wanted, if the machine is not quiet."""
    http_s: int = 4
    """Seconds of one round of wrk."""
    peers: bool = True
    """Whether to measure all peers, nginx and FastAPI too: `just bench-peers` installs them."""
    alone_events: int = 400_000
    """Events of one round of the script alone."""
    flush_rounds: int = 9
    flush_new_rounds: int = 5
    """Of flushes into documents that don't exist yet; 0: none."""
    memory_events: int = 10_000_000
    """Beyond what the dedupe memory is laid out for by default (10 million), its sets would become dearer."""
    memory_events_per_window: int = 10_000_000
    scale_entities: int = 1_000_000
    """The largest flush."""
    read_entities: int = 1_000_000
    """Thousands; each has ten daily documents."""


FULL = Settings()
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
