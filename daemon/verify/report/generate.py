"""All artifacts of a window of days, written to a folder: parity/, rollback/, manifest.sums, and archive/ if asked for.

The artifact of a past day is never written again, because its parity is that of its own day. So the last report of a
day is what remains of it. A past day without an artifact gets one, and `generated_at` says that it is late.

Each file is written whole, and the manifest last. If a report is killed, some files differ from the manifest or are not
in it. `report verify` says so. The next report of the same day mends it; later, the file of that day must be deleted.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from daemon.buffer.connection import opened
from daemon.buffer.keys import Keys
from daemon.config import Config, chosen_tables, domain_counters, hourly_domains
from daemon.domain.counter import add_up
from daemon.domain.rollup import DAILY
from daemon.errors import StoreError
from daemon.read.days import sums_by_day
from daemon.read.status import read_status
from daemon.rollups.mongo import MongoSink
from daemon.verify.audit.hot import Hot, moving_entities, read_hot
from daemon.verify.parity import Row, check
from daemon.verify.report import archive, routes
from daemon.verify.report.artifact import (
    SCHEMA_VERSION,
    Day,
    FileSum,
    ParityArtifact,
    RollbackArtifact,
    Waiting,
    instant,
)
from daemon.verify.report.day import Kept, agreement

NO_LEGACY_URL = "legacy_movie_view_route_present: not asked; name the application's route with --legacy-url"


class Report(Struct, frozen=True):
    """The artifacts of the window, and what was found. `kept`: those of past days, which were there. `disagreements`:
    of the days that were written, with their week, month, year or total."""

    files: list[str]
    kept: list[str]
    archive: str | None
    checked: int
    mismatches: int
    pending: int
    disagreements: int


class Wanted(Struct, frozen=True):
    """What to report. `limit`: rows of each mapped type, and entities of each day."""

    days: int
    limit: int
    folder: Path
    rollback: bool = False
    legacy_url: str | None = None
    archive: bool = False


async def generate(config: Config, wanted: Wanted, progress: Callable[[dt.date], None] = lambda _: None) -> Report:
    """Raises StoreError if a store does not answer, FileError if a file cannot be written."""
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    rows: list[Row] = []
    tallies = await check(config, chosen_tables(config), wanted.limit, rows.append)
    checked, mismatches = sum(tally.checked for tally in tallies), sum(tally.mismatches for tally in tallies)
    async with opened(config.redis) as redis:
        hot = [await read_hot(redis, Keys.of(config.redis), shard) for shard in range(config.redis.shards)]
    pending = await _waiting(config, hot)
    written: dict[str, FileSum] = {}
    disagreements = 0
    window = [now.date() - dt.timedelta(days=back) for back in reversed(range(wanted.days))]
    kept = [day for day in window[:-1] if (wanted.folder / parity_file(day)).exists()]
    for day_kept in kept:
        progress(day_kept)
    async for day in _days(config, wanted, [day for day in window if day not in kept], hot):
        artifact = ParityArtifact(
            schema_version=SCHEMA_VERSION, artifact_type="parity", artifact_date=day.date, generated_at=instant(now),
            limit=wanted.limit, checked=checked, mismatches=mismatches, rows=list(rows), types=tallies,
            pending=pending, day=day,
        )  # fmt: skip
        name = parity_file(day.date)
        written[name] = archive.write(wanted.folder, name, artifact)
        disagreements += day.agreement.disagreements
        progress(day.date)
    if wanted.rollback:
        name = f"rollback/rollback-{now.date()}.json"
        written[name] = archive.write(wanted.folder, name, await _rollback(config, wanted, now, pending))
    sums = archive.update_manifest(wanted.folder, written, now)
    names = [parity_file(day) for day in kept]
    files = written | {name: sums.get(name) or archive.sum_of((wanted.folder / name).read_bytes()) for name in names}
    packed = archive.pack(wanted.folder, files, now) if wanted.archive else None
    pending_rows = sum(tally.pending for tally in tallies)
    return Report(sorted(files), names, packed, checked, mismatches, pending_rows, disagreements)


def parity_file(day: dt.date) -> str:
    return f"parity/parity-{day}.json"


async def _waiting(config: Config, hot: Sequence[Hot]) -> Waiting:
    """Raises StoreError if a store does not answer."""
    status = await read_status(config)
    if status.redis_error or status.mongo_error:
        raise StoreError(status.redis_error or status.mongo_error)
    return Waiting(
        live=add_up(shard.live for shard in hot),
        in_flight=add_up(shard.in_flight_sums() for shard in hot),
        dirty_entities=sum(shard.dirty for shard in status.shards),
        due_rows=sum(shard.replica_due for shard in status.shards),
        dead_letters=status.dead_letters or 0,
        spool_segments=status.spool.segments if status.spool else 0,
        spool_bytes=status.spool.bytes if status.spool else 0,
    )


async def _days(config: Config, wanted: Wanted, days: Sequence[dt.date], hot: list[Hot]) -> AsyncIterator[Day]:
    """What is known of these days. The oldest is the first, and today the last."""
    counters = sorted({counter for domain in config.domains for counter in domain_counters(config, domain)})
    types = [(domain, kind) for domain, each in config.domains.items() for kind in each.entity_types]
    kept = Kept(days[-1], msgspec.structs.asdict(config.retention), hourly_domains(config))
    async with MongoSink(config.mongo) as mongo:
        moving = moving_entities(hot) | await mongo.dead_letters.entities()
        sums = await sums_by_day(mongo, types, days[0].isoformat(), days[-1].isoformat(), counters)
        for day in days:
            date = day.isoformat()
            yield Day(
                date=day,
                sums=sums.get(date) or dict.fromkeys(counters, 0),
                live=add_up(shard.live_by_day.get(date, {}) for shard in hot),
                in_flight=add_up(
                    document.amounts
                    for shard in hot
                    if shard.in_flight is not None
                    for document in shard.in_flight.documents[DAILY]
                    if document.bucket == date
                ),
                expired=not kept.holds(DAILY, day),
                agreement=await agreement(mongo, types, day, counters, kept, wanted.limit, moving),
            )


async def _rollback(config: Config, wanted: Wanted, now: dt.datetime, pending: Waiting) -> RollbackArtifact:
    legacy = (False, NO_LEGACY_URL)
    if wanted.legacy_url is not None:
        legacy = await routes.is_present("OPTIONS", wanted.legacy_url)  # a GET may count a view
    ingest = await routes.is_present("GET", routes.events_url(config.http))  # it is answered 405: nothing is counted
    tallies = await check(config, chosen_tables(config), None)
    mismatches = sum(tally.mismatches for tally in tallies)
    return RollbackArtifact(
        schema_version=SCHEMA_VERSION, artifact_type="rollback", artifact_date=now.date(), generated_at=instant(now),
        ingest_route_present=ingest[0], legacy_movie_view_route_present=legacy[0], notes=[ingest[1], legacy[1]],
        enabled=config.enabled, pending=pending, checked=sum(tally.checked for tally in tallies),
        mismatches=mismatches, mysql_equals_mongo=mismatches == 0, safe=mismatches == 0 and pending.is_nothing,
    )  # fmt: skip
