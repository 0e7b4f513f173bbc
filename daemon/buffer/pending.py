"""What Redis holds of one entity: its live amounts, and those of the claim in flight. Reads only.

The read API calls it for totals that must be exact. A part of a claim never changes. So each is fetched and decoded
once (1 ms for 400 entities), and then answers every question until the next claim.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

from daemon.buffer import scripts
from daemon.buffer.connection import Connection
from daemon.buffer.wire import part_amounts
from daemon.domain.counter import parse_amount, parse_field

CALL_BYTES_MAX = 262_144
"""Of the payloads that one call returns, the last one apart: 0.3 ms of Redis."""


class EntitySnapshot(NamedTuple):
    """One moment of one entity. Amounts per counter, over all days."""

    acked: int
    """The last claim of the shard that Redis has accounted for; 0: none."""
    in_flight: int
    """The seq of the claim in flight, which may be open; 0 without one."""
    live: dict[str, int]
    claimed: dict[str, int]
    """What the claim in flight holds of the entity."""


class _Frozen(NamedTuple):
    """A claim as it was under a seq: its parts, each as entity key → (field, amount) pairs. While it is being fetched,
    `seq` names the last part that was, and there may be parts of claims before."""

    seq: bytes
    parts: dict[bytes, dict[str, list[tuple[str, str]]]]


class Pending:
    """One shard. Methods raise StoreError."""

    def __init__(self, connection: Connection, shard: int, fields_max: int) -> None:
        """`fields_max`: the most counts of an entity, live and in flight, that are read."""
        self._connection = connection
        keys = connection.keys.shard(shard)
        self._keys = (keys.claim, keys.counters_prefix)
        self._claim_key = keys.claim
        self._fields_max = fields_max
        self._frozen = _Frozen(b"", {})
        """The claim last seen in flight."""
        self._decoding = asyncio.Lock()

    async def of(self, entity: str) -> EntitySnapshot | None:
        """Everything of this entity key, at one moment. None: it is more than `fields_max`, and was not read.

        A moment is that of the last call. The calls before it fetch parts of the claim, which never change.
        """
        frozen = self._frozen
        while (found := await self._ask(entity, frozen.seq))[0] == b"more":
            frozen = await self._fetched(frozen, b"", found[1])
            if int(frozen.seq) > int(self._frozen.seq or 0):
                self._frozen = frozen
        if found[0] == b"large":
            return None
        _, acked, seq, flat, fields = found
        if flat:
            frozen = self._frozen = await self._fetched(frozen, seq, flat)
        parts_in_flight = frozen.parts.values() if seq and seq == frozen.seq else ()
        claimed = [part[entity] for part in parts_in_flight if entity in part]
        if sum(map(len, claimed)) > self._fields_max:
            return None
        texts = [part.decode(errors="backslashreplace") for part in fields]
        live = zip(texts[::2], texts[1::2], strict=True)
        return EntitySnapshot(_number(acked), _number(seq), _sums(live), _sums(chain.from_iterable(claimed)))

    async def epoch(self) -> int:
        """When this Redis began to count (µs), asked anew."""
        await self._connection.ping()
        return self._connection.epoch

    async def _ask(self, entity: str, known: bytes) -> list[Any]:
        limits = (self._fields_max, CALL_BYTES_MAX)
        reply: list[Any] = await self._connection.run(scripts.PENDING, self._keys, (entity, known, *limits))
        return reply

    async def _fetched(self, known: _Frozen, seq: bytes, flat: list[bytes]) -> _Frozen:
        """The parts that {part, payload, ...} describes. Only those that nobody has decoded yet are decoded.

        `known`: the parts this question knows. `seq`: of the claim whose parts these are; "": they are the first ones,
        known by the last of them. Between two parts, other tasks get their turn.
        """
        async with self._decoding:
            parts = known.parts | self._frozen.parts
            for part, payload in zip(flat[::2], flat[1::2], strict=True):
                if part not in parts:
                    parts[part] = await self._amounts(part, payload)
                    await asyncio.sleep(0)
        return _Frozen(seq, {part: parts[part] for part in flat[::2]}) if seq else _Frozen(flat[-2], parts)

    async def _amounts(self, part: bytes, payload: bytes) -> dict[str, list[tuple[str, str]]]:
        return dict(await part_amounts(part, payload, self._unfold))

    async def _unfold(self, part: bytes) -> list[Any]:
        # Empty if the claim was acknowledged meanwhile: then every document of it has its seq.
        parts: list[Any] = await self._connection.run(scripts.UNFOLD, (self._claim_key,), (part,))
        return parts


def _sums(pairs: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Amount per counter of (field, amount) pairs. Foreign pairs are left out; the flusher does the same."""
    sums: dict[str, int] = {}
    for name, text in pairs:
        field, amount = parse_field(name), parse_amount(text)
        if field is not None and amount is not None:
            sums[field.counter] = sums.get(field.counter, 0) + amount
    return sums


def _number(text: bytes) -> int:
    return parse_amount(text.decode(errors="backslashreplace")) or 0
