"""The order in which an audit reads and compares.

It reads Redis, then MongoDB, then Redis' marks again. If the marks are unchanged, nothing moved meanwhile, and the laws
are checked exactly. Under traffic it tries a few times, then checks only what holds while counts move (`laws.bounds`).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import getpass
import os
import socket
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct
from redis.asyncio import Redis

from daemon.buffer import keys
from daemon.buffer.connection import opened
from daemon.buffer.due import make_due
from daemon.buffer.state import read_epoch
from daemon.config import Config, domain_counters, replica_tables, unmapped_types
from daemon.domain.entity import Entity, parse_entity
from daemon.domain.rollup import DAILY
from daemon.errors import CheckFailed
from daemon.replica.adopt import adopt
from daemon.replica.aliases import forget_bases
from daemon.replica.mysql import MysqlSink
from daemon.retention.expiring import Expiring, read_expiring
from daemon.rollups.floors import Acceptance, Epoch, accept, open_epoch, read_floors, unfence
from daemon.rollups.history_marks import Marks
from daemon.rollups.mongo import MongoSink
from daemon.spool.origin import origin_of
from daemon.spool.register import Known, own_name, read_reports
from daemon.spool.segment import NO_USAGE, Stray, usage
from daemon.verify.audit import laws
from daemon.verify.audit.claims import ShardClaims, read_claims
from daemon.verify.audit.deep import deep, deep_domains, hours_above_days
from daemon.verify.audit.hot import Hot, HotMarks, moving_entities, read_hot, read_marks
from daemon.verify.audit.laws import Broken, Line
from daemon.verify.audit.replica import Alias, Compared, compare, confirm
from daemon.verify.audit.rollups import Rollups, read_rollups

STILL_TRIES = 5
STILL_PAUSE_S = 0.3
BROKEN_MAX = 1_000
"""So many differences are listed. The others are only counted."""


class Report(Struct, frozen=True):
    """What an audit found. `exact`: nothing moved while it read. `rows_pending`: rows that differ but are due.
    `rows_missing`: entities of mapped types that have totals and no row. `mapped`: the entity types whose rows were
    compared; `unmapped`: those without a table, while `mysql.url` is set. `epochs`: what is on record of each Redis.

    `deep`: each entity was compared. It is False if counts moved meanwhile: two reads of an entity may then differ.
    `history_pending`: entities of a `backfill --daily` that is running or was interrupted. Bases are not compared then.
    """

    exact: bool
    deep: bool
    lines: list[Line]
    broken: list[Broken]
    broken_more: int
    malformed: int
    rows_pending: int
    rows_missing: int
    epochs: list[Epoch]
    mapped: list[str]
    unmapped: list[str]
    history_pending: int
    spooled_segments: int
    spooled_bytes: int
    spool_strays: list[Stray]
    spool_error: str | None
    spools: list[Known]
    """Of other hosts, as they reported: those that hold events, and those that are silent."""
    held: list[ShardClaims]
    """Shards that wait for an operator. No law holds of them."""

    @property
    def holds(self) -> bool:
        return not self.broken


class _State(NamedTuple):
    """The numbers that an audit read. `epochs`: of each shard, 0 if Redis has no layout. `after`: the marks of each
    shard, read last. `exact`: nothing moved while it read."""

    epochs: list[int]
    hot: list[Hot]
    rollups: Rollups
    counters: list[str]
    after: list[HotMarks]
    exact: bool
    lines: list[Line]


class Auditor:
    """One audit and its connections. Methods raise StoreError if a store does not answer."""

    def __init__(self, config: Config, redis: Redis, mongo: MongoSink, mysql: MysqlSink | None) -> None:
        self._config = config
        self._redis = redis
        self._keys = keys.Keys.of(config.redis)
        self._mongo = mongo
        self._mysql = mysql
        self._counters = sorted({counter for domain in config.domains for counter in domain_counters(config, domain)})

    async def accept(self, reason: str) -> Acceptance | None:
        """Puts what breaks `conservation` and `rollups` on record as accepted, so that both hold from now on.

        None: there is nothing to accept. Raises CheckFailed if counts move, or if another one accepts at the same time.
        """
        state = await self._read()
        if not all(state.epochs):
            raise CheckFailed("Redis was emptied, and no daemon came since. Start the flush daemon first.")
        if not state.exact:
            raise CheckFailed("Counts move, so nothing was accepted. Stop the ingest and the flush daemons meanwhile.")
        differences = laws.acceptable(state.lines, state.rollups, state.counters)
        if not differences:
            return None
        base = state.rollups.base or state.epochs[0]
        await open_epoch(self._mongo, base, state.counters)
        known = next((len(each.accepted) for each in state.rollups.epochs if each.epoch == base), 0)
        acceptance = Acceptance(dt.datetime.now(dt.UTC), who(), reason, differences)
        if not await accept(self._mongo, base, acceptance, nth=known):
            raise CheckFailed("Another one accepted at the same moment. Run the audit again.")
        await self.rebuild_domains()  # they may be of the days as they were
        return acceptance

    async def audit(self, *, thorough: bool) -> Report:
        """Checks the laws. `thorough`: for each entity, too."""
        epoch = await read_epoch(self._redis, self._keys, 0)
        spool, here = self._config.spool.dir, origin_of(self._config, epoch)
        # It is not accepted yet, so no law includes it.
        spooled = await asyncio.to_thread(usage, Path(spool), here) if spool else NO_USAGE
        own = await asyncio.to_thread(own_name, Path(spool)) if spool else ""
        known = [each for each in await read_reports(self._redis, self._keys) if each.name != own]
        marks = Marks(self._mongo)
        history_pending = await marks.count()
        _, hot, rollups, counters, after, exact, stated = await self._read()
        history_pending = max(history_pending, await marks.count())
        if exact:
            broken = laws.conservation(stated) + laws.ledger(hot) + laws.rollups_agree(rollups, counters)
            broken += laws.domains_agree(rollups, counters)
        else:
            broken = laws.bounds(hot, [marks.accepted for marks in after], rollups, counters)
        if not history_pending:
            broken += laws.bases_agree(rollups.bases, counters)
        more = 0
        compared = False
        if thorough and exact:
            apart, apart_more = await self._deep(counters, hot, rollups.expiring, bases=not history_pending)
            through, in_flight = rollups.expiring.through[DAILY.name], any(shard.in_flight_seq for shard in hot)
            if rollups.is_built and not in_flight:
                apart += await deep_domains(self._mongo, counters, rollups.builds.built, through)
            compared = await self._still(hot, rollups.expiring)
            if compared:
                broken, more = broken + apart, apart_more
        pending = missing = 0
        async for found, due in self._rows():
            pending += due
            missing += found.missing
            for lines in (each.broken() for part in (found.differing, found.aliases) for each in part):
                more += len(broken) >= BROKEN_MAX
                broken += lines if len(broken) < BROKEN_MAX else []
        malformed = sum(shard.malformed for shard in hot)
        return Report(
            exact, compared, stated, broken, more, malformed, pending, missing, rollups.epochs,
            [".".join(name) for name in replica_tables(self._config)], unmapped_types(self._config), history_pending,
            spooled.segments, spooled.bytes, spooled.strays, spooled.error,
            [each for each in known if each.silent or each.report.segments], await self._held(),
        )  # fmt: skip

    async def _held(self) -> list[ShardClaims]:
        shards = [shard for shard, floor in (await read_floors(self._mongo)).items() if floor.hold is not None]
        found = [
            await read_claims(self._config, self._redis, self._mongo, shard)
            for shard in sorted(shards)
            if shard < self._config.redis.shards
        ]
        return [claims for claims in found if claims.hold is not None]

    async def _read(self) -> _State:
        """The amounts in Redis and MongoDB; of one moment, if one of a few tries found it."""
        for attempt in range(STILL_TRIES):
            if attempt:
                await asyncio.sleep(STILL_PAUSE_S)
            hot = [await read_hot(self._redis, self._keys, shard) for shard in range(self._config.redis.shards)]
            counters = sorted(set(self._counters).union(*(shard.booked("accepted") for shard in hot)))
            epochs = [await read_epoch(self._redis, self._keys, shard.shard) for shard in hot]
            rollups = await read_rollups(self._mongo, hot, counters, epochs)
            after = [await read_marks(self._redis, self._keys, shard.shard) for shard in hot]
            exact = rollups.steady and after == [shard.marks for shard in hot]
            if exact:
                break
        return _State(epochs, hot, rollups, counters, after, exact, laws.lines(hot, rollups, counters))

    async def _deep(
        self, counters: list[str], hot: list[Hot], expiring: Expiring, *, bases: bool
    ) -> tuple[list[Broken], int]:
        found, more = list[Broken](), 0
        moving = moving_entities(hot) | await self._mongo.dead_letters.entities() | expiring.entities
        for differences in (
            deep(self._mongo, counters, moving, bases=bases), hours_above_days(self._mongo, counters, moving)
        ):  # fmt: skip
            async for difference in differences:
                more += len(found) >= BROKEN_MAX
                found += [difference] if len(found) < BROKEN_MAX else []
        return found, more

    async def _still(self, hot: Collection[Hot], expiring: Expiring) -> bool:
        """Whether nothing was accepted, claimed, acknowledged or expired since `hot` and `expiring` were read."""
        marks = [await read_marks(self._redis, self._keys, shard.shard) == shard.marks for shard in hot]
        return all(marks) and await read_expiring(self._mongo) == expiring

    async def rebuild_domains(self) -> None:
        """Has the flush daemon add up the days of whole domains anew, before its next claim."""
        await unfence(self._mongo)

    async def mark_due(self) -> tuple[int, int]:
        """Makes every row due that differs or that an alias wrote, so that the next sync sets it. Then removes the
        bases of the aliases. Returns the numbers of rows and of aliases."""
        marked = aliases = 0
        async for found, _ in self._rows():
            await self._give_back(found.aliases)
            due = {row.key for row in found.differing} | {alias.row for alias in found.aliases}
            for shard, entities in keys.by_shard(due, self._config.redis.shards, str).items():
                await make_due(self._redis, self._keys.shard(shard), entities)
            await forget_bases(self._mongo, [alias.key for alias in found.aliases])
            marked += len(due)
            aliases += len(found.aliases)
        return marked, aliases

    async def _give_back(self, aliases: Sequence[Alias]) -> None:
        """Gives a row's own entity the base that an alias took, if it has none: what the row said before that.

        Without it no sync sets the row, and what the alias counted would be its base."""
        rows: dict[Entity, dict[str, int]] = {}
        for alias in aliases:
            if (entity := parse_entity(alias.row)) is not None:
                base = rows.setdefault(entity, dict(alias.base))
                base.update({name: min(amount, base.get(name, amount)) for name, amount in alias.base.items()})
        if rows:
            zeros = {name: domain_counters(self._config, name) for name in self._config.domains}
            await adopt(self._mongo, rows, await self._mongo.totals([entity.key for entity in rows]), zeros)

    async def _rows(self) -> AsyncIterator[tuple[Compared, int]]:
        """What differs and should not, and how many other rows are due, a chunk at a time."""
        if self._mysql is None:
            return
        tables = replica_tables(self._config)
        async for found in compare(self._mongo, self._mysql, tables):
            found.differing, due = await confirm(
                self._redis, self._config.redis, self._mongo, self._mysql, tables, found.differing
            )
            yield found, due


@asynccontextmanager
async def auditor(config: Config) -> AsyncIterator[Auditor]:
    """An audit and its connections. Without `mysql.url` it leaves MySQL out."""
    async with AsyncExitStack() as stores:
        redis = await stores.enter_async_context(opened(config.redis))
        mongo = await stores.enter_async_context(MongoSink(config.mongo))
        mysql = await stores.enter_async_context(MysqlSink(config.mysql)) if config.mysql.url else None
        yield Auditor(config, redis, mongo, mysql)


def who() -> str:
    """Who runs the command, for the record."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = f"uid {os.getuid()}"
    return f"{user} on {socket.gethostname()}"
