"""Waiting for something to become true, with a limit."""

from __future__ import annotations

import time
from collections.abc import Callable

WAIT_TIMEOUT_S = 20.0
POLL_S = 0.02


def wait_until(true: Callable[[], object], what: str, timeout_s: float = WAIT_TIMEOUT_S) -> None:
    """Returns once `true` says so. Raises AssertionError with `what` if it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(POLL_S)
