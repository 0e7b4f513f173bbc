"""What happens to the system while it is under load: for each scenario a list of faults and when, as shares of the run.

A fault blocks until it is over, and leaves the system whole, also when the run is stopped meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from loadtest.system import LoadedSystem

FAULT_S_MAX = 10.0


class Fault(NamedTuple):
    """`act` is given the system and how long to last, in seconds; what has no length of its own ignores that."""

    name: str
    from_share: float
    to_share: float
    act: Callable[[LoadedSystem, float], None]


def freeze_redis(system: LoadedSystem, seconds: float) -> None:
    """SIGSTOP: calls get no answer, and Redis carries them out when it wakes up."""
    redis = system.stack.servers["redis"]
    _between(redis.freeze, redis.thaw, system, seconds)


def stop_redis(system: LoadedSystem, seconds: float) -> None:
    """An ordinary stop, and a start with the stored data."""
    redis = system.stack.servers["redis"]
    _between(redis.stop, redis.start, system, seconds)


def _between(begin: Callable[[], None], end: Callable[[], None], system: LoadedSystem, seconds: float) -> None:
    begin()
    try:
        system.stopping.wait(seconds)
    finally:
        end()


def replace_ingest(system: LoadedSystem, _seconds: float) -> None:
    """A new daemon beside the old one, on the same port; then the old one is asked to stop."""
    before, system.serving = system.serving, system.start_ingest(system.serving.port)
    system.end(before)


FAULTS: dict[str, tuple[Fault, ...]] = {
    "redis_outage": (
        Fault("Redis frozen", 0.2, 0.4, freeze_redis),
        Fault("Redis stopped", 0.55, 0.75, stop_redis),
    ),
    "rolling_restart": tuple(Fault("ingest replaced", share, share, replace_ingest) for share in (0.2, 0.45, 0.7)),
}
