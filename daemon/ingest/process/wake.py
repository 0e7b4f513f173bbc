"""An event that signal handlers may set. The daemon's main process is woken by it: to stop, to reload."""

from __future__ import annotations

import math
from contextlib import suppress
from queue import Empty, SimpleQueue

LOOK_S = 0.5
"""A signal that arrives just before a wait is handled only when the wait ends: CPython looks for it in between."""


class Wake:
    """Like `threading.Event`, whose lock is not reentrant: a handler that interrupts it, or another handler, may wait
    for ever. `SimpleQueue.put` may be interrupted anywhere (https://docs.python.org/3/library/queue.html)."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Wakes who waits, or who will."""
        self._calls.put(None)

    def wait(self, timeout_s: float | None = None) -> None:
        """Returns once `set` was called since the last `wait`, or after the time."""
        left_s = math.inf if timeout_s is None else timeout_s
        while left_s > 0:
            with suppress(Empty):
                self._calls.get(timeout=min(LOOK_S, left_s))
                return
            left_s -= LOOK_S

    def clear(self) -> None:
        """Forgets the calls of `set` until now."""
        for _ in range(self._calls.qsize()):
            self._calls.get_nowait()
