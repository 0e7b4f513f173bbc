"""The counters of one shard in Redis: ingest, claim, ack, settle. One method a script; the protocol is in `lua/`."""

from __future__ import annotations

import asyncio
import hashlib
import math
import struct
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from daemon.buffer import scripts
from daemon.buffer.connection import Arg, Connection
from daemon.buffer.keys import shard_keys, shard_of
from daemon.domain.action import Effect
from daemon.domain.counter import parse_amount
from daemon.domain.event import Event

EVENTS_PER_BUCKET = 244
"""What a bucket of the dedupe memory is laid out for; `ingest.lua` has the same number and its reason."""

_BITS_MIN, _BITS_MAX = 4, 28
_digest_parts = struct.Struct("<qI4x").unpack
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[str | int]).decode


DUE_PER_CALL = 1_000
"""Entities that one call of `ack.lua` lists: about 1 ms of Redis' time."""

Amounts = list[tuple[str, list[tuple[str, str]]]]
"""Entity key → (field, amount) pairs, as text. An entity may come twice: once for each part it was frozen into."""


class Request(msgspec.Struct, frozen=True, gc=False):
    """What one client sent: the address its rate limit is counted for ("": not limited) and its admitted events."""

    address: str
    events: Sequence[Event]


class Limits(NamedTuple):
    """What `ingest` is told besides the events."""

    rate_per_minute: int
    window_s: int
    events_per_window: int


class Content(Protocol):
    """What the parts of a batch are added to, in the order they were frozen in."""

    def add(self, amounts: Amounts) -> None: ...


C = TypeVar("C", bound=Content)


class Claim(NamedTuple, Generic[C]):
    """A sealed batch. `again`: it was handed out before."""

    seq: int
    content: C
    again: bool
    dirty_left: int


class Busy(NamedTuple):
    """Another flusher holds the batch in flight for this much longer."""

    left_ms: int


class Empty(NamedTuple):
    """Nothing was claimed. `dirty_left` can be above 0 only if entities without counts were dropped."""

    dirty_left: int


def dedupe_bits(events_per_window: int) -> int:
    """Bits of a bucket's number so that this many events fill buckets to about EVENTS_PER_BUCKET."""
    return min(_BITS_MAX, max(_BITS_MIN, math.ceil(math.log2(max(1, events_per_window / EVENTS_PER_BUCKET)))))


class Counters:
    """The counters of one shard. Methods raise StoreError when Redis does not do what it was asked."""

    def __init__(self, connection: Connection, shard: int, limits: Limits) -> None:
        keys = shard_keys(shard)
        self.shard = shard
        self._connection = connection
        self._ingest_keys = (
            keys.dirty, keys.ledger, keys.seen, keys.counters_prefix, keys.rate_prefix, keys.aside_prefix
        )  # fmt: skip
        self._ingest_args = (limits.rate_per_minute, limits.window_s, dedupe_bits(limits.events_per_window))
        self._claim_keys = (keys.dirty, keys.claim, keys.counters_prefix, keys.ledger, keys.aside_prefix)
        self._ack_keys = (keys.claim, keys.replica, keys.ledger, keys.aside_prefix)
        self._keys = keys
        self._entity_prefix = f"{keys.counters_prefix}:"
        self._limits = limits

    @property
    def epoch(self) -> int:
        """Tells a Redis that lost its memory from the one before. Known once anything was answered."""
        return self._connection.epoch

    def limit_rate(self, per_minute: int) -> None:
        """Another rate limit from the next call on; a minute that has begun keeps its count."""
        self._ingest_args = (per_minute, *self._ingest_args[1:])

    def over(self, connection: Connection) -> Counters:
        """The same counters by way of another connection."""
        return Counters(connection, self.shard, self._limits)

    async def ingest(self, requests: Sequence[Request]) -> list[int]:
        """Counts the events of these requests in one round trip.

        Returns per request the events counted (the others were duplicates), or minus the milliseconds to wait if its
        address is over its limit. After a StoreError that is no RefusedError the outcome is unknown; repeating is safe.
        """
        reply: list[int] = await self._connection.run(
            scripts.INGEST, self._ingest_keys, (_encode(requests, self._entity_prefix), *self._ingest_args)
        )
        return reply

    async def claim(
        self,
        content: Callable[[], C],
        *,
        owner: str,
        floor: int,
        lease_ms: int,
        entities_max: int,
        fields_max: int,
        us_max: int,
    ) -> Claim[C] | Busy | Empty:
        """The batch in flight, or a new one, added to a new `content()`. Repeatable: the same batch comes back until it
        is acknowledged.

        It is frozen by as many calls as it takes at `us_max` each; left after any of them, it is finished by the next
        claim, whoever makes it.
        """
        freeze = partial(self._freeze, owner, lease_ms, floor, entities_max, fields_max, us_max)
        taken, parts = content(), set[bytes]()
        reply = await freeze()
        opened = self._connection.opened
        while True:
            match reply:
                case [b"empty", left]:
                    return Empty(left)
                case [b"busy", left_ms]:
                    return Busy(left_ms)
                case [b"more", part, payload, _]:
                    # Redis freezes the next part while this one is taken in: 0.96 of a flush's time.
                    following = asyncio.create_task(freeze())
                    try:
                        await asyncio.sleep(0)  # it is sent
                        await self._take(taken, parts, part, payload)
                        reply = await following
                    finally:
                        following.cancel()  # it has ended, unless this failed
                        await asyncio.wait({following})
                case [b"new", seq, payload, left, names]:
                    await self._take(taken, parts, seq, payload)
                    if parts == set(names) and opened == self._connection.opened:
                        return Claim(int(seq), taken, again=False, dirty_left=left)
                    reply = await freeze()  # others froze some of it, or Redis came back with an older state
                case [b"again", seq, flat, left]:
                    taken = content()
                    for part, payload in in_order(zip(flat[::2], flat[1::2], strict=True)):
                        await self._take(taken, parts, part, payload)
                    return Claim(int(seq), taken, again=True, dirty_left=left)
                case _:
                    raise AssertionError(f"claim.lua returned {reply!r:.100}")

    async def ack(self, seq: int, booked: Sequence[tuple[str, int]], due: Sequence[str]) -> bool:
        """Forgets the batch `seq`, booking ledger amounts and listing entities due for MySQL in the same step.

        Many entities are listed by calls of their own before that step. Returns False, and changes nothing, if that
        batch is not in flight (any more).
        """
        flat = [text for field, amount in booked for text in (field, str(amount))]
        last = max(0, len(due) - 1) // DUE_PER_CALL * DUE_PER_CALL
        for at in range(0, last, DUE_PER_CALL):
            if not await self._ack(seq, _pack([]), _pack(due[at : at + DUE_PER_CALL]), "more"):
                return False
        return await self._ack(seq, _pack(flat), _pack(due[last:]), "")

    async def dirty(self) -> int:
        """How many entities have live counts."""
        return int(await self._connection.command("SCARD", self._keys.dirty))

    async def due(self, rows_max: int) -> list[tuple[str, str]]:
        """The entities that are longest behind in MySQL, with their scores as `settle` wants them."""
        flat: list[bytes] = await self._connection.command("ZRANGE", self._keys.replica, 0, rows_max - 1, "WITHSCORES")
        texts = [part.decode(errors="backslashreplace") for part in flat]
        return list(zip(texts[::2], texts[1::2], strict=True))

    async def behind(self) -> int:
        """How many entities are behind in MySQL."""
        return int(await self._connection.command("ZCARD", self._keys.replica))

    async def begin_sync(self, entities: Sequence[str]) -> None:
        """Marks entities whose rows are about to be set, until `end_sync`."""
        await self._connection.run(scripts.BEGIN_SYNC, (self._keys.syncing,), (_pack(entities),))

    async def end_sync(self, entities: Sequence[str]) -> None:
        """Takes the marks off: it is known, and recorded, which totals the rows hold."""
        if entities:
            await self._connection.command("SREM", self._keys.syncing, *entities)

    async def settle(self, entities: Sequence[tuple[str, str]]) -> int:
        """Takes (entity, score) pairs off the replica list unless they became due again. Returns how many."""
        flat = [text for pair in entities for text in pair]
        return int(await self._connection.run(scripts.SETTLE, (self._keys.replica,), (_pack(flat),)))

    async def postpone(self, entities: Sequence[str]) -> int:
        """Moves entities to the end of the replica list, if they are on it. Returns how many were not there already.

        The end is half a seq behind the last: behind everything that is due, before everything that will become so.
        """
        last: list[bytes] = await self._connection.command("ZRANGE", self._keys.replica, -1, -1, "WITHSCORES")
        if not last or not entities:
            return 0
        end = f"{math.floor(float(last[1])) + 0.5:.1f}"
        pairs = [text for entity in entities for text in (end, entity)]
        return int(await self._connection.command("ZADD", self._keys.replica, "XX", "GT", "CH", *pairs))

    async def note_refused(self, reasons: Mapping[str, str]) -> None:
        """Records for `status` which entities' rows MySQL does not take, and why."""
        if reasons:
            flat = [text for pair in reasons.items() for text in pair]
            await self._connection.command("HSET", self._keys.refused, *flat)

    async def forget_refused(self, entities: Sequence[str]) -> None:
        """Takes back what `note_refused` recorded of these."""
        if entities and await self._connection.command("HLEN", self._keys.refused):
            await self._connection.command("HDEL", self._keys.refused, *entities)

    async def _freeze(self, *args: Arg) -> list[Any]:
        reply: list[Any] = await self._connection.run(scripts.CLAIM, self._claim_keys, args)
        return reply

    async def _ack(self, *args: Arg) -> bool:
        return bool(await self._connection.run(scripts.ACK, self._ack_keys, args))

    async def _take(self, content: Content, parts: set[bytes], part: bytes, payload: bytes) -> None:
        if payload:
            parts.add(part)
            content.add(await part_amounts(part, payload, self._unfold))

    async def _unfold(self, part: bytes) -> list[Any]:
        parts: list[Any] = await self._connection.run(scripts.UNFOLD, (self._keys.claim,), (part,))
        return parts


async def ingest_events(counters: Sequence[Counters], events: Sequence[Event]) -> int:
    """Counts events of any shards, without a rate limit, and returns how many were new. `counters`: one a shard."""
    parts: dict[int, list[Event]] = {}
    for event in events:
        parts.setdefault(shard_of(event.entity, len(counters)), []).append(event)
    return sum([(await counters[shard].ingest([Request("", part)]))[0] for shard, part in parts.items()])


def parse_ledger(ledger: Mapping[bytes, bytes]) -> dict[str, int]:
    """The ledger's entries. What is no amount is foreign and left out; the next call that books there moves it away."""
    parsed = {
        field.decode(errors="backslashreplace"): parse_amount(text.decode(errors="backslashreplace"))
        for field, text in sorted(ledger.items())
    }
    return {field: amount for field, amount in parsed.items() if amount is not None}


def in_order(parts: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """(part, payload) pairs as they were frozen. Whoever builds a batch's documents must take them in this order: which
    of several amounts is one too many for a document depends on it."""
    return sorted(parts, key=lambda part: int(part[0]))


def parts_of(claim: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """The (part, payload) pairs of a claim hash, read whole; none if no batch is in flight. See `claim.lua`."""
    seq = claim.get(b"seq")
    if not seq:
        return []
    named = [(field.partition(b":"), payload) for field, payload in claim.items()]
    return in_order((part or seq, payload) for (name, _, part), payload in named if name == b"payload")


async def part_amounts(part: bytes, payload: bytes, unfold: Callable[[bytes], Awaitable[list[Any]]]) -> Amounts:
    """A part of the batch of `claim.lua`. `unfold` runs `unfold.lua` for the part: it is asked if a foreign value in
    the payload is no text; bytes that are none are then shown as escapes."""
    try:
        flat = _unpack(payload)
    except UnicodeDecodeError:
        flat = [
            each.decode(errors="backslashreplace") if isinstance(each, bytes) else each for each in await unfold(part)
        ]
    return list(_entities(flat))


def _entities(flat: list[Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    at = 0
    while at < len(flat):
        entity, n = flat[at], flat[at + 1]
        pairs = flat[at + 2 : at + 2 + 2 * n]
        yield entity, list(zip(pairs[::2], pairs[1::2], strict=True))
        at += 2 + 2 * n


def _encode(requests: Sequence[Request], prefix: str) -> bytes:
    """The call as `ingest.lua` reads it: each distinct effect once, then the requests and events, flat. `prefix`: of
    the key of an entity's hash."""
    numbers: dict[Effect, int] = {}
    items: list[str | int] = []
    for request in requests:
        items += (request.address, len(request.events))
        for event in request.events:
            number = numbers.get(event.effect)
            if number is None:
                number = numbers[event.effect] = len(numbers) + 1
            # 128 bits of the event id: 64 are the member, 32 choose its bucket.
            member, bucket = _digest_parts(hashlib.blake2b(event.event_id.encode(), digest_size=16).digest())
            items += (bucket, str(member), prefix + event.entity, number)
    effects = [[text for increment in effect.increments for text in increment] for effect in numbers]
    return _pack((effects, items))
