"""The exact total of one entity at one moment, between ingest and flush: MongoDB's document plus what Redis holds.

Two stores can't be read in one moment, so the seqs decide what the document holds of what Redis held. Redis is read
first: live amounts, the batch in flight (seq s), the seq last given. Then the document, which remembers the last seq
applied to it, f:

    f > last   what was frozen after the snapshot is in the document: it was still live then. Both again. (A batch that
               was in flight and open gets a new seq with every part that is added, so this holds for its parts, too.)
    f ≥ s      the batch in flight is in the document: it is not added
    f < s      it is not, or holds nothing of this entity: it is added

All that was acknowledged before the snapshot is in the document, because an ack follows the write. So the sum is the
total at the moment of the snapshot, whatever happened since: never above what was accepted, never below what was
acknowledged before, and never less than an earlier read's.

A Redis that lost its memory knows no seq as high as the document's until it makes its first batch. So if f > last still
holds against a snapshot taken after the document, f is from before, and the document is as old as can be.

Left out are what waits in a spool, which Redis has not seen, and dead letters.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from daemon.buffer.keys import shard_of
from daemon.buffer.pending import EntitySnapshot, Pending
from daemon.domain.entity import Entity
from daemon.errors import StoreError
from daemon.read.gate import RefusedReadError
from daemon.read.totals import TotalsReader, counted
from daemon.rollups.mongo import Json

TRIES_MAX = 10
"""A try fails only if this very entity is flushed between two reads that are milliseconds apart."""


class Exact:
    """The reader of one worker."""

    def __init__(self, shards: Sequence[Pending], totals: TotalsReader) -> None:
        """`shards`: one of each shard, in their order."""
        self._shards = shards
        self._totals = totals

    async def read(self, entity: Entity, counters: Collection[str]) -> dict[str, int]:
        """Total per counter. Raises StoreError if a store fails, RefusedReadError if Redis holds too much of it."""
        pending = self._shards[shard_of(entity.key, len(self._shards))]
        snapshot = await _look(pending, entity)
        for _ in range(TRIES_MAX):
            document = (await self._totals.documents([entity.key])).get(entity.key)
            applied = _applied(document)
            if applied <= snapshot.last:
                return _sum(document, applied, snapshot, counters)
            snapshot = await _look(pending, entity)
            if applied > snapshot.last:
                return _sum(document, applied, snapshot, counters)
        raise StoreError(f"No moment between two flushes of {entity.key!r} was found in {TRIES_MAX} tries.")


async def _look(pending: Pending, entity: Entity) -> EntitySnapshot:
    snapshot = await pending.of(entity.key)
    if snapshot is None:
        raise RefusedReadError("Too much of this entity waits to be flushed: its exact total would cost too much.")
    return snapshot


def _applied(document: Json | None) -> int:
    return int(document.get("flush_seq", 0)) if document else 0


def _sum(document: Json | None, applied: int, snapshot: EntitySnapshot, counters: Collection[str]) -> dict[str, int]:
    sums = counted(document, counters)
    for counter in counters:
        sums[counter] += snapshot.live.get(counter, 0)
        if applied < snapshot.in_flight:
            sums[counter] += snapshot.claimed.get(counter, 0)
    return sums
