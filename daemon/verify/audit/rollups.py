"""What the rollups hold, per counter: what was counted, which part of that is still in flight, and what was taken
over. Reads only."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import Struct

from daemon.domain.counter import add_up
from daemon.domain.rollup import BUCKETED, KINDS, OF_DOMAINS, TOTALS, Kind, OfDomains
from daemon.retention.expiring import Expiring, read_expiring
from daemon.rollups.build import of_domains, set_aside
from daemon.rollups.builds import Record
from daemon.rollups.domains import sums_of_domains
from daemon.rollups.floors import Accounted, Epoch, are_fenced, read_decided, read_epochs, read_floor
from daemon.rollups.mongo import MongoSink
from daemon.verify.audit.hot import Hot, Sums


class Rollups(Struct, frozen=True):
    """Sums by kind name (totals, daily, …) and counter. They include no bases; `bases` are the sums of those.

    `ahead`: the part of the sums that belongs to claims in flight. `dead`: amounts of dead letters. `baseline`: what
    the totals held when this Redis began to count, and what was accepted since. `apart`: what was accepted of a
    rollup's difference to the totals. `base`: the epoch of that baseline, 0 if none is on record. `epochs`: the records
    that both come from. `expiring`: the part of the sums that an expiry is moving. `steady`: no expiry moved anything
    meanwhile.
    """

    sums: dict[str, Sums]
    ahead: dict[str, Sums]
    dead: dict[str, Sums]
    baseline: Sums
    apart: dict[str, Sums]
    base: int
    epochs: list[Epoch]
    bases: dict[str, Sums]
    expiring: Expiring
    steady: bool
    is_built: bool
    """No build is under way or to come, so whole domains have to agree with their entities."""
    builds: Record
    """Which generation of whole domains is read. Its sums are those of `domain_daily`; without one, 0."""


async def read_rollups(
    mongo: MongoSink, hot: Collection[Hot], counters: Collection[str], shard_epochs: Sequence[int]
) -> Rollups:
    """`shard_epochs`: by shard. Without a cluster they are the same."""
    claims = [(shard.shard, shard.in_flight_seq) for shard in hot if shard.in_flight_seq]
    builds = await mongo.builds.read()
    letters = await mongo.dead_letters.sums(claims, builds.built)
    expiring = await read_expiring(mongo)
    sums: dict[str, Sums] = {}
    bases: dict[str, Sums] = {}
    ahead: dict[str, Sums] = {}
    steady = True
    fields = [*counters, *(f"base.{counter}" for counter in counters)]
    for kind in KINDS:
        between = expiring.sums.get(kind.name, {})
        before = await _written(mongo, kind, hot)
        both = add_up((await mongo.sums(kind, fields), {field: between.get(field, 0) for field in fields}))
        sums[kind.name] = {counter: both.get(counter, 0) for counter in counters}
        bases[kind.name] = {counter: both.get(f"base.{counter}", 0) for counter in counters}
        written = await _written(mongo, kind, hot)
        steady = steady and written == before
        ahead[kind.name] = add_up(written.values())
    for kind_of in OF_DOMAINS:
        also = [*fields, *(f"hourly.{counter}" for counter in counters)]
        before = await _written_of_domains(mongo, kind_of, builds.built, hot)
        whole = add_up((await sums_of_domains(mongo, builds.built, also, kind=kind_of)).values())
        written = await _written_of_domains(mongo, kind_of, builds.built, hot)
        steady = steady and written == before
        sums[kind_of.name] = {field: whole.get(field, 0) for field in also if not field.startswith("base.")}
        bases[kind_of.name] = {counter: whole.get(f"base.{counter}", 0) for counter in counters}
        ahead[kind_of.name] = add_up(written.values())
    dead = {kind.name: letters.get(kind.collection, {}) for kind in (*KINDS, *OF_DOMAINS)}
    is_built = bool(builds.built) and not builds.is_building and await are_fenced(mongo, [shard.shard for shard in hot])
    epochs = await read_epochs(mongo)
    accepted = [each.differences for known in epochs for each in known.accepted]
    apart = {kind.name: add_up(each.get(kind.name, {}) for each in accepted) for kind in BUCKETED}
    of_shards = await _before(mongo, epochs, shard_epochs)
    base = max((each.base for each in of_shards), default=0)
    this = next((known for known in epochs if known.epoch == base), None)
    if this is None:  # this Redis has not been flushed from yet: all there is was there before
        baseline = add_up((sums[TOTALS.name], dead[TOTALS.name]))
    else:
        was = [this.baseline or {}, *(each.differences.get(TOTALS.name, {}) for each in this.accepted)]
        baseline = add_up((*was, *(each.sums for each in of_shards if each.base == base)))
    steady = steady and await read_expiring(mongo) == expiring and await mongo.builds.read() == builds
    steady = steady and await mongo.dead_letters.sums(claims, builds.built) == letters
    return Rollups(sums, ahead, dead, baseline, apart, base, epochs, bases, expiring, steady, is_built, builds)


async def _before(mongo: MongoSink, epochs: Collection[Epoch], shard_epochs: Sequence[int]) -> list[Accounted]:
    """What each shard had accounted for before its epoch, as far as anything of it is on record."""
    by_epoch, found = {each.epoch: each for each in epochs}, list[Accounted]()
    for shard, epoch in enumerate(shard_epochs):
        before = by_epoch[epoch].of_shard(shard) if epoch in by_epoch else None
        # It lost its memory, and was not flushed since: what its last claim accounted for was there before.
        before = before or (await read_floor(mongo, shard)).accounted
        found += [before] if before is not None else []
    return found


async def _written(mongo: MongoSink, kind: Kind, hot: Collection[Hot]) -> dict[str, Sums]:
    """Document → its amounts in the claims in flight, if it has them already."""
    written: dict[str, Sums] = {}
    for shard in hot:
        if shard.in_flight is not None:
            amounts = {document.id: document.amounts for document in shard.in_flight.documents[kind]}
            written |= {id_: amounts[id_] for id_ in await mongo.holding(kind, amounts, shard.in_flight_seq)}
    return written


async def _written_of_domains(
    mongo: MongoSink, kind: OfDomains, generation: int, hot: Collection[Hot]
) -> dict[str, Sums]:
    """The same of the documents of whole domains."""
    written: dict[str, Sums] = {}
    for shard in hot:
        if shard.in_flight is None:
            continue
        decided = await read_decided(mongo, shard.shard, shard.in_flight_name)
        if decided is not None:  # which of the documents hold it tells whether it was added to this generation
            aside = set_aside(shard.in_flight, decided.unknown)
            documents = of_domains(shard.in_flight, generation, shard.shard, aside).get(kind, [])
            amounts = {document.id: document.amounts for document in documents}
            written |= {id_: amounts[id_] for id_ in await mongo.holding(kind, amounts, shard.in_flight_seq)}
    return written
