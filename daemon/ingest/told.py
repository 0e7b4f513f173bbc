"""Counters that say what they counted, for `tallyd dev`. `boot.py` takes them only if `log.counts` is on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from daemon.buffer.connection import Connection
from daemon.buffer.counters import Counters, Limits
from daemon.buffer.outcome import Counted, Limited
from daemon.buffer.wire import Request
from daemon.counted import TOLD, in_words, times

INTERVAL_S = 0.5
"""Between two lines."""


class ToldCounters(Counters):
    """Those of one shard. Create it in the running loop."""

    def __init__(self, connection: Connection, shard: int, limits: Limits) -> None:
        super().__init__(connection, shard, limits)
        self._loop = asyncio.get_running_loop()
        self._new: Counter[tuple[str, str]] = Counter()
        self._among = 0
        """New events of requests that also had duplicates: Redis does not say which ones were new."""
        self._duplicates = 0
        self._is_due = False

    async def ingest(self, requests: Sequence[Request]) -> list[Counted | Limited]:
        outcomes = await super().ingest(requests)
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, Counted):
                self._note(request, outcome)
        return outcomes

    def _note(self, request: Request, outcome: Counted) -> None:
        taken = len(request.events) - outcome.limited
        self._duplicates += taken - outcome.new
        if outcome.new < taken:
            self._among += outcome.new
        else:
            for event in request.events[:taken]:
                if event.effect.visit is not None:  # a visitor's repetition counts less, and Redis does not say so
                    self._new[event.entity, f"{event.effect.visit.action} event"] += 1
                    continue
                for counter, _, amount in event.effect.increments:
                    self._new[event.entity, counter] += int(amount)
        if not self._is_due:
            self._is_due = True
            self._loop.call_later(INTERVAL_S, self._tell)

    def _tell(self) -> None:
        said = [in_words(self._new)] if self._new else []
        said += [f"{times(self._among)}new event beside duplicates"] if self._among else []
        said += [f"{times(self._duplicates)}duplicate, not counted again"] if self._duplicates else []
        if said:
            TOLD.info("%s", ", ".join(said))
        self._new.clear()
        self._among = self._duplicates = 0
        self._is_due = False
