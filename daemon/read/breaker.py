"""The breaker of a store: while it does not answer, reads are refused without asking it.

A read that waits for a store that never answers holds memory for `read.timeout_ms`, and a hundred of them that time out
together hold the loop, which also takes events. So after the first ones the breaker opens. Then one read at a time
tries whether the store answers a ping. All others are refused at once. MongoDB has one. MySQL has one, too: without it
reads have no names.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from daemon.errors import StoreError
from daemon.retry import jittered

FAILURES_MAX = 2
"""Questions in a row that got no answer. Then the breaker opens."""
PAUSE_S = 0.5
"""The longest from a trial that failed to the next one."""

_log = logging.getLogger(__name__)


class Breaker:
    """Of one worker."""

    def __init__(self, store: str, ping: Callable[[], Awaitable[object]], monotonic: Callable[[], float]) -> None:
        """`ping` raises StoreError if the store does not answer."""
        self._store = store
        self._ping = ping
        self._monotonic = monotonic
        self._failures = 0
        self._trying = False
        self._next_at_s = 0.0

    @property
    def open(self) -> bool:
        """Whether reads are refused."""
        return self._failures >= FAILURES_MAX

    def answered(self) -> None:
        if self.open:
            _log.warning("%s answers again: reads ask it again.", self._store)
        self._failures = 0

    def failed(self) -> None:
        """A question got no answer."""
        self._failures += 1
        if self._failures == FAILURES_MAX:
            self._next_at_s = self._monotonic() + jittered(PAUSE_S)
            _log.error("%s does not answer: no read asks it until it does.", self._store)

    async def lets_pass(self) -> bool:
        """Whether a read may ask. If the breaker is open and it is time, this one tries a ping first."""
        if not self.open:
            return True
        if self._trying or self._monotonic() < self._next_at_s:
            return False
        self._trying = True
        try:
            await self._ping()
        except StoreError:  # it may answer again, and refuse our password
            return False
        else:
            self.answered()
            return True
        finally:
            self._trying = False
            self._next_at_s = self._monotonic() + jittered(PAUSE_S)
