"""How many descriptors (files and connections) a process of the daemon may open.

`server.py` raises the limit at the start, and keeps some back from clients. A server that runs out of descriptors can
neither reach Redis again nor open a file of the spool, and Granian then tries to accept without a pause. `handover.py`
makes the workers stop accepting in this way; `boot.py` undoes it once no client is left.
"""

from __future__ import annotations

import contextlib
import resource

RESERVED = 128
"""Descriptors that no client's connection takes: stores, spool, metrics, pulses."""


def allow_all(pid: int = 0) -> int:
    """Raises a process' limit as far as the system lets it. `pid` 0: this one's, and its children inherit it. Returns
    the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def allow_none(pid: int) -> None:
    """Lets a process open no more. What it has open stays open."""
    with contextlib.suppress(ProcessLookupError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, hard))
