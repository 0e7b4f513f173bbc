"""Builds the documents of whole domains once, out of the entities' days. From then on each claim adds to them.

The documents of a build have its generation in their ids. A shard's floor names the generation, and the claim up to
which the entities' days are added up: the fence. So of each claim it is decided, whoever applies it and however late,
whether the build counts it or its flusher adds it:

    the claim's seq is       it is written to                            counted by
    up to the fence          the entities' documents                     the build, which waits until it is acknowledged
    above it                 those, and the domains' of the generation   its flusher, which waits until the build ends

A flusher begins a build when the floor of its claim names no generation, or when an older version, which adds nothing
to these documents, raised the floor since. Nothing of the claim is written before the build has ended. A retry of a
dead letter and an expiry move amounts of days, too. So they are refused meanwhile, and those under way are finished.

Days that have expired cannot be added up any more. A later build takes them from the generation before. What no day is
known of goes to a document without one, so the sum is that of all entities.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager

from daemon.buffer.counters import Busy, Counters, Empty
from daemon.domain.rollup import DAILY, DOMAIN_DAILY, DOMAIN_HOURLY, HOURLY, OF_DOMAINS, OfDomains, amount_of
from daemon.errors import StoreError
from daemon.flush.drain import Applied, Unbuilt
from daemon.retention.batch import Batches
from daemon.rollups.build import Place, add_hours, domain_documents
from daemon.rollups.builds import Record
from daemon.rollups.domains import (
    BEFORE,
    Amounts,
    add,
    forget_generations,
    set_bases,
    sums_of_days,
    sums_of_domains,
    sums_of_expired,
)
from daemon.rollups.floors import fence
from daemon.rollups.mongo import MongoSink

STEPS = {
    "begin": "The record has a new generation. After the lease, the next flusher begins another one.",
    "fence": "Some shards have a fence. Their claims above it wait for the next build, which fences them anew.",
    "finish": "All that is up to the fences is in the entities' days. Nothing else was written.",
    "write": "Some documents of the generation are there. Nothing reads them. The next build writes its own.",
    "end": "The generation is read, and claims are added to it.",
    "forget": "Documents of older generations are gone. Nothing reads them.",
}
"""Each step of a build in order, and what holds if the process dies after it or its reply is lost.

`finish`: the claims in flight, then the retries and the expiry that have begun. A builder that is frozen and wakes late
fences nothing that a later one fenced. It writes documents of its own generation, and `end` is refused."""

RENEWALS = 3
"""Renewals of the builder's lease within one lease."""
POLL_MS_MAX = 1_000

_log = logging.getLogger(__name__)

Apply = Callable[[int], Awaitable[Applied | Busy | Empty | Unbuilt]]


class Overtaken(Exception):  # noqa: N818  (nothing failed)
    """A later build began. This one has nothing to say any more."""


class DomainBuilder:
    """The builds of one process. Methods raise StoreError; calling them again is always safe."""

    def __init__(
        self,
        mongo: MongoSink,
        shards: Mapping[int, Counters],
        apply: Apply,
        *,
        owner: str,
        lease_ms: int,
        counters: Collection[str],
    ) -> None:
        """`shards`: all of them. `apply`: applies the claim in flight of a shard, or the next one. `owner`: unique to
        this process. `counters`: those that are configured."""
        self._mongo = mongo
        self._shards = shards
        self._apply = apply
        self._owner = owner
        self._lease_ms = lease_ms
        self._counters = counters
        self._one = asyncio.Lock()
        self._ended = 0
        """How many builds this process ended."""

    async def build(self) -> bool:
        """Builds, or waits while another loop of this process builds. False: another process builds, or did."""
        ended = self._ended
        async with self._one:
            if self._ended != ended:
                return True
            record = await self._mongo.builds.begin(self._owner, self._lease_ms)
            if record is None:
                return False
            with contextlib.suppress(Overtaken):
                async with self._renewed(record.generation):
                    await self._build(record)
                self._ended += 1
                return True
            return False

    async def _build(self, record: Record) -> None:
        started = time.monotonic()
        if record.built:
            _log.warning(
                "The sums of whole domains are built anew: it was asked for, or a flush daemon of an older version"
                " wrote. Claims wait meanwhile."
            )
        generation = record.generation
        fences = {number: await self._fence(number, generation) for number in self._shards}
        for number, seq in fences.items():
            await self._finish(number, seq)
        through: dict[str, str] = {}
        for kind in (DAILY, HOURLY):
            await self._mongo.dead_letters.finish_retries(kind)
            expiry = Batches(self._mongo, kind)
            await expiry.finish()
            through[kind.name] = (await expiry.record()).through if record.built else ""
        counters = sorted({*self._counters}.union(*[await each.booked_counters() for each in self._shards.values()]))
        sums = {kind: await self._add_up(kind, counters, record.built, through[kind.of.name]) for kind in OF_DOMAINS}
        add_hours(sums[DOMAIN_DAILY], sums[DOMAIN_HOURLY])
        for kind_of, found in sums.items():
            documents = domain_documents(kind_of, generation, BEFORE, found)
            await self._mongo.set_documents(kind_of, [(each, {"$set": each.amounts}) for each in documents])
        await self._base(record, counters, through[DAILY.name])
        if not await self._mongo.builds.end(generation):
            raise Overtaken
        await forget_generations(self._mongo, record)
        _log.info(
            "The sums of whole domains are built, in %.1f s: %d days.",
            time.monotonic() - started,
            len(sums[DOMAIN_DAILY]),
        )

    async def _fence(self, number: int, generation: int) -> int:
        seq = await fence(self._mongo, number, generation)
        if seq is None:
            raise Overtaken
        return seq

    async def _finish(self, number: int, fenced: int) -> None:
        """Waits until Redis has accounted for all claims up to the fence. If their flusher is gone, they are applied
        here."""
        step = None
        while await self._shards[number].acked() < fenced:
            if isinstance(step, Unbuilt):  # the fence is gone: another build was asked for
                raise Overtaken
            step = await self._apply(number)
            if isinstance(step, Busy):
                await asyncio.sleep(min(step.left_ms, POLL_MS_MAX) / 1000)

    async def _add_up(
        self, kind: OfDomains, counters: Collection[str], before: int, through: str
    ) -> dict[Place, Amounts]:
        """The amounts of each bucket: of all entities, and of the letters that a claim adds to its domain."""
        found = await sums_of_days(self._mongo, counters, kind=kind.of)
        async for letter in self._mongo.dead_letters.of_days(kind.of):
            first, deltas = letter["first"], letter["deltas"]
            place = (first["domain"], first["entity_type"], first[kind.bucket_field])
            add(found, place, {counter: amount_of(deltas.get(counter)) for counter in counters})
        kept = {}
        if through:
            of_before = await sums_of_domains(self._mongo, before, counters, kind=kind)
            kept = {place: amounts for place, amounts in of_before.items() if "" < place[2] <= through}
        dated = {place: amounts for place, amounts in found.items() if place[2] > through} | kept
        expired = await sums_of_expired(self._mongo, counters, kind.of)
        rest: dict[Place, Amounts] = {}
        for sign, places in ((1, found), (1, expired), (-1, dated)):
            for (domain, entity_type, _), amounts in places.items():
                add(rest, (domain, entity_type, ""), amounts, sign)
        return dated | {place: amounts for place, amounts in rest.items() if any(amounts.values())}

    async def _base(self, record: Record, counters: Collection[str], through: str) -> None:
        """Sets the bases. Again, if a history was taken over meanwhile: it may not have seen this generation."""
        histories = -1
        while histories != (histories := (await self._mongo.builds.read()).histories):
            await set_bases(self._mongo, record.generation, counters, through, before=record.built)

    @asynccontextmanager
    async def _renewed(self, generation: int) -> AsyncIterator[None]:
        ended = asyncio.Event()

        async def renew() -> None:
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._lease_ms / RENEWALS / 1000):
                        await ended.wait()
                        return
                with contextlib.suppress(StoreError):  # the build itself fails of that, or goes on
                    await self._mongo.builds.renew(generation, self._lease_ms)

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            # Not by `cancel`: `asyncio.wait_for` of Python 3.11, which pymongo calls, can lose that. The task would
            # renew for ever, and this would wait for it.
            ended.set()
            await renewing
