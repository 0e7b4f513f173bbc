"""The counters of one shard in Redis: ingest, claim, ack, settle. One method a script.

The ingest workers, the flusher, the replica sync, a replay and an import call it. The protocol is in `lua/`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from daemon import traces
from daemon.buffer import scripts
from daemon.buffer.confirm import Confirmation, Memory
from daemon.buffer.connection import Connection, RefusedError
from daemon.buffer.dedupe import bucket_bits
from daemon.buffer.keys import by_shard
from daemon.buffer.outcome import Counted, Limited
from daemon.buffer.protocol import Arg
from daemon.buffer.wire import (
    Amounts,
    Request,
    decode_outcomes,
    encode_call,
    in_order,
    pack,
    part_amounts,
    unlimited,
)
from daemon.config import Config
from daemon.domain.claim import ClaimName
from daemon.domain.counter import NAME_PATTERN, parse_amount
from daemon.domain.event import Event
from daemon.errors import StoreError

NONCE_BYTES = 8
"""Two claims of a shard with one seq are rare already: 2^-64 of them share a nonce, too."""
DUE_PER_CALL = 1_000
"""Entities that one call of `ack.lua` lists: about 1 ms of Redis' time."""


class Limits(NamedTuple):
    """What `ingest.lua` is told besides the events: how the dedupe memory of one shard is laid out."""

    window_s: int
    events_per_window: int

    @classmethod
    def of(cls, config: Config) -> Limits:
        return cls(config.dedupe.window_s, math.ceil(config.dedupe.events_per_window / config.redis.shards))


class ClaimContent(Protocol):
    """What the parts of a claim are added to, in the order they were frozen in."""

    def add(self, amounts: Amounts) -> None: ...


class Keeper(Protocol):
    """What keeps the calls that Redis answered: see `ingest/unconfirmed.py`."""

    def check_room(self) -> None: ...

    async def keep(self, shard: int, call: bytes, memory: Memory) -> None: ...


C = TypeVar("C", bound=ClaimContent)


class Claim(NamedTuple, Generic[C]):
    """A sealed claim. `again`: it was handed out before. `dirty_left`: entities that have live counts now.

    `acked`: the seq of the last claim that Redis has accounted for; 0: there is none. `parts`: what it holds, as Redis
    froze it, in that order."""

    name: ClaimName
    content: C
    dirty_left: int
    acked: int
    parts: list[bytes]
    again: bool

    @property
    def seq(self) -> int:
        return self.name.seq


class Busy(NamedTuple):
    """Another flusher holds the claim in flight for this much longer."""

    left_ms: int


class Empty(NamedTuple):
    """Nothing was claimed. `dirty_left` can be above 0 only if entities without counts were dropped."""

    dirty_left: int


class Behind(NamedTuple):
    """MongoDB's journal holds claims above `acked`, the last one that this Redis has accounted for; 0: none.

    `in_flight`: the sealed claim in flight, if there is one. Nothing was claimed."""

    acked: int
    in_flight: ClaimName | None


class Ahead(NamedTuple):
    """This Redis has accounted for the claim `acked`, and the floor is below it. Nothing was claimed."""

    acked: int


class Counters:
    """The counters of one shard. Methods raise StoreError when Redis does not do what it was asked."""

    def __init__(self, connection: Connection, shard: int, limits: Limits) -> None:
        keys = connection.keys.shard(shard)
        self.shard = shard
        self._connection = connection
        self._ingest_keys = (
            keys.dirty, keys.ledger, keys.seen, keys.counters_prefix, keys.rate_prefix, keys.aside_prefix,
            keys.visit_prefix,
        )  # fmt: skip
        self._ingest_args = (limits.window_s, bucket_bits(limits.events_per_window))
        self._claim_keys = (keys.dirty, keys.claim, keys.counters_prefix, keys.ledger, keys.aside_prefix)
        self._ack_keys = (keys.claim, keys.due, keys.ledger, keys.aside_prefix)
        self._amend_keys = (keys.dirty, keys.claim, keys.counters_prefix, keys.ledger, keys.due, keys.aside_prefix)
        self._keys = keys
        self._entity_prefix = f"{keys.counters_prefix}:"
        self._limits = limits
        self.unconfirmed: Keeper | None = None
        """Keeps each call that was answered until it is safe."""
        self._spanned: dict[str, str | int] = {"db.system.name": "redis", "tallyd.shard": shard}

    @property
    def epoch(self) -> int:
        """When this Redis began to count (µs). It differs once Redis has lost its memory. 0 before the first answer."""
        return self._connection.epoch

    @property
    def is_of_cluster(self) -> bool:
        """Whether this shard may lose its memory while others keep theirs."""
        return self._connection.is_of_cluster

    def with_connection(self, connection: Connection) -> Counters:
        """The same counters, asked over another connection."""
        other = Counters(connection, self.shard, self._limits)
        other.unconfirmed = self.unconfirmed
        return other

    async def ingest(self, requests: Sequence[Request]) -> list[Counted | Limited]:
        """Counts the events of these requests in one round trip. Returns one outcome a request.

        After a StoreError that is no RefusedError it is unknown whether they are counted. Repeating the call is safe,
        but charges their senders again.
        """
        call = encode_call(requests, self._entity_prefix)
        if self.unconfirmed is not None:
            self.unconfirmed.check_room()
        memory = await self.connected()
        outcomes = decode_outcomes(
            await self._connection.run(scripts.INGEST, self._ingest_keys, (call, *self._ingest_args))
        )
        if self.unconfirmed is not None:
            if any(isinstance(outcome, Limited) or outcome.limited for outcome in outcomes):
                if not (taken := list(_taken(requests, outcomes))):
                    return outcomes
                call = encode_call(taken, self._entity_prefix)
            if self._connection.memory is not memory:  # it was opened meanwhile: nobody knows what answered
                memory = Memory("", self._connection.memory.epoch)
            await self.unconfirmed.keep(self.shard, call, memory)
        return outcomes

    async def ingest_again(self, call: bytes) -> None:
        """Sends a call again that was answered. Its events are counted unless they are known. No limit charges them."""
        await self._connection.run(scripts.INGEST, self._ingest_keys, (call, *self._ingest_args, "again"))

    async def claim(
        self,
        content: Callable[[], C],
        *,
        owner: str,
        floor: ClaimName,
        lease_ms: int,
        entities_max: int,
        fields_max: int,
        us_max: int,
        taken_over: Callable[[str], None] = lambda _: None,
    ) -> Claim[C] | Busy | Empty | Behind | Ahead:
        """The claim in flight, or a new one, added to a new `content()`. The same one comes back until its ack.

        It is frozen part by part, in calls of `us_max` microseconds each. If this caller stops after any of them, the
        next claim, by any flusher, finishes it. `taken_over` is told the owner that held it until its lease ran out.
        """
        freeze = partial(self._freeze, owner, lease_ms, *floor, entities_max, fields_max, us_max)
        taken, parts = content(), dict[bytes, bytes]()
        reply = await freeze()
        memory = self._connection.memory
        while True:
            match reply:
                case [b"empty", left]:
                    return Empty(left)
                case [b"busy", left_ms]:
                    return Busy(left_ms)
                case [b"behind", acked, *name]:
                    return Behind(int(acked), ClaimName(int(name[0]), name[1].decode()) if name else None)
                case [b"ahead", acked]:
                    return Ahead(int(acked))
                case [b"more", part, payload, _, *others]:
                    _tell(taken_over, others)
                    # Redis freezes the next part while this one is taken in: 0.96 of a flush's time.
                    following = asyncio.create_task(freeze())
                    try:
                        await asyncio.sleep(0)  # it is sent
                        await self._take(taken, parts, part, payload)
                        reply = await following
                    finally:
                        following.cancel()  # it has ended, unless this failed
                        await asyncio.wait({following})
                case [b"new", seq, payload, left, acked, nonce, names, *others]:
                    _tell(taken_over, others)
                    await self._take(taken, parts, seq, payload)
                    if parts.keys() == set(names) and memory is self._connection.memory:
                        return Claim(_named(seq, nonce), taken, left, int(acked), [*parts.values()], again=False)
                    reply = await freeze()  # others froze some of it, or Redis came back with an older state
                case [b"again", seq, flat, left, acked, nonce, *others]:
                    _tell(taken_over, others)
                    taken, parts = content(), {}
                    for part, payload in in_order(zip(flat[::2], flat[1::2], strict=True)):
                        await self._take(taken, parts, part, payload)
                    return Claim(_named(seq, nonce), taken, left, int(acked), [*parts.values()], again=True)
                case _:
                    raise AssertionError(f"claim.lua returned {reply!r:.100}")

    async def ack(self, name: ClaimName, acked: int, booked: Sequence[tuple[str, int]], due: Sequence[str]) -> bool:
        """Forgets the claim. The same step books ledger amounts and lists the entities that became due.

        `acked`: the claim before it in the journal. Of many entities, most are listed by calls before that step.
        Returns False, and changes nothing, if that claim is not in flight (any more), or not after `acked`.
        """
        last = max(0, len(due) - 1) // DUE_PER_CALL * DUE_PER_CALL
        for at in range(0, last, DUE_PER_CALL):
            if not await self._ack(*name, acked, pack([]), pack(due[at : at + DUE_PER_CALL]), "more"):
                return False
        return await self._ack(*name, acked, pack(_flat(booked)), pack(due[last:]), "")

    async def amend(
        self, name: ClaimName, acked: int, parts: Sequence[bytes], booked: Sequence[tuple[str, int]], due: Sequence[str]
    ) -> bool:
        """Accounts for a claim of the journal that this Redis forgot. `acked`: the claim before it. `parts`: its
        content; none, if what is live and in flight is to stay as it is.

        Returns False, and changes nothing, if Redis has accounted for another claim than `acked`."""
        args: tuple[Arg, ...] = (acked, *name, _nonce(), pack(_flat(booked)), pack(due), *parts)
        with traces.span("amend.lua", self._spanned):
            return bool(await self._connection.run(scripts.AMEND, self._amend_keys, args))

    async def content(self, content: Callable[[], C], parts: Sequence[bytes]) -> C:
        """The content of a claim of the journal: its parts, added to a new `content()`."""
        taken, found = content(), dict[bytes, bytes]()
        for number, payload in enumerate(parts):
            await self._take(taken, found, b"%d" % number, payload, payload)
        return taken

    async def connected(self) -> Memory:
        """What answers on the connection, which is open then."""
        if not self._connection.is_open:
            await self._connection.connect()
        return self._connection.memory

    def is_still(self, memory: Memory) -> bool:
        """Whether the next call goes to what `connected` told, which was not emptied since, as far as is known."""
        return self._connection.is_open and self._connection.memory is memory

    async def confirm(self, timeout_ms: int) -> Confirmation | None:
        """What replicas hold by now, see `Connection.confirm`. None if this user of Redis may not ask."""
        try:
            return await self._connection.confirm(timeout_ms)
        except RefusedError:
            return None

    async def look(self) -> None:
        """Learns the epoch anew. An open connection does not notice that Redis was emptied."""
        await self._connection.ping()

    async def mark(self, *, flushed: bool) -> None:
        """Renews the marks of Redis: at once if something was `flushed`, so that its loss is noticed.

        Raises nothing: Redis may take no writes at the moment.
        """
        with contextlib.suppress(StoreError):
            await self._connection.mark(*((0,) if flushed else ()))

    async def acked(self) -> int:
        """The seq of the last claim that Redis has accounted for; 0 if there is none."""
        return accounted(*await self._connection.command("HMGET", self._keys.claim, "seq", "last", "acked"))

    async def unflushed(self) -> dict[str, int]:
        """What is live and in flight, per counter, by the ledger. Without foreign fields."""
        flat: list[bytes] = await self._connection.command("HGETALL", self._keys.ledger)
        left: dict[str, int] = {}
        for field, amount in parse_ledger(dict(zip(flat[::2], flat[1::2], strict=True))).items():
            what, _, counter = field.partition(":")
            if what in ("accepted", "flushed", "dead") and re.match(NAME_PATTERN, counter):
                left[counter] = left.get(counter, 0) + (amount if what == "accepted" else -amount)
        return {counter: amount for counter, amount in left.items() if amount > 0}

    async def flushed(self) -> dict[str, int]:
        """Per counter, what Redis has accounted for: what its ledger says is flushed or dead."""
        flat: list[bytes] = await self._connection.command("HGETALL", self._keys.ledger)
        found: dict[str, int] = {}
        for field, amount in parse_ledger(dict(zip(flat[::2], flat[1::2], strict=True))).items():
            what, _, counter = field.partition(":")
            if what in ("flushed", "dead"):
                found[counter] = found.get(counter, 0) + amount
        return found

    async def booked_counters(self) -> set[str]:
        """The counters that this Redis ever counted."""
        fields: list[bytes] = await self._connection.command("HKEYS", self._keys.ledger)
        names = (field.decode(errors="backslashreplace").partition(":") for field in fields)
        return {counter for what, _, counter in names if what == "accepted"}

    async def dirty(self) -> int:
        """How many entities have live counts."""
        return int(await self._connection.command("SCARD", self._keys.dirty))

    async def due(self, rows_max: int) -> list[tuple[str, str]]:
        """The entities that have been due the longest, with their scores as `settle` wants them."""
        flat: list[bytes] = await self._connection.command("ZRANGE", self._keys.due, 0, rows_max - 1, "WITHSCORES")
        texts = [part.decode(errors="backslashreplace") for part in flat]
        return list(zip(texts[::2], texts[1::2], strict=True))

    async def count_due(self) -> int:
        """How many entities are due: their MySQL row must be set."""
        return int(await self._connection.command("ZCARD", self._keys.due))

    async def begin_sync(self, entities: Sequence[str]) -> None:
        """Marks entities whose rows are about to be set, until `end_sync`."""
        await self._connection.run(scripts.BEGIN_SYNC, (self._keys.syncing,), (pack(entities),))

    async def end_sync(self, entities: Sequence[str]) -> None:
        """Removes the marks. Call it once it is recorded which totals the rows hold."""
        if entities:
            await self._connection.command("SREM", self._keys.syncing, *entities)

    async def settle(self, entities: Sequence[tuple[str, str]]) -> int:
        """Takes (entity, score) pairs off the due list, unless they became due again. Returns how many."""
        flat = [text for pair in entities for text in pair]
        return int(await self._connection.run(scripts.SETTLE, (self._keys.due,), (pack(flat),)))

    async def note_missing(self, entities: int) -> None:
        """Books that a sync found no row for so many entities. `tallyd status` shows it."""
        if entities:
            await self._connection.command("HINCRBY", self._keys.ledger, "missing", entities)

    async def postpone(self, entities: Sequence[str]) -> int:
        """Moves entities that are due to the end of the list. Returns how many were not at the end already.

        The end is half a seq after the last one: after all that is due, before all that becomes due later.
        """
        last: list[bytes] = await self._connection.command("ZRANGE", self._keys.due, -1, -1, "WITHSCORES")
        if not last or not entities:
            return 0
        end = f"{math.floor(float(last[1])) + 0.5:.1f}"
        pairs = [text for entity in entities for text in (end, entity)]
        return int(await self._connection.command("ZADD", self._keys.due, "XX", "GT", "CH", *pairs))

    async def note_refused(self, reasons: Mapping[str, str]) -> None:
        """Records which entities' rows MySQL refused, and why. `tallyd status` shows how many."""
        if reasons:
            flat = [text for pair in reasons.items() for text in pair]
            await self._connection.command("HSET", self._keys.refused, *flat)

    async def forget_refused(self, entities: Sequence[str]) -> None:
        """Removes the records that `note_refused` made of these entities."""
        if entities and await self._connection.command("HLEN", self._keys.refused):
            await self._connection.command("HDEL", self._keys.refused, *entities)

    async def _freeze(self, *args: Arg) -> list[Any]:
        with traces.span("claim.lua", self._spanned):
            reply: list[Any] = await self._connection.run(scripts.CLAIM, self._claim_keys, (*args, _nonce()))
        return reply

    async def _ack(self, *args: Arg) -> bool:
        with traces.span("ack.lua", self._spanned):
            return bool(await self._connection.run(scripts.ACK, self._ack_keys, args))

    async def _take(
        self, content: ClaimContent, parts: dict[bytes, bytes], part: bytes, payload: bytes, *journaled: bytes
    ) -> None:
        """`journaled`: the payload again, if the part is in the journal, and maybe not in Redis."""
        if payload:
            parts[part] = payload
            content.add(await part_amounts(part, payload, lambda part: self._unfold(part, *journaled)))

    async def _unfold(self, *args: bytes) -> list[Any]:
        parts: list[Any] = await self._connection.run(scripts.UNFOLD, (self._keys.claim,), args)
        return parts


def accounted(seq: bytes | str | None, last: bytes | str | None, acked: bytes | str | None) -> int:
    """The last claim that Redis has accounted for, by these fields of the claim's hash; 0: none. See `claim.lua`."""
    return int((acked if seq else last) or 0)


def _named(seq: bytes, nonce: bytes) -> ClaimName:
    return ClaimName(int(seq), nonce.decode(errors="backslashreplace"))


def _nonce() -> str:
    return secrets.token_hex(NONCE_BYTES)


def _flat(booked: Sequence[tuple[str, int]]) -> list[str]:
    return [text for field, amount in booked for text in (field, str(amount))]


def _taken(requests: Sequence[Request], outcomes: Sequence[Counted | Limited]) -> Iterator[Request]:
    """What was taken of the requests: the others were refused, and may not be counted later."""
    for request, outcome in zip(requests, outcomes, strict=True):
        if isinstance(outcome, Counted):
            taken = request.events[: len(request.events) - outcome.limited]
            if taken:
                yield msgspec.structs.replace(request, charge=len(taken), events=taken)


def _tell(taken_over: Callable[[str], None], owners: Sequence[bytes]) -> None:
    for owner in owners:
        taken_over(owner.decode(errors="backslashreplace"))


async def ingest_events(counters: Sequence[Counters], events: Sequence[Event]) -> int:
    """Counts events of any shards, without a rate limit, and returns how many were new. `counters`: one a shard."""
    new = 0
    for shard, part in by_shard(events, len(counters), attrgetter("entity")).items():
        (outcome,) = await counters[shard].ingest([unlimited(part)])
        assert isinstance(outcome, Counted), "a request without a limit is never limited"
        new += outcome.new
    return new


def parse_ledger(ledger: Mapping[bytes, bytes]) -> dict[str, int]:
    """The ledger's entries, without foreign ones: a value that is no amount. The next call that books there moves such
    a value aside."""
    parsed = {
        field.decode(errors="backslashreplace"): parse_amount(text.decode(errors="backslashreplace"))
        for field, text in sorted(ledger.items())
    }
    return {field: amount for field, amount in parsed.items() if amount is not None}
