"""Records: the events of one group commit as bytes. A reader can tell whether a record is whole.

    marker (4 bytes)   a reader looks for it after damage
    length (u32)       of the payload
    checksum (u32)     CRC-32 of length and payload
    payload            msgpack: [effects, [[event id, entity, index of its effect], ...]]
                       effects: [[[counter, field, amount], ...], ...]

A record holds what will be counted, not what was sent. So a later configuration does not change it. Pure, no I/O.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from daemon.domain.action import Effect
from daemon.domain.event import Event

MARKER = b"\xf5tl\x01"
"""0xF5 never occurs in UTF-8, so no text in a payload looks like a marker. The checksum decides in any case."""

PAYLOAD_BYTES_MAX = 64 * 1024 * 1024
"""A longer length is damage."""

_HEAD = struct.Struct(">4sII")
_LENGTH = struct.Struct(">I")

_Payload = tuple[list[tuple[tuple[str, str, str], ...]], list[tuple[str, str, int]]]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Payload).decode


class Record(NamedTuple):
    """A whole record. `end`: its offset in the segment."""

    events: list[Event]
    end: int


class Damage(NamedTuple):
    """Bytes that are no record. `torn`: they end the segment, as a killed writer leaves them."""

    start: int
    end: int
    torn: bool


def encode(events: Sequence[Event]) -> bytes:
    numbers: dict[Effect, int] = {}
    rows = [(event.event_id, event.entity, numbers.setdefault(event.effect, len(numbers))) for event in events]
    return frame(_encode(([effect.increments for effect in numbers], rows)))


def frame(payload: bytes) -> bytes:
    """A record with this payload."""
    length = _LENGTH.pack(len(payload))
    return _HEAD.pack(MARKER, len(payload), zlib.crc32(payload, zlib.crc32(length))) + payload


def payloads(data: bytes, start: int = 0) -> Iterator[bytes]:
    """The payloads of whole records, whatever they hold. What is damaged is left out."""
    at = start
    while at < len(data):
        if (payload := _payload_at(data, at)) is None:
            at = data.find(MARKER, at + 1)
            at = len(data) if at == -1 else at
        else:
            yield bytes(payload)
            at += _HEAD.size + len(payload)


def scan(data: bytes, start: int = 0) -> Iterator[Record | Damage]:
    """The records of a segment from `start` on, in order, and the damaged stretches between them."""
    at = damaged_from = start
    while at < len(data):
        record = _record_at(data, at)
        if record is None:
            at = data.find(MARKER, at + 1)
            at = len(data) if at == -1 else at
            continue
        if damaged_from < at:
            yield Damage(damaged_from, at, torn=False)
        yield record
        at = damaged_from = record.end
    if damaged_from < len(data):
        yield Damage(damaged_from, len(data), torn=True)


def _payload_at(data: bytes, at: int) -> memoryview | None:
    if len(data) - at < _HEAD.size:
        return None
    marker, length, checksum = _HEAD.unpack_from(data, at)
    end = at + _HEAD.size + length
    if marker != MARKER or length > PAYLOAD_BYTES_MAX or end > len(data):
        return None
    payload = memoryview(data)[at + _HEAD.size : end]
    return payload if zlib.crc32(payload, zlib.crc32(_LENGTH.pack(length))) == checksum else None


def _record_at(data: bytes, at: int) -> Record | None:
    payload = _payload_at(data, at)
    if payload is None:
        return None
    try:
        effects, rows = _decode(payload)
        built = [Effect(increments) for increments in effects]
        return Record(
            [Event(event_id, entity, built[number]) for event_id, entity, number in rows],
            at + _HEAD.size + len(payload),
        )
    except (msgspec.MsgspecError, IndexError, UnicodeDecodeError):
        return None  # the checksum is right, the content is not: tallyd did not write it
