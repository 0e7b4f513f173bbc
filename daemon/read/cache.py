"""The cache of answers, bounded in bytes and time. Requests for the same answer at the same time share one read.

Called by `api.py`. It holds answers with status 200 only, and never reads a store itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from daemon.response import Response

ENTRY_BYTES = 1_024
"""What an entry takes besides its body and its key: a dozen small objects, 0.7 KiB of them, and room for more."""
SPELLING_BYTES = 256
"""The same of a spelling."""
SPELLINGS_MAX = 4
"""Spellings of a question that are known by themselves. Any other one has to be parsed."""

Spelling = tuple[str, str]
"""Path and query as they came. Many ask the same question: parameters in another order, defaults, empty parts."""


class _Cached:
    __slots__ = ("answer", "bytes", "kept_until", "question", "spellings", "until")

    def __init__(self, question: str, answer: Response, until: float, kept_until: float) -> None:
        self.question = question
        self.answer = answer
        self.until = until
        self.kept_until = kept_until
        self.spellings: list[Spelling] = []
        self.bytes = ENTRY_BYTES + len(answer.body) + len(question)


class Cache:
    """The cache of one worker. When it is full, the answer that was not asked for longest goes first.

    A question's key is the same however it is spelled. A known spelling is found by one look, and is not parsed.
    """

    def __init__(self, bytes_max: int, monotonic: Callable[[], float]) -> None:
        self._bytes_max = bytes_max
        self._monotonic = monotonic
        self._entries: dict[str, _Cached] = {}
        """By question, in the order they were last asked for."""
        self._spelled: dict[Spelling, _Cached] = {}
        self._bytes = 0
        self._reading: dict[str, asyncio.Task[Response]] = {}

    def spelled(self, spelling: Spelling) -> Response | None:
        """The answer to a question in a known spelling."""
        entry = self._spelled.get(spelling)
        return None if entry is None else self._good(entry)

    def get(self, question: str, spelling: Spelling) -> Response | None:
        """The answer to a question. The spelling is known from now on."""
        entry = self._entries.get(question)
        answer = None if entry is None else self._good(entry)
        if entry is not None and answer is not None:
            self._learn(entry, spelling)
        return answer

    def stale(self, question: str) -> Response | None:
        """The answer to a question, also if its time is over, for one that cannot be read now."""
        entry = self._entries.get(question)
        return entry.answer if entry is not None and self._monotonic() < entry.kept_until else None

    def put(self, question: str, spelling: Spelling, answer: Response, ttl_s: float, stale_s: float = 0.0) -> None:
        """`stale_s`: how long after its time it is kept for `stale`."""
        replaced = self._entries.get(question)
        if replaced is not None:
            self._drop(replaced)
        until = self._monotonic() + ttl_s
        entry = self._entries[question] = _Cached(question, answer, until, until + stale_s)
        self._bytes += entry.bytes
        self._learn(entry, spelling)

    def _good(self, entry: _Cached) -> Response | None:
        now_s = self._monotonic()
        if entry.until <= now_s:
            if entry.kept_until <= now_s:
                self._drop(entry)
            return None
        del self._entries[entry.question]
        self._entries[entry.question] = entry
        return entry.answer

    def _learn(self, entry: _Cached, spelling: Spelling) -> None:
        if len(entry.spellings) < SPELLINGS_MAX:
            bytes_ = SPELLING_BYTES + len(spelling[0]) + len(spelling[1])
            entry.bytes += bytes_
            self._bytes += bytes_
            entry.spellings.append(spelling)
            self._spelled[spelling] = entry
        while self._bytes > self._bytes_max:
            self._drop(next(iter(self._entries.values())))

    def _drop(self, entry: _Cached) -> None:
        del self._entries[entry.question]
        for spelling in entry.spellings:
            # It may mean another question by now: the same path and query on another day.
            if self._spelled.get(spelling) is entry:
                del self._spelled[spelling]
        self._bytes -= entry.bytes

    def is_being_read(self, question: str) -> bool:
        return question in self._reading

    def close(self, question: str) -> None:
        """Its read looks at the stores from now on: a request that comes later has to be read anew."""
        self._reading.pop(question, None)

    async def join(self, question: str, read: Callable[[], Coroutine[Any, Any, Response]]) -> Response:
        """The answer of the read of this question that is under way, or else of a new one.

        A caller that is cancelled does not cancel the read of the others.
        """
        task = self._reading.get(question)
        if task is None:
            task = asyncio.create_task(read())
            self._reading[question] = task
            task.add_done_callback(lambda done: self._forget(question, done))
        return await asyncio.shield(task)

    def _forget(self, question: str, done: asyncio.Task[Response]) -> None:
        if self._reading.get(question) is done:
            del self._reading[question]
        if not done.cancelled():
            done.exception()  # every waiting caller gets it; without one it is no news
