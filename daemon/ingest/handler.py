"""From a request's body to its answer, whatever protocol the server speaks.

`app.py` calls it, for single events by way of `exchange.py`, once the sender's account allows it. An event's steps:
decode → (nothing good in it: say why) → one Lua call with the other waiting events, which also counts the request
against its sender's limit → answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from operator import attrgetter

from daemon.buffer.keys import by_shard, shard_of
from daemon.buffer.outcome import Counted, Failed, Limited, Outcome
from daemon.buffer.wire import Request
from daemon.config import Config
from daemon.domain.event import Event
from daemon.domain.rejection import Rejection
from daemon.ingest import accounts, response
from daemon.ingest.accounts import Account
from daemon.ingest.batcher import Batcher, Settle
from daemon.ingest.decode import Batch, Decoder, Slices, T, Unreadable
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
        """Another configuration from the next request on."""
        self._enabled = config.enabled
        self._limited = config.rate_limit.per_minute > 0
        self._decoder = decoder
        self._call_events_max = config.ingest.call_events_max
        self._unavailable = response.unavailable(config.ingest.retry_after_s)

    def submit(self, body: bytes, account: Account, settle: Settle) -> bool:
        """Submits a good event. `settle` is told the outcome, and `conclude` turns that into the answer.

        False: it was not submitted, and `event` answers it. `account`: its limit counts the event.
        """
        batcher = self._only_batcher
        if batcher is None or not self._enabled or not batcher.has_room(1):
            return False
        event = self._decoder.good(body, account.producer)
        if event is None:
            return False
        batcher.submit(Request(self._address(account), (event,)), settle)
        return True

    def conclude(self, account: Account, outcome: Outcome) -> Response:
        """The answer to one good event."""
        if isinstance(outcome, Counted):
            self._tally.counted(outcome.new, 1 - outcome.new)
            return response.ACCEPTED
        return self._refused(account, outcome)

    async def event(self, body: bytes, account: Account) -> Response:
        """Answers one event, good or bad."""
        if not self._enabled:
            return response.ACCEPTED
        decoded = self._decoder.single(body, account.producer)
        if isinstance(decoded, Event):
            return self.conclude(account, await self._count(self._address(account), (decoded,)))
        self._tally.rejected(1)
        return await self._invalid(account, response.NOT_JSON if isinstance(decoded, Unreadable) else invalid(decoded))

    async def batch(self, body: bytes, account: Account, *, ndjson: bool) -> Response:
        """Answers a body of many events. Its good events are counted although others are bad."""
        if not self._enabled:
            return response.batch_accepted(0, 0, Batch([], []))
        decode = self._decoder.lines_in_slices if ndjson else self._decoder.batch_in_slices
        decoded = await _with_pauses(decode(body, account.producer))
        if not isinstance(decoded, Batch):
            self._tally.rejected(1)
            return await self._invalid(
                account, invalid(decoded) if isinstance(decoded, Rejection) else response.NOT_JSON
            )
        self._tally.rejected(decoded.refused)
        account.charge(accounts.EVENT_REFUSED * decoded.refused)
        if not decoded.events:
            return await self._invalid(account, response.batch_invalid(decoded))
        outcome = await self._count(self._address(account), decoded.events)
        if isinstance(outcome, Counted):
            duplicates = len(decoded.events) - outcome.new
            self._tally.counted(outcome.new, duplicates)
            return response.batch_accepted(outcome.new, duplicates, decoded)
        return self._refused(account, outcome)

    def _address(self, account: Account) -> str:
        """The name the request's limit is kept under. "": none is."""
        return account.name if self._limited and not account.producer else ""

    async def _invalid(self, account: Account, answer: Response) -> Response:
        """The answer to a request without a good event. It still counts against its sender's limit."""
        if address := self._address(account):
            outcome = await self._count(address, ())
            if isinstance(outcome, Limited):
                return self._refused(account, outcome)
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

    def _refused(self, account: Account, outcome: Limited | Failed) -> Response:
        if isinstance(outcome, Failed):
            return self._unavailable
        account.block(outcome.left_ms)
        return response.too_many(outcome.left_ms)


async def _with_pauses(work: Slices[T]) -> T:
    """The result of work, with a turn of the loop for others between its slices."""
    try:
        while True:
            next(work)
            await asyncio.sleep(0)
    except StopIteration as end:
        result: T = end.value
        return result
