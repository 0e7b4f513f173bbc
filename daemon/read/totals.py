"""Totals of entities out of MongoDB: whoever asks while a query is under way goes together in the next one.

A query costs the worker as much as twenty cached answers, whatever it asks for; so many readers at once must not mean
many queries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import NamedTuple

from daemon.domain.rollup import total
from daemon.sinks.mongo import Json, MongoSink

QUERY_IDS_MAX = 1_000
"""Entities of one query, beyond the first request of it."""


class _Waiting(NamedTuple):
    keys: Sequence[str]
    answered: asyncio.Future[dict[str, Json]]


class Totals:
    """One worker's reader. Raises StoreError."""

    def __init__(self, mongo: MongoSink) -> None:
        self._mongo = mongo
        self._waiting: list[_Waiting] = []
        self._query: asyncio.Task[None] | None = None

    async def documents(self, keys: Sequence[str]) -> dict[str, Json]:
        """The totals documents of these entity keys, by key; those that don't exist are absent."""
        waiting = _Waiting(keys, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._query is None:
            self._query = asyncio.create_task(self._work())
        return await waiting.answered

    async def _work(self) -> None:
        """Queries until nobody waits."""
        try:
            while self._waiting:
                await self._answer(self._take())
        finally:
            self._query = None

    def _take(self) -> list[_Waiting]:
        keys = taken = 0
        for waiting in self._waiting:
            keys += len(waiting.keys)
            if taken and keys > QUERY_IDS_MAX:
                break
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch

    async def _answer(self, batch: list[_Waiting]) -> None:
        try:
            found = await self._mongo.totals({key for waiting in batch for key in waiting.keys})
        except Exception as error:  # noqa: BLE001  (whatever it is, whoever waits has to hear of it)
            for waiting in batch:
                if not waiting.answered.done():
                    waiting.answered.set_exception(error)
            return
        for waiting in batch:
            if not waiting.answered.done():
                waiting.answered.set_result({key: found[key] for key in waiting.keys if key in found})


def counted(document: Json | None, counters: Collection[str]) -> dict[str, int]:
    """Each counter's total; zeros for an entity nothing was counted of."""
    return {counter: total(document, counter) if document else 0 for counter in counters}
