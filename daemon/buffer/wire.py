"""The msgpack that goes to the scripts and comes from them: calls of `ingest.lua`, parts of a claim.

`counters.py`, `pending.py` and `due.py` use it. It never talks to Redis; the layouts are in the headers of `lua/`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from daemon.buffer.dedupe import digest_parts, hash_id
from daemon.buffer.outcome import Counted, Limited
from daemon.domain.action import Effect, Visit
from daemon.domain.event import Event

Amounts = list[tuple[str, list[tuple[str, str]]]]
"""Entity key → (field, amount) pairs, as text. An entity that was frozen into two parts comes twice."""
Unfold = Callable[[bytes], Awaitable[list[Any]]]
"""Runs `unfold.lua` for a part."""

SINGLES_KEPT = 4_096
"""Outcomes of single events that are made once: whether it was new, and how much room is left."""

pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[str | int]).decode
_PART = b"payload:"


class Visitor(Protocol):
    """A keyed hash of who sent a request (hashlib's BLAKE2b): a visit goes on from it."""

    def copy(self) -> Visitor: ...
    def update(self, data: bytes, /) -> object: ...
    def hexdigest(self) -> str: ...


class Limit(NamedTuple):
    """What a sender may send in a minute. 0: any number. An entity is new if the event marks it dirty."""

    events_per_minute: int
    new_entities_per_minute: int


class Request(msgspec.Struct, frozen=True, gc=False):
    """What one client sent: its admitted events. `sender`: the name its `limit` is kept under; None: it has none.

    `charge`: what it costs of the limit's events. Those that it brings cost 1 each, so it is never less than that.
    """

    sender: str
    limit: Limit | None
    charge: int
    events: Sequence[Event]
    visitor: Visitor | None = None
    """Who sent them. None: nobody knows, so all count."""


def unlimited(events: Sequence[Event]) -> Request:
    """Of events that are not limited: those of a replay or an import came before, or from the operator."""
    return Request("", None, len(events), events)


def encode_call(requests: Sequence[Request], prefix: str) -> bytes:
    """ARGV 1 of `ingest.lua`: the limits, each distinct effect once, then the requests and their events, flat.

    `prefix`: of the key of an entity's hash.
    """
    numbers: dict[Effect, int] = {}
    items: list[str | int] = []
    limits: list[int] = []
    visits: list[str | int] = []
    last, last_at = None, 0  # nearly all requests of a call have one limit
    for request in requests:
        limit = request.limit
        if limit is not last:
            last, last_at = limit, 0 if limit is None else len(limits) + 1
            limits += limit or ()
        items += (request.sender, last_at, request.charge, len(request.events))
        visitor = request.visitor
        for event in request.events:
            number = numbers.get(event.effect)
            if number is None:
                number = numbers[event.effect] = len(numbers) + 1
            member, bucket = digest_parts(hash_id(event.event_id.encode()).digest())
            if visitor is not None and (visit := event.effect.visit) is not None:
                repeated = numbers.setdefault(visit.repeated, len(numbers) + 1)
                visits += (len(items) + 1, _visit_id(visitor, visit, event), visit.window_ms, repeated)
            items += (bucket, str(member), prefix + event.entity, number)
    effects = [[text for increment in effect.increments for text in increment] for effect in numbers]
    return pack((limits, effects, items, visits) if visits else (limits, effects, items))


def _visit_id(visitor: Visitor, visit: Visit, event: Event) -> str:
    visiting = visitor.copy()
    visiting.update(f"{visit.action} {event.entity}".encode())
    return visiting.hexdigest()


def decode_outcomes(reply: Iterable[int | list[int]]) -> list[Counted | Limited]:
    """The reply of `ingest.lua`, one for each request."""
    try:
        return [_SINGLES[each] for each in reply]  # type: ignore[index]
    except TypeError:  # one of them is no single event
        return [_several(each) if isinstance(each, list) else _SINGLES[each] for each in reply]


class _Singles(dict[int, Counted]):
    """By their replies. Looking one up costs half of what a cached function does."""

    def __missing__(self, reply: int) -> Counted:
        if len(self) >= SINGLES_KEPT:
            self.clear()
        outcome = self[reply] = Counted(reply % 2, room=reply // 2)
        return outcome


_SINGLES = _Singles()


def _several(reply: Sequence[int]) -> Counted | Limited:
    return Limited(*reply) if len(reply) == 2 else Counted(*reply)


def in_order(parts: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """(part, payload) pairs in the order they were frozen in.

    A claim's documents must be built in this order. It decides which of several amounts is too many for a document.
    """
    return sorted(parts, key=lambda part: int(part[0]))


def parts_of(claim: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """The (part, payload) pairs of a claim hash that was read whole. Empty if nothing is in flight. See `claim.lua`."""
    if not claim.get(b"seq"):
        return []
    return in_order((field.removeprefix(_PART), payload) for field, payload in claim.items() if field.startswith(_PART))


async def part_amounts(part: bytes, payload: bytes, unfold: Unfold) -> Amounts:
    """The amounts in a part of a claim.

    If a foreign value in the payload is not UTF-8, `unfold` is asked for the part. Such bytes become escapes.
    """
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
