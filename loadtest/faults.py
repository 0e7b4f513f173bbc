"""What happens to the system while it is under load: for each scenario a list of faults and when, as shares of the run.

A fault blocks until it is over, and leaves the system whole, also when the run is stopped meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import NamedTuple

from daemon.devstack import stack
from loadtest.system import System

FAULT_S_MAX = 10.0


class Fault(NamedTuple):
    """`act` is given the system and how long to last, in seconds; what has no length of its own ignores that."""

    name: str
    from_share: float
    to_share: float
    act: Callable[[System, float], None]


def freeze_redis(system: System, seconds: float) -> None:
    """SIGSTOP: calls get no answer, and what they carried is counted when it wakes up."""
    pid = system.info.pids["redis"]
    os.kill(pid, signal.SIGSTOP)
    try:
        system.stopping.wait(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


def stop_redis(system: System, seconds: float) -> None:
    """An ordinary stop, and a start with what it had stored."""
    asyncio.run(stack.take_down(system.data, ("redis",)))
    try:
        system.stopping.wait(seconds)
    finally:
        system.info = asyncio.run(stack.bring_up(system.data, die_with_parent=True)).info


def replace_ingest(system: System, _seconds: float) -> None:
    """A new daemon beside the old one, on the same port; then the old one is asked to stop."""
    before, system.ingest = system.ingest, system.start_ingest()
    before.stop()


FAULTS: dict[str, tuple[Fault, ...]] = {
    "redis_outage": (
        Fault("Redis frozen", 0.2, 0.4, freeze_redis),
        Fault("Redis stopped", 0.55, 0.75, stop_redis),
    ),
    "rolling_restart": tuple(Fault("ingest replaced", share, share, replace_ingest) for share in (0.2, 0.45, 0.7)),
}
