"""How many reads of a kind are under way at once, and what is said to those that are refused.

`api.py` has a gate for each kind. A read that would cost too much right now raises RefusedReadError: that is no failure
of a store, and its sender may come back.
"""

from __future__ import annotations

import asyncio
from enum import Enum


class RefusedReadError(Exception):
    """Not now. The text is for the client."""


class Kind(Enum):
    """What a read asks of the stores, when the cache does not have it."""

    TOTALS = "one query for all requests that wait"
    SERIES = "one query"
    MANY = "one query that reads thousands of documents"
    TOP = "lists that indexes keep, or a sum over a window"
    SUMMARY = "sums of days, and many top lists"
    FRESH = "Redis, and totals"
    NAMES = "one query of MySQL, by an index"
    CATALOGUE = "nothing"
    STATUS = "each store how it is"


QUICK = frozenset((Kind.TOTALS, Kind.SERIES, Kind.FRESH))
"""Kinds that take a sound MongoDB milliseconds. The others may take it longer than they are given."""


NEVER_STALE = QUICK | {Kind.STATUS}
"""Kinds whose answers are not kept for a time in which they can't be read: an old status would say that all is well."""


WITHOUT_MONGO = frozenset((Kind.NAMES, Kind.CATALOGUE, Kind.STATUS))
"""Kinds that are answered whether MongoDB is there or not."""


class Gate:
    """`async with gate:` waits for a place, for `wait_s` at most. Raises RefusedReadError if none became free."""

    def __init__(self, places: int, wait_s: float) -> None:
        self._places = asyncio.Semaphore(places)
        self._wait_s = wait_s

    async def __aenter__(self) -> None:
        if not self._places.locked():
            await self._places.acquire()  # at once
            return
        try:
            async with asyncio.timeout(self._wait_s):
                await self._places.acquire()
        except TimeoutError:
            raise RefusedReadError("Too many reads of this kind wait already.") from None

    async def __aexit__(self, *_: object) -> None:
        self._places.release()
