"""An event that signal handlers may set. The daemon's main process is woken by it: to stop, to reload."""

from __future__ import annotations

from contextlib import suppress
from queue import Empty, SimpleQueue


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
        with suppress(Empty):
            self._calls.get(timeout=timeout_s)

    def clear(self) -> None:
        """Forgets the calls of `set` until now."""
        for _ in range(self._calls.qsize()):
            self._calls.get_nowait()
