"""From a request's body to its answer, whatever protocol the server speaks.

`app.py` calls it, for single events by way of `exchange.py`, once the sender's account allows it. An event's steps:
decode → (nothing good in it: say why) → one Lua call with the other waiting events, which also counts it against its
sender's limit → answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from operator import attrgetter

from msgspec import structs

from daemon.buffer.keys import by_shard, shard_of
from daemon.buffer.outcome import Counted, Failed, Limited, Outcome
from daemon.buffer.wire import Limit, Request, Visitor
from daemon.config import Config
from daemon.domain.event import Event
from daemon.domain.rejection import Rejection
from daemon.ingest import accounts, response
from daemon.ingest.accounts import Account
from daemon.ingest.batcher import Batcher, Settle
from daemon.ingest.decode import Batch, Decoder, Slices, T, Unreadable
from daemon.ingest.response import ACCEPTED, DUPLICATE, ROOM_TOLD_MAX
from daemon.metrics import IngestTally
from daemon.response import Response, invalid

CHARGES_MAX = 1_000
"""Charges for refused requests of one worker that are on their way to Redis. Beyond it they cost the account only."""

_QUEUE_FULL = Failed("The queue is full.", "queue")


class Handler:
    """Answers the event and batch requests of one worker."""

    def __init__(
        self,
        config: Config,
        decoder: Decoder,
        robot_decoder: Decoder | None,
        batchers: Sequence[Batcher],
        tally: IngestTally,
    ) -> None:
        """`batchers`: one for each shard, in order. `robot_decoder`: for robots; None: theirs are left out."""
        self._batchers = batchers
        self._only_batcher = batchers[0] if len(batchers) == 1 else None
        self._tally = tally
        self._charges = 0
        self._decoding = asyncio.Lock()
        """One batch at a time: so a turn of the loop has one slice, and a refusal reaches those that wait."""
        self.reconfigure(config, decoder, robot_decoder)

    def reconfigure(self, config: Config, decoder: Decoder, robot_decoder: Decoder | None) -> None:
        """Another configuration from the next request on."""
        self._enabled = config.enabled
        self._decoder = decoder
        self._robot_decoder = robot_decoder
        self._call_events_max = config.ingest.call_events_max
        self._unavailable = response.unavailable(config.ingest.retry_after_s)

    def submit(self, body: bytes, account: Account, settle: Settle, visitor: Visitor | None = None) -> bool:
        """Submits a good event. `settle` is told the outcome, and `conclude` turns that into the answer.

        False: it was not submitted, and `event` answers it. `account`: its limit counts the event.
        """
        batcher = self._only_batcher
        if not self._enabled or (batcher is not None and not batcher.has_room(1)):
            return False
        event = (account.decoder or self._decoder).good(body, account.producer)
        if event is None:
            return False
        if batcher is not None:
            batcher.submit(Request(account.name, account.limit, 1, (event,), visitor), settle)
            return True
        name, limit, shards = account.name, account.limit, len(self._batchers)
        batcher = self._batchers[shard_of(event.entity, shards)]
        # The limit of events lies in the sender's own shard. That of new entities lies in each entity's shard.
        own = batcher if limit is None else self._batchers[shard_of(name, shards)]
        if not (batcher.has_room(1) and own.has_room(1)):
            return False
        if own is batcher:
            batcher.submit(Request(name, limit, 1, (event,), visitor), settle)
        else:
            assert limit is not None
            left = limit._replace(events_per_minute=0) if limit.new_entities_per_minute else None
            then = Request(name, left, 1, (event,), visitor)
            own.submit(Request(name, limit, 1, ()), partial(_go_on, batcher, then, settle))
        return True

    def conclude(self, account: Account, outcome: Outcome) -> Response:
        """The answer to one good event."""
        if isinstance(outcome, Counted):
            new = outcome.new
            self._tally.counted(new, 1 - new)
            if account.limit is None or outcome.room > ROOM_TOLD_MAX:
                return ACCEPTED if new else DUPLICATE
            return response.accepted(new, account.limit, outcome.room)
        return self._refused(account, outcome, 1)

    async def event(
        self, body: bytes, account: Account, *, robot: bool = False, visitor: Visitor | None = None
    ) -> Response:
        """Answers one event, good or bad. `robot`: it is not a person's. `visitor`: whose it is."""
        if not self._enabled:
            return response.ACCEPTED
        decoded = (account.decoder or self._decoder_of(robot)).single(body, account.producer)
        if isinstance(decoded, Event):
            if self._leaves_out(robot, account, 1):
                return response.ACCEPTED
            return self.conclude(account, await self._count(account, (decoded,), 1, visitor))
        self._tally.rejected(_reason(decoded))
        return response.NOT_JSON if isinstance(decoded, Unreadable) else invalid(decoded)

    async def batch(
        self, body: bytes, account: Account, *, ndjson: bool, robot: bool = False, visitor: Visitor | None = None
    ) -> Response:
        """Answers a body of many events. Its good events are counted although others are bad."""
        if not self._enabled:
            return response.batch_accepted(Counted(0), 0, Batch([], []))
        decoder = account.decoder or self._decoder_of(robot)
        decode = decoder.lines_in_slices if ndjson else decoder.batch_in_slices
        async with self._decoding:
            if left_ms := account.events_left_ms():  # spent while this body came
                return response.too_many(left_ms, account.limit)
            decoded = await _with_pauses(decode(body, account.producer))
            hopeless = _hopeless(account.limit, decoded)
            account.charge(accounts.EVENT_REFUSED * hopeless)
        if not isinstance(decoded, Batch):
            self._tally.rejected(_reason(decoded))
            return invalid(decoded) if isinstance(decoded, Rejection) else response.NOT_JSON
        events, refused = decoded.events, decoded.refused
        for _, rejection in decoded.rejected:
            self._tally.rejected(_reason(rejection))
        if decoded.rejected_more:
            self._tally.rejected("unlisted", decoded.rejected_more)
        account.charge(accounts.EVENT_REFUSED * refused)
        if not events:
            self.charge(account, refused)
            return response.batch_invalid(decoded)
        if self._leaves_out(robot, account, len(events)):
            return response.batch_accepted(Counted(0), 0, decoded)
        events = events[: len(events) - hopeless]
        outcome = await self._count(account, events, len(events) + refused, visitor)
        if not isinstance(outcome, Counted):
            return self._refused(account, outcome, len(events) + hopeless)
        duplicates = max(0, len(events) - outcome.new - outcome.limited)
        if hopeless:
            outcome = _with_rest(outcome, hopeless, account.limit)
        self._tally.counted(outcome.new, duplicates)
        if outcome.limited:
            self._tally.limited(outcome.limited)
            self._block(account, outcome.left_ms, outcome.limited - hopeless)
        return response.batch_accepted(outcome, duplicates, decoded, account.limit)

    def _decoder_of(self, robot: bool) -> Decoder:  # noqa: FBT001
        return self._robot_decoder or self._decoder if robot else self._decoder

    def _leaves_out(self, robot: bool, account: Account, events: int) -> bool:  # noqa: FBT001
        """Whether good events are not counted, because a robot sent them."""
        if not robot or self._robot_decoder is not None:
            return False
        self._tally.left_out(events)
        account.charge(accounts.EVENT_LEFT_OUT * events)
        return True

    def charge(self, account: Account, cost: int) -> None:
        """Counts refused events or requests against the limit of their sender's events. Nobody waits for it.

        It is left out if the limit is spent, or too many others are on their way.
        """
        if account.limit is None or account.events_left_ms() or self._charges >= CHARGES_MAX:
            return
        self._charges += 1
        batcher = self._batchers[shard_of(account.name, len(self._batchers))]
        batcher.submit(Request(account.name, account.limit, cost, ()), partial(self._charged, account))

    def _charged(self, account: Account, outcome: Outcome) -> None:
        self._charges -= 1
        if isinstance(outcome, Limited):
            account.block(outcome.left_ms)

    async def _count(self, account: Account, events: Sequence[Event], charge: int, visitor: Visitor | None) -> Outcome:
        """The sum over the calls that the events need. If one of them fails, the whole request has failed.

        `charge`: as of a Request.
        """
        batcher, name, limit = self._only_batcher, account.name, account.limit
        if batcher is not None and len(events) <= self._call_events_max:
            request = Request(name, limit, charge, events, visitor)
            return await batcher.ask(request) if batcher.has_room(len(events)) else _QUEUE_FULL
        shards = len(self._batchers)
        parts = by_shard(events, shards, attrgetter("entity"))
        if not all(self._batchers[shard].has_room(len(part)) for shard, part in parts.items()):
            return _QUEUE_FULL
        granted, left_ms, room = len(events), 0, None
        if limit is not None and shards > 1:
            # The limit of events lies in the sender's own shard. That of new entities lies in each entity's shard.
            outcome = await self._batchers[shard_of(name, shards)].ask(Request(name, limit, charge, ()))
            if not isinstance(outcome, Counted):
                return outcome
            granted, left_ms, room = min(granted, charge - outcome.limited), outcome.left_ms, outcome.room
            parts = by_shard(events[:granted], shards, attrgetter("entity"))
            limit = limit._replace(events_per_minute=0) if limit.new_entities_per_minute else None
        most = self._call_events_max
        calls = [(shard, part[at : at + most]) for shard, part in parts.items() for at in range(0, len(part), most)]
        charges = [len(part) for _, part in calls]
        charges[-1] += charge - sum(charges)  # what was refused comes last
        outcomes = await asyncio.gather(
            *(
                self._batchers[shard].ask(Request(name, limit, cost, part, visitor))
                for (shard, part), cost in zip(calls, charges, strict=True)
            )
        )
        return _sum(events, granted, left_ms, room, [part for _, part in calls], outcomes)

    def _refused(self, account: Account, outcome: Limited | Failed, events: int) -> Response:
        if isinstance(outcome, Failed):
            self._tally.refused(outcome.at)
            return self._unavailable
        self._tally.limited(events)
        self._block(account, outcome.left_ms, events)
        return response.too_many(outcome.left_ms, account.limit, outcome.room)

    def _block(self, account: Account, left_ms: int, events: int) -> None:
        """Notes that Redis did not take this many events. A limit of new entities blocks no others."""
        limit = account.limit
        if limit is not None and limit.new_entities_per_minute:
            each_ms = -(-accounts.MINUTE_S * 1000 // limit.events_per_minute) if limit.events_per_minute else 0
            if left_ms > each_ms:  # so long only new entities wait
                account.charge(accounts.EVENT_REFUSED * events)
                return
        account.block(left_ms)


def _go_on(batcher: Batcher, request: Request, settle: Settle, charged: Outcome) -> None:
    """Counts the event of a request, once its sender's limit is charged."""
    if isinstance(charged, Counted):
        batcher.submit(request, lambda outcome: settle(_with_room(outcome, charged)))
    else:
        settle(charged)


def _with_room(outcome: Outcome, charged: Counted) -> Outcome:
    """The outcome of an event, with what its sender's limit has left."""
    return outcome if isinstance(outcome, Failed) else structs.replace(outcome, room=charged.room)


def _reason(refused: Rejection | Unreadable) -> str:
    """Why an event or a body is rejected, as `tallyd_rejections_total` says it: our own names of fields only."""
    return next(iter(refused.errors)) if isinstance(refused, Rejection) else "json"


def _hopeless(limit: Limit | None, decoded: object) -> int:
    """How many events at the end of a batch a whole budget has no room for."""
    if limit is None or not limit.events_per_minute or not isinstance(decoded, Batch):
        return 0
    return max(0, len(decoded.events) - limit.events_per_minute)


def _with_rest(outcome: Counted, rest: int, limit: Limit | None) -> Counted:
    """The outcome of a batch whose last events were not sent at all."""
    assert limit is not None
    left_ms = outcome.left_ms or -(-accounts.MINUTE_S * 1000 // limit.events_per_minute)
    return Counted(outcome.new, outcome.limited + rest, left_ms, outcome.room)


def _sum(
    events: Sequence[Event],
    granted: int,
    left_ms: int,
    room: int | None,
    parts: Sequence[Sequence[Event]],
    outcomes: Sequence[Outcome],
) -> Outcome:
    """The outcome of a request whose first `granted` events went in several calls. `left_ms`: until there is room for
    the next one. `room`: for how many more there is some; None: for as many as the last call left.

    `limited` reaches back to the first event that was not taken. With a limit of new entities, some behind it may have
    been taken by other calls. They are duplicates when they come again.
    """
    new, reached, taken = 0, granted, False
    for part, outcome in zip(parts, outcomes, strict=True):
        if isinstance(outcome, Failed):
            return outcome
        missing = len(part)
        if isinstance(outcome, Counted):
            new, missing, taken = new + outcome.new, outcome.limited, True
        if missing:
            first = part[len(part) - missing]
            reached = min(reached, next(at for at, event in enumerate(events) if event is first))
            left_ms = max(left_ms, outcome.left_ms)
    if room is None:
        room = min(outcome.room for outcome in outcomes if not isinstance(outcome, Failed))
    return Counted(new, len(events) - reached, left_ms, room) if taken else Limited(left_ms, room)


async def _with_pauses(work: Slices[T]) -> T:
    """The result of work, with a turn of the loop for others between its slices."""
    try:
        while True:
            next(work)
            await asyncio.sleep(0)
    except StopIteration as end:
        result: T = end.value
        return result
