"""The cache of answers, bounded in bytes and time. Requests for the same answer at the same time share one read.

Called by `api.py`. It holds answers with status 200 only, and never reads a store itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from daemon.response import Response

ENTRY_BYTES = 1_024
"""What an entry takes besides its body and its key: a dozen small objects, 0.7 KiB of them, and room for more."""

Key = tuple[str, str]
"""Path and query."""


class _Cached(NamedTuple):
    until: float
    answer: Response
    bytes: int


class Cache:
    """The cache of one worker. When it is full, the answer that was not asked for longest goes first."""

    def __init__(self, bytes_max: int, monotonic: Callable[[], float]) -> None:
        self._bytes_max = bytes_max
        self._monotonic = monotonic
        self._entries: dict[Key, _Cached] = {}
        """In the order they were last asked for."""
        self._bytes = 0
        self._reading: dict[Key, asyncio.Task[Response]] = {}

    def get(self, key: Key) -> Response | None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        if entry.until <= self._monotonic():
            self._bytes -= entry.bytes
            return None
        self._entries[key] = entry
        return entry.answer

    def put(self, key: Key, answer: Response, ttl_s: float) -> None:
        bytes_ = ENTRY_BYTES + len(answer.body) + len(key[0]) + len(key[1])
        replaced = self._entries.pop(key, None)
        self._bytes += bytes_ - (replaced.bytes if replaced else 0)
        self._entries[key] = _Cached(self._monotonic() + ttl_s, answer, bytes_)
        while self._bytes > self._bytes_max:
            self._bytes -= self._entries.pop(next(iter(self._entries))).bytes

    async def join(self, key: Key, read: Callable[[], Coroutine[Any, Any, Response]]) -> Response:
        """The answer of the read of this key that is under way, or else of a new one. A caller that is cancelled does
        not cancel the read of the others."""
        task = self._reading.get(key)
        if task is None:
            task = asyncio.create_task(read())
            self._reading[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    def _forget(self, key: Key, done: asyncio.Task[Response]) -> None:
        del self._reading[key]
        if not done.cancelled():
            done.exception()  # every waiting caller gets it; without one it is no news
