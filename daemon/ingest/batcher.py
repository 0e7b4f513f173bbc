"""Group commit: requests that arrive while a Lua call is under way wait, and go together in the next one.

One batcher a shard; the handler gives it requests. The queue is bounded in events: the handler asks `has_room` first,
and answers 503 if there is none.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from daemon import metrics
from daemon.buffer.outcome import Failed, Outcome
from daemon.buffer.wire import Request
from daemon.config import Ingest
from daemon.errors import StoreError

if TYPE_CHECKING:
    from daemon.metrics import IngestTally

_log = logging.getLogger(__name__)

Settle = Callable[[Outcome], None]
"""Is told a request's outcome, once. Must not raise."""
Call = Callable[[Sequence[Request]], Awaitable[Sequence[Outcome]]]
"""Sends requests to the shard: see `Counters.ingest` and `Durable.ingest`."""


class Batcher:
    """Sends requests to one shard, at most `calls_in_flight_max` calls at a time. Create it in the running loop."""

    def __init__(self, ingest: Call, tally: IngestTally, limits: Ingest) -> None:
        self._ingest = ingest
        self._tally = tally
        self.resize(limits)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[Request, Settle]] = deque()
        self.waiting_events = 0
        self._calls: dict[asyncio.Task[None], float] = {}
        """The calls in flight, and when each began; the oldest is the first."""
        self._scheduled = False

    def resize(self, limits: Ingest) -> None:
        """Other limits from the next request on."""
        self._queue_events_max = limits.queue_events_max
        self._call_events_max = limits.call_events_max
        self._calls_in_flight_max = limits.calls_in_flight_max

    def has_room(self, events: int) -> bool:
        return self.waiting_events + events <= self._queue_events_max

    def ask(self, request: Request) -> asyncio.Future[Outcome]:
        """Queues a request. The future gets its outcome, never an exception."""
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self.submit(request, partial(_resolve, future))
        return future

    def submit(self, request: Request, settle: Settle) -> None:
        """Queues a request."""
        self._waiting.append((request, settle))
        self.waiting_events += len(request.events)
        if not self._scheduled and len(self._calls) < self._calls_in_flight_max:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)  # after the other requests of this turn of the loop

    async def drain(self) -> None:
        """Waits until every request has its outcome."""
        while self._waiting or self._calls:
            self._dispatch()
            await asyncio.wait(list(self._calls))

    def end_stuck(self, call_s_max: float) -> int:
        """Ends the calls that take longer: their requests have failed. Returns how many there were."""
        oldest = self._loop.time() - call_s_max
        stuck = [call for call, began in self._calls.items() if began < oldest]
        for call in stuck:
            call.cancel()
        return len(stuck)

    def _dispatch(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._calls) < self._calls_in_flight_max:
            call = self._loop.create_task(self._call(self._take()))
            self._calls[call] = self._loop.time()

    def _take(self) -> list[tuple[Request, Settle]]:
        """The longest waiting requests that fit one call, at least one."""
        taken = [self._waiting.popleft()]
        events = len(taken[0][0].events)
        while self._waiting and events + len(self._waiting[0][0].events) <= self._call_events_max:
            taken.append(self._waiting.popleft())
            events += len(taken[-1][0].events)
        self.waiting_events -= events
        return taken

    async def _call(self, taken: list[tuple[Request, Settle]]) -> None:
        outcomes: Sequence[Outcome]
        started = self._loop.time()
        try:
            outcomes = await self._ingest([request for request, _ in taken])
            assert len(outcomes) == len(taken), "the store has one outcome a request"
        except StoreError as error:
            self._tally.store_failed(error)
            outcomes = [Failed(str(error), "spool" if error.store == "spool" else "store")] * len(taken)
        except asyncio.CancelledError:  # `end_stuck`
            outcomes = [Failed("The call took too long.")] * len(taken)
        except Exception as error:  # noqa: BLE001  (whatever it is, these requests get an outcome and the next call goes)
            metrics.FAULTS.labels("call").inc()
            _log.exception("A call failed")
            outcomes = [Failed(f"The call failed: {error!r}")] * len(taken)
        self._tally.called(self._loop.time() - started, len(taken))
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._calls.pop(task, None)
        if self._waiting:
            self._dispatch()  # first, so that the store works while these are answered
        for (_, settle), outcome in zip(taken, outcomes, strict=True):
            settle(outcome)


def _resolve(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():  # its client went away
        future.set_result(outcome)
