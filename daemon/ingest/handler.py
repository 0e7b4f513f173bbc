"""From a request's body to its answer, whatever protocol the server speaks.

`app.py` calls it, for single events by way of `exchange.py`. The steps of an event: refuse an address that is known to
be over its limit → decode → (nothing good in it: say why) → one Lua call with the other waiting events, which also
counts the request against its address's limit → answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from operator import attrgetter

from daemon.buffer.keys import by_shard, shard_of
from daemon.buffer.outcome import Counted, Failed, Limited, Outcome
from daemon.buffer.wire import Request
from daemon.config import Config
from daemon.domain.event import Event
from daemon.domain.rejection import Rejection
from daemon.ingest import response
from daemon.ingest.batcher import Batcher, Settle
from daemon.ingest.decode import Batch, Decoder, Unreadable
from daemon.ingest.ratelimit import Blocked
from daemon.metrics import IngestTally
from daemon.response import Response, invalid

_QUEUE_FULL = Failed("The queue is full.")


class Handler:
    """Answers the event and batch requests of one worker."""

    def __init__(self, config: Config, decoder: Decoder, batchers: Sequence[Batcher], tally: IngestTally) -> None:
        """`batchers`: one for each shard, in order."""
        self._batchers = batchers
        self._only_batcher = batchers[0] if len(batchers) == 1 else None
        self._tally = tally
        self.reconfigure(config, decoder)

    def reconfigure(self, config: Config, decoder: Decoder) -> None:
        """Another configuration from the next request on. Addresses that were over the old limit are forgotten."""
        self._enabled = config.enabled
        self._limited = config.rate_limit.per_minute > 0
        self._decoder = decoder
        self._call_events_max = config.ingest.call_events_max
        self._blocked = Blocked(config.rate_limit.blocked_addresses_max, time.monotonic)
        self._unavailable = response.unavailable(config.ingest.retry_after_s)

    def submit(self, body: bytes, address: str, settle: Settle) -> bool:
        """Submits a good event. `settle` is told the outcome, and `conclude` turns that into the answer.

        False: it was not submitted, and `event` answers it. `address`: its limit counts the request; "": none does.
        """
        batcher = self._only_batcher
        if batcher is None or not self._enabled or not batcher.has_room(1):
            return False
        if not self._limited:
            address = ""
        elif self._blocked.left_ms(address):
            return False
        event = self._decoder.good(body)
        if event is None:
            return False
        batcher.submit(Request(address, (event,)), settle)
        return True

    def conclude(self, address: str, outcome: Outcome) -> Response:
        """The answer to one good event."""
        if isinstance(outcome, Counted):
            self._tally.counted(outcome.new, 1 - outcome.new)
            return response.ACCEPTED
        return self._refused(address, outcome)

    async def event(self, body: bytes, address: str) -> Response:
        """Answers one event, good or bad."""
        if not self._enabled:
            return response.ACCEPTED
        if not self._limited:
            address = ""
        elif left_ms := self._blocked.left_ms(address):
            return response.too_many(left_ms)
        decoded = self._decoder.single(body)
        if isinstance(decoded, Event):
            return self.conclude(address, await self._count(address, (decoded,)))
        self._tally.rejected(1)
        return await self._invalid(address, response.NOT_JSON if isinstance(decoded, Unreadable) else invalid(decoded))

    async def batch(self, body: bytes, address: str, *, ndjson: bool) -> Response:
        """Answers a body of many events. Its good events are counted although others are bad."""
        if not self._enabled:
            return response.batch_accepted(0, 0, [])
        if not self._limited:
            address = ""
        elif left_ms := self._blocked.left_ms(address):
            return response.too_many(left_ms)
        decoded = self._decoder.lines(body) if ndjson else self._decoder.batch(body)
        if not isinstance(decoded, Batch):
            self._tally.rejected(1)
            return await self._invalid(
                address, invalid(decoded) if isinstance(decoded, Rejection) else response.NOT_JSON
            )
        self._tally.rejected(len(decoded.rejected))
        if not decoded.events:
            return await self._invalid(address, response.batch_invalid(decoded))
        outcome = await self._count(address, decoded.events)
        if isinstance(outcome, Counted):
            duplicates = len(decoded.events) - outcome.new
            self._tally.counted(outcome.new, duplicates)
            return response.batch_accepted(outcome.new, duplicates, decoded.rejected)
        return self._refused(address, outcome)

    async def _invalid(self, address: str, answer: Response) -> Response:
        """The answer to a request without a good event. It still counts against its address's limit."""
        if address:
            outcome = await self._count(address, ())
            if isinstance(outcome, Limited):
                return self._refused(address, outcome)
        return answer

    async def _count(self, address: str, events: Sequence[Event]) -> Outcome:
        """The sum over the calls that the events need. If one of them fails, the whole request has failed."""
        batcher = self._only_batcher
        if batcher is not None and len(events) <= self._call_events_max:
            return await batcher.ask(Request(address, events)) if batcher.has_room(len(events)) else _QUEUE_FULL
        shards = len(self._batchers)
        if address:  # the limit lies in the address's own shard, which need not be the events'
            outcome = await self._batchers[shard_of(address, shards)].ask(Request(address, ()))
            if not isinstance(outcome, Counted):
                return outcome
        parts = by_shard(events, shards, attrgetter("entity"))
        if not all(self._batchers[shard].has_room(len(part)) for shard, part in parts.items()):
            return _QUEUE_FULL
        most = self._call_events_max
        outcomes = await asyncio.gather(
            *(
                self._batchers[shard].ask(Request("", part[at : at + most]))
                for shard, part in parts.items()
                for at in range(0, len(part), most)
            )
        )
        new = 0
        for outcome in outcomes:
            if not isinstance(outcome, Counted):
                return outcome
            new += outcome.new
        return Counted(new)

    def _refused(self, address: str, outcome: Limited | Failed) -> Response:
        if isinstance(outcome, Failed):
            return self._unavailable
        self._blocked.block(address, outcome.left_ms)
        return response.too_many(outcome.left_ms)
