"""Addresses that are known to be over their limit: the handler refuses a flood of their requests without asking Redis.

The count itself is in `ingest.lua`, in the call that counts the events. So it is exact across workers, and costs no
further round trip. This memory only repeats the reply of Redis, until the moment that the reply named.
"""

from __future__ import annotations

from collections.abc import Callable


class Blocked:
    """At most `addresses_max` addresses. The one that was blocked first is forgotten first, and Redis decides again."""

    def __init__(self, addresses_max: int, clock: Callable[[], float]) -> None:
        """`clock` returns seconds and never goes back."""
        self._addresses_max = addresses_max
        self._clock = clock
        self._until: dict[str, float] = {}

    def block(self, address: str, left_ms: int) -> None:
        self._until.pop(address, None)
        while len(self._until) >= self._addresses_max:
            del self._until[next(iter(self._until))]
        self._until[address] = self._clock() + left_ms / 1000

    def left_ms(self, address: str) -> int:
        """Milliseconds until the address may send again; 0 if it is not known to be blocked."""
        until = self._until.get(address)
        if until is None:
            return 0
        left_ms = int((until - self._clock()) * 1000)
        if left_ms <= 0:
            del self._until[address]
            return 0
        return left_ms
