"""One shard's way from Redis to MongoDB: claim, rollup, five updates, ack. Each amount is applied exactly once.

The flusher's drain loop calls `Drain.apply_next`. A second flusher may work beside this one: both apply the same
content under the same seq. `STEPS` says what holds after a crash. MySQL is asked only about types with `known = true`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import NamedTuple

from daemon import counted, metrics
from daemon.buffer.counters import Ahead, Behind, Busy, Claim, Counters, Empty
from daemon.config import Flush
from daemon.domain.instant import moment
from daemon.domain.outcome import Failure, SinkResult
from daemon.domain.rollup import TOTALS, Rollup
from daemon.metrics import FLUSH_STORE_SECONDS
from daemon.replica.known import KnownIds
from daemon.rollups.build import Builder, of_domains, set_aside
from daemon.rollups.dead_letters import UNKNOWN_ID
from daemon.rollups.floors import Older, note_older, open_epoch, raise_floor, read_floor
from daemon.rollups.mongo import MongoSink

STEPS = {
    "floor": "Nothing has changed.",
    "note_older": "MongoDB has on record that a store is older. The next flusher meets it again, and says so again.",
    "open_epoch": "MongoDB has what the totals held before this Redis counted. That is recorded once.",
    "freeze": "The claim is open, and no document knows its parts. After the lease, the next claim adds to it.",
    "seal": "The claim is sealed. After the lease, the next flusher gets the same content under the same seq.",
    "look_up": "Nothing has changed. The next flusher asks MySQL again, and may get another answer.",
    "raise_floor": "The floor names the claim's seq, its unknown ids and its generation. Every flusher obeys that.",
    "write": "Some documents hold the seq and refuse the claim (E11000). The next flusher writes the others.",
    "bury": "The dead letters have ids of their own. The next flusher skips the documents they name.",
    "list_due": "Some entities are due in MySQL. The next flusher writes no document, and lists them again.",
    "ack": "The claim is done. The next claim finds nothing in flight, or a newer claim.",
}
"""Each step of `apply_next` in order, and what holds if the process dies after it or its reply is lost.

`note_older`: only if a store was restored, or Redis fell back. The floor that is lifted after it is as in
`raise_floor`. `open_epoch`: before `freeze` if this Redis knows no claim and MongoDB holds some; else after `seal`.
`freeze`: each part of the claim but the last, `seal` the last part. `list_due`: each script of 1,000 due entities but
the last, which is `ack`."""

_log = logging.getLogger(__name__)


class Unbuilt(NamedTuple):
    """The sums of whole domains have to be built first (`domains.py`). A claim above the fence is not written yet."""


class Applied(NamedTuple):
    """One claim that was applied and acknowledged."""

    entities: int
    documents: SinkResult
    dead: int
    """Documents and foreign values that went to the dead letters."""
    dirty_left: int


class Drain:
    """Drains one shard. Methods raise StoreError; calling them again is always safe."""

    def __init__(
        self,
        counters: Counters,
        mongo: MongoSink,
        flush: Flush,
        *,
        owner: str,
        zeros: Mapping[str, Collection[str]],
        mapped: Collection[tuple[str, str]],
        known: KnownIds | None = None,
    ) -> None:
        """`owner`: unique to this process. `zeros`: per domain, its counters. `mapped`: the (domain, entity type) that
        have a MySQL table. `known`: None if all ids are taken."""
        self._counters = counters
        self._mongo = mongo
        self._flush = flush
        self._owner = owner
        self._zeros = zeros
        self._mapped = mapped
        self._known = known
        self._epoch = 0
        self._built = 0
        """The generation of whole domains that is known to be built."""
        self._met = ""
        """The last seq of a Redis that was met behind MongoDB, until it gave a higher one."""

    async def apply_next(self, *, for_build: bool = False) -> Applied | Busy | Empty | Unbuilt:
        """Applies the claim in flight, or the next one.

        `for_build`: the one in flight, so that whole domains can be built. The next one is only claimed."""
        shard, mongo = self._counters.shard, self._mongo
        floor, generation = await read_floor(mongo, shard)
        if not for_build and not await self._is_built(generation):
            return Unbuilt()
        with FLUSH_STORE_SECONDS.labels("redis").time():
            claim = await self._counters.claim(
                Builder,
                owner=self._owner,
                floor=floor,
                lease_ms=self._flush.lease_ms,
                entities_max=self._flush.claim_entities_max,
                fields_max=self._flush.claim_fields_max,
                us_max=self._flush.claim_us_max,
                taken_over=self._taken_over,
                met=self._met,
            )
        if isinstance(claim, Behind):
            await self._meet_behind(claim.last, floor)
            return await self.apply_next(for_build=for_build)
        if isinstance(claim, Ahead):
            await self._meet_ahead(claim.acked)
            return await self.apply_next(for_build=for_build)
        if not isinstance(claim, Claim):
            return claim
        if self._met or not floor or claim.again:  # Redis may have been emptied again, and no seq would tell
            epoch = self._counters.epoch
            await self._counters.look()
            if self._counters.epoch != epoch:  # the claim may be of the memory that was lost
                return await self.apply_next(for_build=for_build)
        if claim.seq >= floor:  # else it was in flight in an older Redis: the next one is met the same
            self._met = ""
        await self._open_epoch()
        rollup = claim.content.rollup()
        buried = await mongo.dead_letters.of_claim(shard, claim.seq) if claim.again else set()
        decided = await self._raise_floor(claim.seq, rollup, floor)
        unknown = None if decided is None else decided.unknown
        if decided is not None and decided.generation != 0:
            if not await self._is_built(decided.generation):
                return Unbuilt()
            assert decided.generation is not None
            rollup.documents.update(of_domains(rollup, decided.generation, shard, decided.unknown))
        if unknown is None:
            result, set_aside, malformed = SinkResult(0, already=sum(map(len, rollup.documents.values()))), [], 0
        else:
            set_aside, malformed = _set_aside(rollup, unknown), len(rollup.malformed)
            skipped = buried.union((target, id_) for target, id_, _ in set_aside) if set_aside else buried
            with FLUSH_STORE_SECONDS.labels("mongo").time():
                result = await mongo.write(rollup, claim.seq, self._zeros, skipped)
        if result.failures or malformed:
            _log.error(
                "Shard %d, claim %d: %d documents could not be written and %d values in Redis are not ours; they are in"
                " the dead letters, the rest went on.",
                shard, claim.seq, len(result.failures), malformed,
            )  # fmt: skip
        failures = [*result.failures, *set_aside]
        if failures or malformed:
            await mongo.dead_letters.bury(shard, claim.seq, rollup, failures, self._zeros)
        dead_ids = {failure.id for failure in failures if failure.target == TOTALS.collection}
        dead_ids |= {id_ for collection, id_ in buried if collection == TOTALS.collection}
        booked = _booked(rollup, dead_ids)
        if unknown:
            amount = sum(rollup.sums(unknown).values())
            booked.append(("unknown", amount))
            _log.warning(
                "Shard %d, claim %d: %d counts of %d ids that MySQL does not have; they are in the dead letters.",
                shard, claim.seq, amount, len(unknown),
            )  # fmt: skip
        with FLUSH_STORE_SECONDS.labels("redis").time():
            was_in_flight = await self._counters.ack(claim.seq, booked, self._due(rollup, dead_ids))
        if unknown is None and was_in_flight:  # only in a Redis that is older, or that another one overtook
            _log.error(
                "Shard %d, claim %d: MongoDB is beyond it. So its %d counts were not written again. If they never were,"
                " they are lost, and `tallyd audit` says so.",
                shard, claim.seq, sum(rollup.sums().values()),
            )  # fmt: skip
        if counted.are_wanted() and unknown is not None:
            _tell(rollup, dead_ids)
        return Applied(len(rollup.documents[TOTALS]), result, len(failures) + malformed, claim.dirty_left)

    def _taken_over(self, owner: str) -> None:
        metrics.CLAIM_TAKEOVERS.inc()
        _log.warning(
            "Shard %d: the claim in flight is taken over from %s, which did not acknowledge it within %d ms. It ended"
            " or hangs, or MongoDB is slow.",
            self._counters.shard, owner, self._flush.lease_ms,
        )  # fmt: skip

    async def _is_built(self, generation: int | None) -> bool:
        """Whether claims may be added to this generation. A build that ended stays so."""
        if generation is None:
            return False
        if generation != self._built:
            record = await self._mongo.builds.read()
            self._built = record.built if record.built == generation else self._built
        return generation == self._built

    async def _raise_floor(self, seq: int, rollup: Rollup, floor: int) -> _Held | None:
        """The decision about the claim, by this flusher or an earlier one.

        None: a later claim was written, so this one was acknowledged. Then nothing is left to write.
        """
        lacking: set[str] = set()
        if self._known is not None and floor < seq:
            lacking = await self._known.lacking(document.entity for document in rollup.documents[TOTALS])
        keys = sorted(document.id for document in rollup.documents[TOTALS]) if lacking else []
        at = [position for position, key in enumerate(keys) if key in lacking]
        held = await raise_floor(self._mongo, self._counters.shard, seq, at)
        return None if held is None else _Held(set_aside(rollup, held.unknown), held.generation)

    async def _open_epoch(self) -> bool:
        """Whether MongoDB did not know the epoch of this Redis yet."""
        epoch = self._counters.epoch
        if epoch == self._epoch:
            return False
        new = await open_epoch(self._mongo, epoch, {name for names in self._zeros.values() for name in names})
        self._epoch = epoch
        return new

    async def _meet_behind(self, last: int, floor: int) -> None:
        """MongoDB holds claims that this Redis does not know: it was emptied, or it is an older one."""
        shard, counters = self._counters.shard, self._counters
        await counters.look()
        is_new = await self._open_epoch()
        if not last and (is_new or counters.epoch > floor):
            _log.warning(
                "Shard %d: Redis has lost its memory. It began to count anew at %s, and MongoDB holds claims up to %s."
                " Counts that were live or in flight are lost, and event ids are forgotten. The audit begins with the"
                " totals as they are. Rows that were due: `tallyd audit --repair-replica`.",
                shard, moment(counters.epoch), moment(floor),
            )  # fmt: skip
        else:
            await note_older(self._mongo, counters.epoch, Older("redis", shard, last, floor))
            _log.error(
                "Shard %d: Redis is older than MongoDB. It knows claims up to %s, and MongoDB holds those up to %s. It"
                " was restored, or it restarted without its last seconds. What it holds live may have been flushed"
                " already, and is counted again. `tallyd audit` says how much, `tallyd audit --accept` accepts it.",
                shard, moment(last), moment(floor),
            )  # fmt: skip
        self._met = str(last)

    async def _meet_ahead(self, acked: int) -> None:
        """Redis knows a claim above the floor. Another flusher may have raised it meanwhile; else MongoDB is older."""
        shard, mongo = self._counters.shard, self._mongo
        floor = (await read_floor(mongo, shard)).seq
        if floor >= acked:
            return
        await self._counters.look()
        self._epoch = self._built = 0  # MongoDB may have forgotten both
        await self._open_epoch()
        await note_older(mongo, self._counters.epoch, Older("mongo", shard, acked, floor))
        _log.error(
            "Shard %d: MongoDB is older than Redis. Redis knows that claims up to %s were written, and MongoDB holds"
            " those up to %s. It was restored, or exchanged. Counts of the claims in between are gone. `tallyd audit`"
            " says how many, `tallyd audit --accept` accepts it. Rows of MySQL may still hold them: ops/backup.md.",
            shard, moment(acked), moment(floor),
        )  # fmt: skip
        await raise_floor(mongo, shard, acked)

    def _due(self, rollup: Rollup, dead_ids: Collection[str]) -> list[str]:
        return [
            document.id
            for document in rollup.documents[TOTALS]
            if document.id not in dead_ids and (document.entity.domain, document.entity.type) in self._mapped
        ]


def _tell(rollup: Rollup, dead_ids: Collection[str]) -> None:
    written = {
        (document.id, counter): amount
        for document in rollup.documents[TOTALS]
        for counter, amount in document.amounts.items()
        if document.id not in dead_ids
    }
    if written:
        counted.TOLD.info("MongoDB has %s", counted.in_words(written))


class _Held(NamedTuple):
    """`unknown`: the keys of the entities that are set aside. `generation`: as in `Decided`."""

    unknown: set[str]
    generation: int | None


def _set_aside(rollup: Rollup, unknown: Collection[str]) -> list[Failure]:
    """The documents of these entities, as failures."""
    if not unknown:
        return []
    return [
        Failure(kind.collection, document.id, UNKNOWN_ID)
        for kind, documents in rollup.documents.items()
        for document in documents
        if document.entity.key in unknown
    ]


def _booked(rollup: Rollup, dead_ids: Collection[str]) -> list[tuple[str, int]]:
    """The ledger entries of a claim: what its totals took, and what went to the dead letters instead."""
    flushed, dead = rollup.sums(), rollup.sums(dead_ids) if dead_ids else {}
    booked = [(f"flushed:{counter}", amount - dead.get(counter, 0)) for counter, amount in flushed.items()]
    return booked + [(f"dead:{counter}", amount) for counter, amount in dead.items()]
