"""Each entity across all rollups: its totals against the sums of its days, weeks and so on. Its hours never sum to more
than their day. Reads only.

They are streamed in the order of the entity key and merged, so memory stays flat for any number of entities.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence

from daemon.domain.rollup import COMPLETE, DAILY, DOMAIN_DAILY, TOTALS, amount_of
from daemon.rollups.domains import add, sums_of_days, sums_of_domains
from daemon.rollups.mongo import MongoSink
from daemon.verify.audit.hot import Sums
from daemon.verify.audit.laws import REBUILD, Broken, bases_agree

DAYS_AT_ONCE = 1_000
"""Days of entities that are looked up together."""

Entities = AsyncIterator[tuple[str, Sums]]


async def deep(
    mongo: MongoSink, counters: Sequence[str], moving: Collection[str], *, bases: bool
) -> AsyncIterator[Broken]:
    """`moving`: entities to leave out. They have amounts in flight or in dead letters, so their rollups may differ.
    `bases`: compare what was taken over, too."""
    fields = [*counters, *(f"base.{counter}" for counter in counters)]
    async for key, sums in _merged([mongo.sums_by_entity(kind, fields) for kind in COMPLETE]):
        totals = sums[COMPLETE.index(TOTALS)]
        for kind, found in zip(COMPLETE, sums, strict=True):
            for counter in counters:
                difference = found.get(counter, 0) - totals.get(counter, 0)
                if difference and key not in moving:
                    yield Broken(
                        "deep", counter, difference,
                        f"{key}: {kind.name} sum to {found.get(counter, 0)}, totals say {totals.get(counter, 0)}",
                    )  # fmt: skip
        if bases and key not in moving:
            by_kind = {
                kind.name: {counter: found.get(f"base.{counter}", 0) for counter in counters}
                for kind, found in zip(COMPLETE, sums, strict=True)
            }
            for broken in bases_agree(by_kind, counters, key):
                yield broken


async def hours_above_days(mongo: MongoSink, counters: Sequence[str], moving: Collection[str]) -> AsyncIterator[Broken]:
    """Entities whose hours hold more than their days. A day may have expired before its hours. Then the sum of the
    entity's expired days accounts for it."""
    days: dict[str, Sums] = {}
    async for key, day, sums in mongo.hours_by_day(counters):
        if len(days) >= DAYS_AT_ONCE:
            for broken in await _above(mongo, days):
                yield broken
            days = {}
        if key not in moving:
            days[f"{key}:{day}"] = sums
    for broken in await _above(mongo, days):
        yield broken


async def _above(mongo: MongoSink, hours: Mapping[str, Sums]) -> list[Broken]:
    """`hours`: id of a daily document → the sums of its hours."""
    documents = await mongo.documents(DAILY, hours)
    above: dict[str, Sums] = {}
    for id_, sums in hours.items():
        more = {name: n - amount_of(documents.get(id_, {}).get(name)) for name, n in sums.items()}
        if any(n > 0 for n in more.values()):
            above[id_] = {name: n for name, n in more.items() if n > 0}
    expired = await mongo.expired(DAILY, {_entity(id_) for id_ in above})
    return [
        Broken(
            "deep", name, n,
            f"{id_}: the hours of the day sum to {hours[id_][name]}, the day says {hours[id_][name] - n}",
        )
        for id_, more in above.items()
        for name, n in more.items()
        if n > amount_of(expired.get(_entity(id_), {}).get(name))
    ]  # fmt: skip


def _entity(id_: str) -> str:
    return id_.rpartition(":")[0]


async def deep_domains(mongo: MongoSink, counters: Sequence[str], generation: int, through: str) -> list[Broken]:
    """Each day of a whole domain against its entities' days. Days up to `through` may have expired, so they are left
    out. Nothing may be in flight."""
    days = await sums_of_days(mongo, counters, {"$match": {DAILY.bucket_field: {"$gt": through}}})
    whole = await sums_of_domains(mongo, generation, counters)
    for sums, kind, of in ((days, DAILY, None), (whole, DOMAIN_DAILY, generation)):
        async for letter in mongo.dead_letters.of_days(kind, of):
            first = letter["first"]
            add(sums, (first["domain"], first["entity_type"], first[DAILY.bucket_field]), letter["deltas"])
    broken = []
    for place in sorted(days.keys() | whole.keys()):
        for counter in counters:
            of_days, of_whole = (sums.get(place, {}).get(counter, 0) for sums in (days, whole))
            if of_days != of_whole and place[2] > through:
                said = f"{place[0]}.{place[1]} on {place[2]}: the domain says {of_whole}, its entities sum to {of_days}"
                broken.append(Broken("domains", counter, of_whole - of_days, f"{said}. {REBUILD}"))
    return broken


async def _merged(streams: Sequence[Entities]) -> AsyncIterator[tuple[str, list[Sums]]]:
    """Every key of any stream, in order, with the sums of each stream: none, if it lacks the key."""
    heads = [await anext(stream, None) for stream in streams]
    while keys := [head[0] for head in heads if head is not None]:
        key = min(keys)
        here = [head if head is not None and head[0] == key else None for head in heads]
        yield key, [head[1] if head is not None else {} for head in here]
        for n, stream in enumerate(streams):
            if here[n] is not None:
                heads[n] = await anext(stream, None)
