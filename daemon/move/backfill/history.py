"""Takes over a file of days: the bases of daily documents, and of the weeks, months and years that they lie in.

A line of the file sets the base of a day. It adds nothing, so a line may be repeated, and the last one holds. When the
days are set, their weeks, months and years are summed from MongoDB. So the same days give the same sums, in any order
and after any interruption (`STEPS`). Only one run at a time.

The days of whole domains get the sums of their entities' bases last (`rollups/domains.py`).

A history is part of a total. So it needs a base in the totals: a row in MySQL and a mapped counter. It is set as a
whole, so an entity whose history has begun to expire keeps what it has.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct, field

from daemon.config import Config, ReplicaTable, domain_counters
from daemon.domain.entity import Entity, parse_entity
from daemon.domain.rollup import COARSER, COMPLETE, DAILY, EXPIRING, TOTALS, Bucketed, Document, Kind
from daemon.importer.lines import Lines, Position, fresh_digest
from daemon.importer.source import FileSource, StoppedError, UnreadableError
from daemon.move.backfill.changes import Change
from daemon.move.backfill.dailyfile import Counters, Day, Wrong, parse, reader
from daemon.move.backfill.run import PROBLEMS_LISTED_MAX, Watcher
from daemon.replica.adopt import SOURCE, lacking
from daemon.replica.mysql import MysqlSink
from daemon.retention.batch import Batches
from daemon.retention.expiring import moving
from daemon.retention.history import UndecidedError, with_expired_history
from daemon.rollups.build import first_fields
from daemon.rollups.domains import set_bases
from daemon.rollups.errors import is_already_applied, store_error, write_failed
from daemon.rollups.history_marks import Marks
from daemon.rollups.mongo import Json, MongoSink

STEPS = {
    "mark": "The entities are marked (`rollups/history_marks.py`). Nothing of theirs expires. The next run sums them.",
    "set_days": "Some days have their bases. The next run sets the others, and sums all that are marked.",
    "sum": "Some weeks, months and years have their sums. The entities are still marked. The next run sums them again.",
    "unmark": "The entities' histories are done. Whole domains lack them. The next run sets their bases.",
    "base_domains": "Whole domains have the bases, and the record says which history they are of.",
}
"""Each step in order, and what holds if the process dies after it or its reply is lost."""

LINE_BYTES_MAX = 65_536
LINES_AT_ONCE = 1_000
MARKS_AT_ONCE = 100
"""Entities that are summed together. All their days are read."""
BASE_TRIES = 20
"""Attempts at the bases of whole domains, while an expiry moves bases."""
HAS_EXPIRED = (
    f"has begun to expire ({', '.join(f'retention.{kind.retention_key}' for kind in EXPIRING if kind in COMPLETE)}):"
    " its history can no longer be set"
)
NO_BASE = "has no base: MySQL has no such row, or it was not backfilled"

Tables = Mapping[tuple[str, str], ReplicaTable]
Base = dict[str, int]
"""Counter → amount."""


class HistoryTally(Struct):
    """What became of the lines of one file. `days`: how many bases of days were set."""

    name: str
    lines: int = 0
    days: int = 0
    unchanged: int = 0
    entities: int = 0
    """Entities whose weeks, months and years were summed."""
    problems: int = 0
    """Wrong lines, entities whose days exceed their totals, and a file that cannot be read further."""
    problems_listed: list[str] = field(default_factory=list)

    def problem(self, what: object) -> None:
        self.problems += 1
        if len(self.problems_listed) < PROBLEMS_LISTED_MAX:
            self.problems_listed.append(str(what))


class Bucket(NamedTuple):
    """One document of a rollup: an entity's day, week, month or year."""

    entity: Entity
    name: str

    @property
    def id(self) -> str:
        return f"{self.entity.key}:{self.name}"


class History:
    """Takes one file over. `run` raises ConfigError and StoreError, and UndecidedError beside an expiry of the same
    entities. It may be repeated: the result is the same."""

    def __init__(self, config: Config, mongo: MongoSink, mysql: MysqlSink, tables: Tables, *, dry_run: bool) -> None:
        """`dry_run`: the watcher is shown the changes, and none is made. Entities with a row count as taken over."""
        self._mongo, self._mysql, self._tables, self._dry_run = mongo, mysql, tables, dry_run
        self._marks = Marks(mongo)
        self._counters: Counters = {entity_type: tuple(table.columns) for entity_type, table in tables.items()}
        self._zeros = {domain: domain_counters(config, domain) for domain in config.domains}

    async def run(self, path: Path, watcher: Watcher, stopping: threading.Event) -> HistoryTally:
        """Sets the days, then sums their weeks, months and years."""
        tally = HistoryTally(str(path))
        source = FileSource(path, stopping)
        watcher.begin(f"{path.name}, bytes", source.size_bytes or 0, 0)
        done_bytes = 0
        parsed = self._parsed(source, tally)
        if not self._dry_run:
            await self._mongo.builds.begin_history()
        try:
            while days := list(islice(parsed, LINES_AT_ONCE)):
                await self._take_over(days, tally, watcher.change)
                watcher.advance(source.done_bytes - done_bytes)
                done_bytes = source.done_bytes
            while not self._dry_run and not stopping.is_set() and (keys := await self._marks.some(MARKS_AT_ONCE)):
                await self._sum(keys, tally)
            if not self._dry_run and not stopping.is_set():
                await self._base_domains()
        except StoppedError:
            pass  # the next run sums the marked entities
        return tally

    def _parsed(self, source: FileSource, tally: HistoryTally) -> Iterator[Day]:
        """The good lines. The wrong ones go to the tally."""
        fields = None
        for number, line in _numbered(source, tally):
            if fields is None:
                fields, is_line = reader(line.decode("utf-8-sig", errors="replace"))
                if not is_line:
                    continue
                line = line.removeprefix(b"\xef\xbb\xbf")  # noqa: PLW2901
            tally.lines += 1
            found = parse(number, line, fields, self._counters)
            if isinstance(found, Day):
                yield found
            else:
                tally.problem(found)

    async def _take_over(self, days: Iterable[Day], tally: HistoryTally, show: Callable[[Change], None]) -> None:
        wanted: dict[Bucket, Base] = {}
        for day in await self._with_base(list(days), tally):
            wanted.setdefault(Bucket(day.entity, day.date), {})[day.counter] = day.amount
        there = await self._bases(DAILY, [bucket.id for bucket in wanted])
        changed: dict[Bucket, Base] = {}
        for bucket, base in wanted.items():
            before = there.get(bucket.id, {})
            new = {counter: amount for counter, amount in base.items() if before.get(counter) != amount}
            tally.unchanged += len(base) - len(new)
            if new:
                changed[bucket] = new
        await self._leave_expired(changed, tally)
        for bucket, new in changed.items():
            tally.days += len(new)
            if self._dry_run:
                for counter, amount in new.items():
                    show(Change(bucket.id, counter, there.get(bucket.id, {}).get(counter), amount))
        if not self._dry_run:
            await self._set(DAILY, changed)

    async def _leave_expired(self, changed: dict[Bucket, Base], tally: HistoryTally) -> None:
        """Removes the days of entities that began to expire. Marks all entities first, so nothing more expires."""
        keys = {bucket.entity.key for bucket in changed}
        if keys and not self._dry_run:
            await self._marks.add(keys)
        expired = await with_expired_history(self._mongo, keys)
        for bucket in [bucket for bucket in changed if bucket.entity.key in expired]:
            tally.problem(f"{bucket.id}: {bucket.entity.key} {HAS_EXPIRED}")
            del changed[bucket]

    async def _with_base(self, days: list[Day], tally: HistoryTally) -> list[Day]:
        totals: Mapping[str, Json] = await self._mongo.totals({day.entity.key for day in days})
        if self._dry_run:
            totals = {**totals, **await self._rows(day.entity for day in days)}
        good = []
        for day in days:
            if lacking(totals.get(day.entity.key), [day.counter]):
                tally.problem(Wrong(day.line, "entity", f"{day.entity.key} {NO_BASE}"))
            else:
                good.append(day)
        return good

    async def _rows(self, entities: Iterable[Entity]) -> dict[str, Json]:
        """The entities that have a row, as the documents that a backfill would make."""
        by_type: dict[tuple[str, str], set[str]] = {}
        for entity in entities:
            by_type.setdefault((entity.domain, entity.type), set()).add(entity.id)
        return {
            Entity(*entity_type, id_).key: {"base": row}
            for entity_type, ids in by_type.items()
            for id_, row in (await self._mysql.read(self._tables[entity_type], list(ids))).items()
        }

    async def _sum(self, keys: Collection[str], tally: HistoryTally) -> None:
        """Sets the bases of these entities' weeks, months and years to the sums of their days' bases."""
        expired = await with_expired_history(self._mongo, keys)  # they were marked, but none of their days was set
        entities = {key: entity for key in keys if key not in expired and (entity := parse_entity(key)) is not None}
        sums: dict[Bucketed, dict[Bucket, Base]] = {kind: {} for kind in COARSER}
        whole: dict[str, Base] = {key: {} for key in entities}
        async for entity, date, base in self._days(entities.values()):
            day = DAILY.parse(date)
            assert day is not None, f"{entity.key}: {date}"
            for kind, by_bucket in sums.items():
                _add(by_bucket.setdefault(Bucket(entity, kind.bucket_of(day)), {}), base)
            _add(whole[entity.key], base)
        for kind, by_bucket in sums.items():
            await self._set(kind, by_bucket)
        for key, base in (await self._bases(TOTALS, list(entities))).items():
            for counter, amount in whole[key].items():
                if amount > base.get(counter, 0):
                    tally.problem(f"{key} {counter}: its days sum to {amount}, its base is only {base.get(counter, 0)}")
        await self._marks.remove(keys)
        tally.entities += len(entities)

    async def _base_domains(self) -> None:
        """Sets the bases of whole domains to the sums of all days' bases: in the documents that are read, and in those
        that are being built. A builder sees the history that begins here, and sets its bases again."""
        number = await self._mongo.builds.begin_history()
        counters = {counter for names in self._zeros.values() for counter in names}
        expiry = Batches(self._mongo, DAILY)
        for _ in range(BASE_TRIES):
            record, builds = await expiry.record(), await self._mongo.builds.read()
            for generation in {builds.generation, builds.built} - {0}:
                await set_bases(
                    self._mongo, generation, counters, record.through if builds.built else "",
                    before=builds.built, moving=await moving(expiry, record),
                )  # fmt: skip
            # Else an expiry moved bases meanwhile, or a builder began.
            if await expiry.record() == record and (await self._mongo.builds.read()).generation == builds.generation:
                return await self._mongo.builds.end_history(number)
        raise UndecidedError("Old documents are expiring. Run `tallyd expire` to its end, then this command again.")

    async def _days(self, entities: Iterable[Entity]) -> AsyncIterator[tuple[Entity, str, Base]]:
        by_type: dict[tuple[str, str], list[str]] = {}
        for entity in entities:
            by_type.setdefault((entity.domain, entity.type), []).append(entity.id)
        for (domain, type_), ids in by_type.items():
            wanted = {"domain": domain, "entity_type": type_, "entity_id": {"$in": ids}, "base": {"$exists": True}}
            with store_error(self._mongo.address):
                async for found in self._mongo.collection(DAILY).find(wanted, {"entity_id": 1, "date": 1, "base": 1}):
                    yield Entity(domain, type_, found["entity_id"]), found["date"], _plain(found["base"])

    async def _bases(self, kind: Kind, ids: Collection[str]) -> dict[str, Base]:
        with store_error(self._mongo.address):
            cursor = self._mongo.collection(kind).find({"_id": {"$in": list(ids)}}, {"base": 1})
            return {document["_id"]: _plain(document.get("base") or {}) async for document in cursor}

    async def _set(self, kind: Kind, bases: Mapping[Bucket, Base]) -> None:
        now = dt.datetime.now(dt.UTC)
        left = [
            {
                "q": {"_id": bucket.id},
                "u": {
                    "$set": {f"base.{counter}": amount for counter, amount in base.items()}
                    | {"source": SOURCE, "updated_at": now},
                    "$setOnInsert": first_fields(
                        kind, Document(bucket.id, bucket.entity, bucket.name, {}), self._zeros
                    ),
                },
                "upsert": True,
            }
            for bucket, base in bases.items()
        ]
        while left:
            met = []
            for operation, error in await self._mongo.update(kind, left):
                if not is_already_applied(error):  # else a flush inserted it beside us: then it is there now
                    raise write_failed(self._mongo.address, error)
                met.append(operation)
            left = met


def _numbered(source: FileSource, tally: HistoryTally) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, numbered from 1."""
    lines = Lines(LINE_BYTES_MAX, Position(), fresh_digest())
    try:
        for chunk in source.chunks(0):
            for line in lines.feed(chunk):
                if line.strip():
                    yield lines.number, line
    except UnreadableError as error:
        tally.problem(f"behind line {lines.number}: {error}")
        return  # the rest may be half a line
    if rest := lines.rest():
        yield lines.number, rest


def _add(sums: Base, base: Base) -> None:
    for counter, amount in base.items():
        sums[counter] = sums.get(counter, 0) + amount


def _plain(base: Json) -> Base:
    return {counter: int(amount) for counter, amount in base.items()}
