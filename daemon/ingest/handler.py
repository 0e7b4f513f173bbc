"""From a request's body to its answer, whatever protocol server is in front.

The steps of an event: rate limit known from before → decode → (nothing good: say why) → one Lua call with everyone
else's events, which also counts the request against its address's limit → answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from daemon.buffer.counters import Request
from daemon.buffer.keys import shard_of
from daemon.config import Config
from daemon.domain.event import Event
from daemon.domain.rejection import Rejection
from daemon.errors import StoreError
from daemon.ingest import response
from daemon.ingest.batcher import Batcher, Outcome, Settle
from daemon.ingest.decode import Batch, Decoder, Unreadable
from daemon.ingest.ratelimit import Blocked
from daemon.metrics import IngestTally
from daemon.response import Response, invalid


class Handler:
    """Answers event and batch requests of one worker."""

    def __init__(
        self,
        config: Config,
        decoder: Decoder,
        batchers: Sequence[Batcher],
        tally: IngestTally,
        monotonic: Callable[[], float],
    ) -> None:
        """`batchers`: one for each shard, in order."""
        self._enabled = config.enabled
        self._limited = config.rate_limit.per_minute > 0
        self._decoder = decoder
        self._batchers = batchers
        self._only_batcher = batchers[0] if len(batchers) == 1 else None
        self._call_events_max = config.ingest.call_events_max
        self._tally = tally
        self._blocked = Blocked(config.rate_limit.blocked_addresses_max, monotonic)
        self._unavailable = response.unavailable(config.ingest.retry_after_s)

    def submit(self, body: bytes, address: str, settle: Settle) -> bool:
        """Has a good event counted, and `settle` told the outcome, which `conclude` turns into the answer.

        False: nothing was done, and `event` knows why. `address` is counted against its limit; "" is exempt.
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
        if isinstance(outcome, int) and outcome >= 0:
            self._tally.counted(outcome, 1 - outcome)
            return response.ACCEPTED
        return self._refused(address, outcome)

    async def event(self, body: bytes, address: str) -> Response:
        """One event, good or bad."""
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
        """Many events: the good ones count although others are bad."""
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
        if isinstance(outcome, int) and outcome >= 0:
            duplicates = len(decoded.events) - outcome
            self._tally.counted(outcome, duplicates)
            return response.batch_accepted(outcome, duplicates, decoded.rejected)
        return self._refused(address, outcome)

    async def _invalid(self, address: str, answer: Response) -> Response:
        """A request with nothing to count still counts against its address's limit."""
        if address:
            outcome = await self._count(address, ())
            if isinstance(outcome, int) and outcome < 0:
                return self._refused(address, outcome)
        return answer

    async def _count(self, address: str, events: Sequence[Event]) -> Outcome:
        """The sum over the calls the events need; if one fails, the whole is unknown and may be sent again."""
        batcher = self._only_batcher
        if batcher is not None and len(events) <= self._call_events_max:
            return await batcher.ask(Request(address, events)) if batcher.has_room(len(events)) else _FULL
        shards = len(self._batchers)
        if address:  # the limit lives in the address's own shard, which need not be the events'
            limiter = self._batchers[shard_of(address, shards)]
            outcome = await limiter.ask(Request(address, ()))
            if isinstance(outcome, StoreError) or outcome < 0:
                return outcome
        by_shard: dict[int, list[Event]] = {}
        for event in events:
            by_shard.setdefault(shard_of(event.entity, shards), []).append(event)
        if not all(self._batchers[shard].has_room(len(mine)) for shard, mine in by_shard.items()):
            return _FULL
        most = self._call_events_max
        outcomes = await asyncio.gather(
            *(
                self._batchers[shard].ask(Request("", mine[at : at + most]))
                for shard, mine in by_shard.items()
                for at in range(0, len(mine), most)
            )
        )
        total = 0
        for outcome in outcomes:
            if isinstance(outcome, StoreError):
                return outcome
            total += outcome
        return total

    def _refused(self, address: str, outcome: Outcome) -> Response:
        if isinstance(outcome, StoreError):
            return self._unavailable
        self._blocked.block(address, -outcome)
        return response.too_many(-outcome)


_FULL = StoreError("The queue is full.")
