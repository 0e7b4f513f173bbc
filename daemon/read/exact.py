"""The exact total of one entity at one moment, between ingest and flush: MongoDB's document plus what Redis holds.

Two stores can't be read in one moment, so the seqs decide what the document holds of what Redis held. Redis is read
first: live amounts, the claim in flight (seq s), the last claim that Redis has accounted for (a). Then the document,
which remembers the last seq applied to it, f:

    f ≤ a          the claim in flight is not in the document, or holds nothing of this entity: it is added
    f = s          it is: it is not added
    otherwise      what was frozen after the snapshot is in the document: it was still live then. Both again. (A claim
                   that was in flight and open gets a new seq with every part, so this holds for its parts, too.)

All that was accounted for before the snapshot is in the document, because an ack follows the write. So the sum is the
total at the moment of the snapshot, whatever happened since: never above what was accepted, never below what was
acknowledged before, and never less than an earlier read's.

If a snapshot that was taken after the document still does not know the claim f, Redis is behind the journal. Either it
lost its memory, and began to count after f was made: then f is from before, and the document is as old as can be. Or it
came back older, and counts of f may be live again: then nobody can say until the flusher has amended it.

Left out are what waits in a spool, which Redis has not seen, and dead letters.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from daemon.buffer.keys import shard_of
from daemon.buffer.pending import EntitySnapshot, Pending
from daemon.domain.entity import Entity
from daemon.errors import RedisStoreError, StoreError
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
            if _knows(snapshot, applied):
                return _sum(document, applied, snapshot, counters)
            snapshot = await _look(pending, entity)
            if not _knows(snapshot, applied):
                if await pending.epoch() > applied:
                    return _sum(document, applied, snapshot, counters)
                raise RedisStoreError(
                    "Redis came back older than MongoDB. The next flush puts it right, unless the shard is held."
                )
        raise StoreError(f"No moment between two flushes of {entity.key!r} was found in {TRIES_MAX} tries.")


async def _look(pending: Pending, entity: Entity) -> EntitySnapshot:
    snapshot = await pending.of(entity.key)
    if snapshot is None:
        raise RefusedReadError("Too much of this entity waits to be flushed: its exact total would cost too much.")
    return snapshot


def _knows(snapshot: EntitySnapshot, applied: int) -> bool:
    return applied <= snapshot.acked or applied == snapshot.in_flight


def _applied(document: Json | None) -> int:
    return int(document.get("flush_seq", 0)) if document else 0


def _sum(document: Json | None, applied: int, snapshot: EntitySnapshot, counters: Collection[str]) -> dict[str, int]:
    sums = counted(document, counters)
    for counter in counters:
        sums[counter] += snapshot.live.get(counter, 0)
        if applied != snapshot.in_flight:
            sums[counter] += snapshot.claimed.get(counter, 0)
    return sums
