"""One shard's way from Redis to MongoDB: claim, rollup, five updates, ack. Each amount is applied exactly once.

The flusher's drain loop calls `Drain.apply_next`. A second flusher may work beside this one: both apply the same
content under the same seq. `STEPS` says what holds after a crash. MySQL is asked only about types with `known = true`.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, NoReturn

from daemon import counted, metrics
from daemon.buffer.confirm import Memory
from daemon.buffer.counters import Ahead, Behind, Busy, Claim, Counters, Empty
from daemon.config import Flush
from daemon.domain.claim import ClaimName
from daemon.domain.counter import add_up
from daemon.domain.instant import moment
from daemon.domain.outcome import Failure, SinkResult
from daemon.domain.rollup import TOTALS, Rollup
from daemon.errors import HeldError, StoreError
from daemon.metrics import FLUSH_STORE_SECONDS
from daemon.replica.known import KnownIds
from daemon.rollups.build import Builder, of_domains, set_aside
from daemon.rollups.dead_letters import UNKNOWN_ID
from daemon.rollups.floors import (
    Accounted,
    Decided,
    Floor,
    Hold,
    Older,
    advance,
    baseline_of,
    end_held,
    in_words,
    note_hold,
    note_older,
    open_epoch,
    open_shard,
    raise_floor,
    read_decided,
    read_floor,
)
from daemon.rollups.journal import Entry, Journal
from daemon.rollups.mongo import MongoSink

STEPS = {
    "floor": "Nothing has changed.",
    "hold": "MongoDB has on record that the shard is held. The next flusher finds it held, and goes no further.",
    "note_older": "MongoDB has on record that a store is older. The next flusher meets it again, and says so again.",
    "open_epoch": "MongoDB has what the totals held before this Redis counted. That is recorded once.",
    "amend": "Redis has accounted for one more claim. The next flusher goes on with the one after it.",
    "freeze": "The claim is open, and no document knows its parts. After the lease, the next claim adds to it.",
    "seal": "The claim is sealed. After the lease, the next flusher gets the same content under the same name.",
    "confirm": "Nothing has changed. The next flusher asks the replicas again.",
    "look_up": "Nothing has changed. The next flusher asks MySQL again, and may get another answer.",
    "journal": "MongoDB has the claim's content. It means nothing yet. The next flusher writes the same.",
    "advance": "The floor names the claim, its unknown ids and its generation. Every flusher obeys that. Its documents"
    " will be written, whatever becomes of Redis: the journal has them.",
    "write": "Some documents hold the seq and refuse the claim (E11000). The next flusher writes the others.",
    "bury": "The dead letters have ids of their own. The next flusher skips the documents they name.",
    "list_due": "Some entities are due in MySQL. The next flusher writes no document, and lists them again.",
    "ack": "The claim is done. The next claim finds nothing in flight, or a newer claim.",
}
"""Each step of `apply_next` in order, and what holds if the process dies after it or its reply is lost.

`hold`, `note_older` and `amend`: only if a store was restored, or Redis fell back. If Redis did, the last claim's
documents are written before them, as in `write` and `bury`. `open_epoch`: before `freeze` if this Redis knows no claim
and MongoDB holds some; else after `seal`. `freeze`: each part of the claim but the last, `seal` the last part.
`list_due`: each script of 1,000 due entities but the last, which is `ack`.

If Redis falls back after any of them, it has not accounted for the claim, or for some before it. Up to `journal` the
claim is not in the journal, and its counts are live again, as far as they are known. From `advance` on it is: the next
flusher finishes its documents, and amends Redis. If two flushers have claims of two histories, only one finds the floor
where its claim begins. The other one's `advance` changes nothing, and it looks again."""

_log = logging.getLogger(__name__)


LOOKS_MAX = 20
"""How often one call looks at a shard again because another flusher, or a restored store, came in between."""


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
        self._journal = Journal(mongo, counters.shard, flush.journal_claims)
        self._epoch = 0
        self._before: Accounted | None = None
        """Of a shard of a cluster, what it had accounted for before that epoch."""
        self._built = 0
        """The generation of whole domains that is known to be built."""
        self._held: tuple[tuple[object, ...], str] | None = None
        """The state that this shard is held in, and what is said of it. Its last claim is written then."""

    @property
    def is_held(self) -> bool:
        """Whether the shard waits for an operator, as was last seen."""
        return self._held is not None

    async def apply_next(self, *, for_build: bool = False) -> Applied | Busy | Empty | Unbuilt:
        """Applies the claim in flight, or the next one.

        `for_build`: the one in flight, so that whole domains can be built. The next one is only claimed. Raises
        HeldError if Redis came back older, and an operator has to decide."""
        for _ in range(LOOKS_MAX):
            step = await self._try_next(for_build=for_build)
            if step is not None:
                return step
        raise StoreError(
            f"Shard {self._counters.shard}: Redis and MongoDB were apart each of {LOOKS_MAX} times. Another flusher or"
            " a restore may be under way."
        )

    async def _try_next(self, *, for_build: bool) -> Applied | Busy | Empty | Unbuilt | None:
        """None: the shard is to be looked at again."""
        shard, mongo = self._counters.shard, self._mongo
        floor = await read_floor(mongo, shard)
        memory = await self._counters.connected()
        if not for_build and not await self._is_built(floor.generation):
            return Unbuilt()
        with FLUSH_STORE_SECONDS.labels("redis").time():
            claim = await self._counters.claim(
                Builder,
                owner=self._owner,
                floor=floor.name,
                lease_ms=self._flush.lease_ms,
                entities_max=self._flush.claim_entities_max,
                fields_max=self._flush.claim_fields_max,
                us_max=self._flush.claim_us_max,
                taken_over=self._taken_over,
            )
        if isinstance(claim, Behind):
            return await self._meet_behind(claim, floor, memory)
        self._held = None
        if isinstance(claim, Ahead):
            return await self._meet_ahead(claim.acked)
        await self._end_held(floor)  # whoever accepted it died, or the right Redis is back
        if not isinstance(claim, Claim):
            return claim
        if not floor.seq or claim.again:
            await self._counters.look()  # Redis may have been emptied, and no seq would tell
        if not self._counters.is_still(memory):  # the claim may be of a memory that was lost
            return None
        flushed = await self._flushed()
        await self._open_epoch(memory.epoch, floor, flushed)
        rollup = claim.content.rollup()
        accounted = self._accounted(flushed, rollup.sums())
        if accounted is not None:
            await self._counters.look()  # the ledger has to be of that memory, too
            if not self._counters.is_still(memory):
                return None
        decided = await self._advance(claim, rollup, floor, memory, accounted)
        if decided is None:  # another claim came first: this one is of a history that was lost, or acknowledged
            return None
        written = await self._write(claim.name, rollup, decided, again=claim.again)
        if written is None:
            return Unbuilt()
        with FLUSH_STORE_SECONDS.labels("redis").time():
            was_in_flight = await self._counters.ack(claim.name, claim.acked, written.told.booked, written.told.due)
        if not was_in_flight:
            metrics.ACKS_GONE.inc()
            _log.warning(
                "Shard %d, claim %d: it was not in flight any more when it was to be acknowledged. Another flusher did"
                " that, or Redis came back older. Either is put right by the next claim.",
                shard, claim.seq,
            )  # fmt: skip
        await self._journal.forget(claim.seq)
        if counted.are_wanted() and was_in_flight:
            _tell(rollup, written.dead_ids)
        return Applied(len(rollup.documents[TOTALS]), written.result, written.dead, claim.dirty_left)

    async def _write(self, name: ClaimName, rollup: Rollup, decided: Decided, *, again: bool) -> _Written | None:
        """Writes the documents of a claim that is the end of the journal. None: whole domains are to be built first.

        `again`: an earlier attempt may have buried some of them."""
        shard, mongo = self._counters.shard, self._mongo
        unknown = set_aside(rollup, decided.unknown)
        if decided.generation != 0:
            if decided.generation is None or not await self._is_built(decided.generation):
                return None
            rollup.documents.update(of_domains(rollup, decided.generation, shard, unknown))
        buried = await mongo.dead_letters.of_claim(shard, name.seq) if again else set()
        aside, malformed = _set_aside(rollup, unknown), len(rollup.malformed)
        skipped = buried.union((target, id_) for target, id_, _ in aside) if aside else buried
        with FLUSH_STORE_SECONDS.labels("mongo").time():
            result = await mongo.write(rollup, name.seq, self._zeros, skipped)
        if result.failures or malformed:
            _log.error(
                "Shard %d, claim %d: %d documents could not be written and %d values in Redis are not ours; they are in"
                " the dead letters, the rest went on.",
                shard, name.seq, len(result.failures), malformed,
            )  # fmt: skip
        failures = [*result.failures, *aside]
        if failures or malformed:
            await mongo.dead_letters.bury(shard, name.seq, rollup, failures, self._zeros)
        dead_ids = _dead_ids(buried) | {failure.id for failure in failures if failure.target == TOTALS.collection}
        told = self._told(rollup, dead_ids)
        if unknown:
            amount = sum(rollup.sums(unknown).values())
            told.booked.append(("unknown", amount))
            _log.warning(
                "Shard %d, claim %d: %d counts of %d ids that MySQL does not have; they are in the dead letters.",
                shard, name.seq, amount, len(unknown),
            )  # fmt: skip
        return _Written(result, len(failures) + malformed, dead_ids, told)

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

    async def _advance(
        self, claim: Claim[Builder], rollup: Rollup, floor: Floor, memory: Memory, accounted: Accounted | None
    ) -> Decided | None:
        """The decision about the claim, by this flusher or an earlier one. None: the journal does not end before it.

        `memory`: what handed the claim out. It is named even if another Redis answers by now."""
        shard, mongo = self._counters.shard, self._mongo
        if claim.seq == floor.seq:
            return await read_decided(mongo, shard, claim.name)
        history = await self._confirmed_in(memory)
        lacking: set[str] = set()
        if self._known is not None:
            lacking = await self._known.lacking(document.entity for document in rollup.documents[TOTALS])
        keys = sorted(document.id for document in rollup.documents[TOTALS]) if lacking else []
        at = [position for position, key in enumerate(keys) if key in lacking]
        entry = Entry(shard, *claim.name, floor.name, memory.epoch, claim.parts, history)
        with FLUSH_STORE_SECONDS.labels("mongo").time():
            await self._journal.write(entry)
            return await advance(mongo, shard, claim.name, claim.acked, at, accounted)

    async def _confirmed_in(self, memory: Memory) -> str:
        """The history of Redis whose replicas hold the claim that it handed out; "" if that is not known."""
        told = await self._counters.confirm(self._flush.replicated_ms)
        return told.history if told and told.held and self._counters.is_still(memory) else ""

    async def _flushed(self) -> dict[str, int]:
        """What this shard of a cluster has accounted for. Without a cluster, nobody asks."""
        return await self._counters.flushed() if self._counters.is_of_cluster else {}

    def _accounted(self, *sums: Mapping[str, int]) -> Accounted | None:
        """What a shard of a cluster has accounted for in all, with what it had before its epoch."""
        return None if self._before is None else Accounted(self._before.base, add_up((self._before.sums, *sums)))

    async def _open_epoch(self, epoch: int, floor: Floor, flushed: Mapping[str, int]) -> bool:
        """Whether MongoDB did not know this epoch of Redis yet. `flushed`: as `_flushed` said."""
        mongo, shard = self._mongo, self._counters.shard
        if epoch == self._epoch:
            return False
        counters = {name for names in self._zeros.values() for name in names}
        if not self._counters.is_of_cluster:
            new = await open_epoch(mongo, epoch, counters)
        else:
            new, before = False, await baseline_of(mongo, epoch, shard)
            if before is None and floor.accounted is not None:
                before, new = await open_shard(mongo, epoch, shard, floor.accounted, flushed)
            elif before is None:
                before, new = Accounted(epoch, {}), await open_epoch(mongo, epoch, counters)
            self._before = before
        self._epoch = epoch
        return new

    async def _meet_behind(self, behind: Behind, floor: Floor, memory: Memory) -> Unbuilt | None:
        """The journal holds claims that this Redis has not accounted for: it was emptied, or it is an older one.

        First the documents of the last one are written: it may be half done, and all before it are done. `memory`: what
        said so. It alone is amended."""
        shard, counters, acked = self._counters.shard, self._counters, behind.acked
        await counters.look()
        if not counters.is_still(memory):
            return None
        state = (acked, floor.name, memory.epoch)
        if self._held is not None and self._held[0] == state and floor.accepted != acked:
            raise HeldError(self._held[1])
        self._held = None
        last = await self._journal.read(floor.name)
        written = await self._finish(last) if last is not None else None
        if last is not None and not isinstance(written, _Written):
            return written
        is_new = await self._open_epoch(memory.epoch, floor, await self._flushed())
        chain = (floor.name, []) if is_new and not acked else await self._journal.since(acked, floor.name, memory.epoch)
        before, forgotten = chain or (floor.name, None)
        own = [entry for entry in forgotten or () if entry.epoch == memory.epoch]
        """The others are of a memory that was lost: this Redis never had their counts."""
        told = {entry.seq: written.told if written and entry == last else await self._told_of(entry) for entry in own}
        amounts = add_up(each.sums for each in told.values())
        why = await self._why_held(behind, floor, None if forgotten is None else own)
        if not counters.is_still(memory):
            return None
        if why is not None:
            await self._hold(state, floor, why, acked=acked, lost=None if forgotten is None else amounts)
        if own or forgotten is None:
            await note_older(self._mongo, memory.epoch, Older("redis", shard, acked, floor.seq, amounts))
        if own:
            _log.error(
                "Shard %d: Redis came back older than MongoDB. It had accounted for claims up to %s, and MongoDB holds"
                " those up to %s. They are taken off its live counts (%s), so none is counted twice.",
                shard, moment(acked), moment(floor.seq), in_words(amounts),
            )  # fmt: skip
        elif forgotten is None:
            _log.error(
                "Shard %d: Redis goes on behind claim %s, as `tallyd shards accept` said. What it holds live may have"
                " been flushed already, and is counted again. `tallyd audit` says how much.",
                shard, moment(floor.seq),
            )  # fmt: skip
        elif not acked:
            _log.warning(
                "Shard %d: Redis has lost its memory. It began to count anew at %s, and MongoDB holds claims up to %s."
                " Counts that were live or in flight are lost, and event ids are forgotten. The audit begins with the"
                " totals as they are. Rows that were due: `tallyd audit --repair-replica`.",
                shard, moment(memory.epoch), moment(floor.seq),
            )  # fmt: skip
        if before.seq != acked:
            await counters.amend(before, acked, [], [], [])
        for entry in forgotten or ():
            if not counters.is_still(memory):
                return None
            parts, (_, booked, due) = (entry.parts, told[entry.seq]) if entry in own else ([], _NOTHING)
            if await counters.amend(entry.name, entry.before.seq, parts, booked, due) and parts:
                metrics.CLAIMS_AMENDED.inc()
        await self._end_held(floor)
        return None

    async def _finish(self, last: Entry) -> _Written | Unbuilt | None:
        """Writes what is not written of the claim that was the journal's last one. None: another one came after it, so
        somebody did this."""
        decided = await read_decided(self._mongo, last.shard, last.name)
        if decided is None:
            return None
        content = await self._counters.content(Builder, last.parts)
        return await self._write(last.name, content.rollup(), decided, again=True) or Unbuilt()

    async def _end_held(self, floor: Floor) -> None:
        """What was accepted was for one fall-back."""
        if floor.accepted is not None or floor.hold is not None:
            await end_held(self._mongo, self._counters.shard)

    async def _told_of(self, entry: Entry) -> _Told:
        """Of a claim that was written long ago: its dead letters are known."""
        content = await self._counters.content(Builder, entry.parts)
        dead_ids = _dead_ids(await self._mongo.dead_letters.of_claim(entry.shard, entry.seq))
        return self._told(content.rollup(), dead_ids)

    def _told(self, rollup: Rollup, dead_ids: Collection[str]) -> _Told:
        return _Told(rollup.sums(), _booked(rollup, dead_ids), self._due(rollup, dead_ids))

    async def _why_held(self, behind: Behind, floor: Floor, forgotten: Sequence[Entry] | None) -> str | None:
        """Why an operator has to decide; None if that is not so, or done."""
        acked = behind.acked
        if floor.accepted == acked:
            return None
        if forgotten is None:
            return (
                "Not all claims in between are kept, so nobody can say which of its live counts were flushed already."
            )
        unknown = [entry for entry in forgotten if entry.name != behind.in_flight]  # that one only lacks its ack
        if not unknown:
            return None
        crashed = floor.seq - unknown[0].seq <= self._flush.fall_back_s * 1e6
        told = await self._counters.confirm(0)
        if crashed and not any(told and entry.history and entry.history == told.before for entry in unknown):
            return None  # a crash may take the last seconds, but not from a replica that held them
        return (
            "No crash explains that it forgot the claims in between: they took longer than flush.fall_back_s, or"
            " replicas had confirmed them. So it was restored, or a replica without them took over. If it goes on, they"
            " are taken off its live counts, and what it does not know any more is lost."
        )

    async def _hold(
        self, state: tuple[object, ...], floor: Floor, why: str, *, acked: int, lost: Mapping[str, int] | None
    ) -> NoReturn:
        """Raises HeldError. `lost`: None if the journal does not say what Redis forgot."""
        shard = self._counters.shard
        doubled = await self._counters.unflushed() if lost is None else {}
        hold = Hold(acked, floor.seq, dt.datetime.now(dt.UTC), doubled, dict(lost or {}))
        await note_hold(self._mongo, shard, hold)
        text = (
            f"Shard {shard} is held. Its Redis knows claims up to {moment(acked)}, and MongoDB holds those up to"
            f" {moment(floor.seq)}. {why} If it goes on, {hold.bound}. Bring the right Redis back, or run"
            f" `tallyd shards accept {shard} --reason …`"
        )
        self._held = state, text
        raise HeldError(text)

    async def _meet_ahead(self, acked: int) -> Unbuilt | None:
        """Redis knows a claim above the floor. Another flusher may have raised it meanwhile; else MongoDB is older."""
        shard, mongo = self._counters.shard, self._mongo
        floor = await read_floor(mongo, shard, confirmed=True)
        if floor.seq >= acked:
            return None
        last = await self._journal.read(floor.name)  # a backup may have caught it half written
        if last is not None and isinstance(unbuilt := await self._finish(last), Unbuilt):
            return unbuilt
        await self._counters.look()
        self._epoch = self._built = 0  # MongoDB may have forgotten both
        flushed = await self._flushed()
        await self._open_epoch(self._counters.epoch, floor, flushed)
        await note_older(mongo, self._counters.epoch, Older("mongo", shard, acked, floor.seq))
        _log.error(
            "Shard %d: MongoDB is older than Redis. Redis knows that claims up to %s were written, and MongoDB holds"
            " those up to %s. It was restored, or exchanged. Counts of the claims in between are gone. `tallyd audit`"
            " says how many, `tallyd audit --accept` accepts it. Rows of MySQL may still hold them: ops/backup.md.",
            shard, moment(acked), moment(floor.seq),
        )  # fmt: skip
        await raise_floor(mongo, shard, acked, self._accounted(flushed))
        return None

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


class _Written(NamedTuple):
    """A claim whose documents are written. `dead`: documents and foreign values that went to the dead letters.

    `dead_ids`: of the entities whose totals did."""

    result: SinkResult
    dead: int
    dead_ids: set[str]
    told: _Told


class _Told(NamedTuple):
    """A claim as Redis is told of it: its amounts per counter, its entries of the ledger, and who became due."""

    sums: dict[str, int]
    booked: list[tuple[str, int]]
    due: list[str]


_NOTHING = _Told({}, [], [])


def _dead_ids(buried: Collection[tuple[str, str]]) -> set[str]:
    return {id_ for collection, id_ in buried if collection == TOTALS.collection}


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
