"""Everything the stores hold of one entity, and what is wrong with it. Reads only; `tallyd explain` calls it.

Three stores cannot be read in one instant. If a claim or a sync moved meanwhile, it reads again, a few times.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from msgspec import Struct, field
from redis.asyncio import Redis

from daemon.buffer.connection import opened
from daemon.buffer.due import amounts_in_flight
from daemon.buffer.keys import Keys, ShardKeys, shard_of
from daemon.config import Config, ReplicaTable, domain_counters, replica_tables
from daemon.domain.counter import add_up, parse_amount, parse_field
from daemon.domain.entity import Entity
from daemon.domain.rollup import (
    COMPLETE,
    DAILY,
    DAY_CHARS,
    EXPIRING,
    HOURLY,
    KINDS,
    OWN_FIELDS,
    TOTALS,
    Kind,
    amount_of,
)
from daemon.errors import StoreError
from daemon.replica.mysql import MysqlSink
from daemon.rollups.dead_letters import Letter
from daemon.rollups.errors import store_error
from daemon.rollups.floors import read_floor
from daemon.rollups.history_marks import Marks
from daemon.rollups.mongo import Json, MongoSink

TRIES_MAX = 5

Amounts = dict[str, int]


class InFlight(Struct, frozen=True):
    """The claim in flight of the entity's shard. `amounts`: the entity's own, per counter; empty if it is not in it.

    `open`: it may grow. `since`, `until`: when it was begun, and until when it is the owner's alone.
    """

    seq: int
    owner: str
    open: bool
    since: dt.datetime | None
    until: dt.datetime | None
    amounts: Amounts


class Stored(Struct, frozen=True):
    """One document. `counted` and `base`: per counter. `expired`: it holds what deleted documents held."""

    rollup: str
    bucket: str | None
    counted: Amounts
    base: Amounts
    flush_seq: int | None
    synced: Amounts | None
    dead_applied: list[str]
    updated_at: dt.datetime | None
    expired: bool
    expiring: bool
    no_number: list[str]
    """Counters under which it holds something else."""


class Row(Struct, frozen=True):
    """The entity's row in MySQL. `columns`: counter → what its column says; None: there is no such row."""

    table: str
    columns: Amounts | None
    alike: str | None = None
    """The key of another row that MySQL takes for this id."""
    error: str | None = None
    """Why MySQL was not asked, or did not answer."""


class Explained(Struct, frozen=True):
    """`live`: counter → amount in no claim yet. `days`: the same by `<counter>:<day>` (or hour), as Redis has it.

    `last`: the seq last given to a claim of the shard, and `floor`: the highest one MongoDB may hold; 0: none.
    `due`: the score under which the row is due; None: it is not. `setting`: a sync is setting the row, or died at it.
    `still`: nothing moved while it was read.
    """

    entity: str
    shard: int
    counters: list[str]
    still: bool
    live: Amounts
    days: dict[str, str]
    in_flight: InFlight | None
    last: int
    floor: int
    documents: list[Stored]
    letters: list[Letter]
    history_pending: bool
    due: float | None
    setting: bool
    refused: str | None
    row: Row | None
    findings: list[str] = field(default_factory=list)

    @property
    def totals(self) -> Stored | None:
        return next((each for each in self.documents if each.rollup == TOTALS.name), None)

    def total(self, counter: str) -> int:
        """The total in MongoDB, which the row should have."""
        counted, base = self.sums(TOTALS.name)
        return counted.get(counter, 0) + base.get(counter, 0)

    def sums(self, rollup: str) -> tuple[Amounts, Amounts]:
        """The sums of each counter over the rollup's documents: counted, and taken over."""
        of_kind = [each for each in self.documents if each.rollup == rollup]
        return add_up(each.counted for each in of_kind), add_up(each.base for each in of_kind)


async def explain(config: Config, entity: Entity) -> Explained:
    """Raises StoreError if Redis or MongoDB does not answer. MySQL may be away."""
    shard = shard_of(entity.key, config.redis.shards)
    keys = Keys.of(config.redis).shard(shard)
    table = replica_tables(config).get((entity.domain, entity.type))
    async with opened(config.redis) as redis, MongoSink(config.mongo) as mongo:
        for attempt in range(1, TRIES_MAX + 1):
            hot = await _read_hot(redis, keys, entity.key)
            floor = (await read_floor(mongo, shard)).seq
            documents = await _documents(mongo, entity)
            letters = await mongo.dead_letters.of_entity(entity)
            history_pending = bool(await Marks(mongo).among([entity.key]))
            row = None if table is None else await _row(config, table, entity.id)
            still = (await _read_hot(redis, keys, entity.key)).moves == hot.moves
            if still or attempt == TRIES_MAX:
                break
    live = add_up({counter: amount} for counter, amount in _amounts(hot.days))
    named = {*chain.from_iterable(each.counted.keys() | each.base.keys() for each in documents), *live}
    counters = list(domain_counters(config, entity.domain))
    found = Explained(
        entity.key, shard, counters + sorted(named.difference(counters)), still, live, hot.days, hot.in_flight,
        hot.last, floor, documents, letters, history_pending, hot.due, hot.setting, hot.refused, row,
    )  # fmt: skip
    found.findings.extend(_findings(found, foreign=hot.foreign))
    return found


class _Hot(Struct, frozen=True):
    """The entity in Redis. `foreign`: its key, or a field of it, is not ours."""

    days: dict[str, str]
    foreign: bool
    in_flight: InFlight | None
    last: int
    due: float | None
    setting: bool
    refused: str | None

    @property
    def moves(self) -> tuple[object, ...]:
        """Changes with each step of a claim and of a sync."""
        return self.last, self.in_flight and self.in_flight.seq, self.due, self.setting


async def _read_hot(redis: Redis, keys: ShardKeys, key: str) -> _Hot:
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hgetall(f"{keys.counters_prefix}:{key}")
        pipe.hgetall(keys.claim)
        pipe.zscore(keys.due, key)
        pipe.sismember(keys.syncing, key)
        pipe.hget(keys.refused, key)
        fields, claim, due, setting, refused = await pipe.execute(raise_on_error=False)
    days = {_text(name): _text(amount) for name, amount in sorted(fields.items())} if isinstance(fields, dict) else {}
    claim = claim if isinstance(claim, dict) else {}
    return _Hot(
        days, len(_amounts(days)) < len(days) or not isinstance(fields, dict),
        await _in_flight(redis, keys, key, claim), _number(claim.get(b"last")),
        due if isinstance(due, float) else None, setting == 1, _text(refused) if isinstance(refused, bytes) else None,
    )  # fmt: skip


async def _in_flight(redis: Redis, keys: ShardKeys, key: str, claim: Mapping[bytes, bytes]) -> InFlight | None:
    if not claim.get(b"seq"):
        return None
    pairs = chain.from_iterable(pairs for entity, pairs in await amounts_in_flight(redis, keys, claim) if entity == key)
    return InFlight(
        _number(claim[b"seq"]), _text(claim.get(b"owner", b"")), claim.get(b"open") == b"1",
        _time(_number(claim.get(b"since"))), _time(_number(claim.get(b"until"))),
        add_up({counter: amount} for counter, amount in _amounts(pairs)),
    )  # fmt: skip


async def _documents(mongo: MongoSink, entity: Entity) -> list[Stored]:
    wanted = {"domain": entity.domain, "entity_type": entity.type, "entity_id": entity.id}
    found: list[Stored] = []
    with store_error(mongo.address):
        for kind in KINDS:
            sort = [(kind.bucket_field or "_id", 1)]
            found += [_stored(kind, each) async for each in mongo.collection(kind).find(wanted).sort(sort)]
        for kind in EXPIRING:
            expired = await mongo.database[kind.expired_collection].find_one({"_id": entity.key})
            found += [] if expired is None else [_stored(kind, expired, expired=True)]
    return found


def _stored(kind: Kind, document: Json, *, expired: bool = False) -> Stored:
    base, synced = document.get("base"), document.get("synced")
    base = base if isinstance(base, Mapping) else {}
    counters = [name for name in document if name not in OWN_FIELDS]
    updated_at = document.get("updated_at")
    return Stored(
        kind.name,
        str(document.get(kind.bucket_field)) if kind.bucket_field and not expired else None,
        {counter: int(amount_of(document[counter])) for counter in counters},
        {counter: int(amount_of(amount)) for counter, amount in base.items()},
        int(amount_of(document["flush_seq"])) if "flush_seq" in document else None,
        {name: int(amount_of(amount)) for name, amount in synced.items()} if isinstance(synced, Mapping) else None,
        [str(letter) for letter in document.get("dead_applied", ())],
        updated_at if isinstance(updated_at, dt.datetime) else None,
        expired,
        "expiring" in document,
        [counter for counter in counters if not isinstance(document[counter], int)],
    )


async def _row(config: Config, table: ReplicaTable, id_: str) -> Row:
    if not config.mysql.url:
        return Row(table.table, None, error="mysql.url is not set")
    try:
        async with MysqlSink(config.mysql) as mysql:
            columns = (await mysql.read(table, [id_])).get(id_)
            alike = {} if columns is not None else await mysql.alike(table, [id_])
    except StoreError as error:
        return Row(table.table, None, error=str(error))
    return Row(table.table, columns, alike.get(id_))


def _findings(found: Explained, *, foreign: bool) -> Iterator[str]:
    """Findings for the operator, each with the command that helps."""
    if not found.still:
        yield "Counts moved while this was read. Try again."
    waiting = [letter for letter in found.letters if letter.dropped_at is None]
    if not (found.days or found.documents or found.letters or (found.in_flight and found.in_flight.amounts)):
        yield "Nothing was ever counted for this entity."
    if foreign:
        yield "Redis holds a foreign value here. The next flush makes a dead letter of it, or moves it aside."
    for each in found.documents:
        if each.no_number:
            yield f"{each.rollup} {each.bucket or ''} holds no number for {', '.join(each.no_number)}: it was edited."
        if (each.flush_seq or 0) > found.floor:
            yield f"{each.rollup} {each.bucket or ''} has seq {each.flush_seq}, above the floor of its shard."
    if waiting:
        yield f"{len(waiting)} dead letters wait: `tallyd dead show {waiting[0].id}`."
    if found.history_pending:
        yield "Its history is half written. Run `tallyd backfill --daily` again."
    moving = bool(found.in_flight and found.in_flight.amounts)
    if found.still and not (moving or found.letters or any(each.expiring for each in found.documents)):
        yield from _rollups_apart(found)
    yield from _row_findings(found, moving=moving)


def _rollups_apart(found: Explained) -> Iterator[str]:
    totals, _ = found.sums(TOTALS.name)
    for kind in COMPLETE:
        counted, _ = found.sums(kind.name)
        for counter in found.counters:
            if (sums := counted.get(counter, 0)) != (total := totals.get(counter, 0)):
                yield f"{counter}: the {kind.name} documents sum to {sums:,}, and the totals say {total:,}."
    yield from _hours_above_days(found)


def _hours_above_days(found: Explained) -> Iterator[str]:
    daily = [each for each in found.documents if each.rollup == DAILY.name]
    if any(each.expired for each in daily):
        return  # perhaps days whose hours are left
    days = {each.bucket: each.counted for each in daily}
    hours: dict[str, list[Amounts]] = {}
    for each in found.documents:
        if each.rollup == HOURLY.name and each.bucket is not None:
            hours.setdefault(each.bucket[:DAY_CHARS], []).append(each.counted)
    for day, amounts in hours.items():
        for counter, amount in add_up(amounts).items():
            if amount > (of_day := days.get(day, {}).get(counter, 0)):
                yield f"{counter}: the hours of {day} sum to {amount:,}, and the day says {of_day:,}."


def _row_findings(found: Explained, *, moving: bool) -> Iterator[str]:
    row = found.row
    if row is None:
        return
    if row.error is not None:
        yield f"The row was not read: {row.error}."
    elif row.columns is None:
        alike = f" MySQL takes {row.alike!r} for it, which is another id." if row.alike else ""
        yield f"{row.table} has no row whose key is this id.{alike}"
    if found.refused is not None:
        yield f"MySQL refuses the row: {found.refused}"
    if row.columns is None or found.totals is None:
        return
    lacking = [counter for counter in row.columns if counter not in found.totals.base]
    apart = [counter for counter, says in row.columns.items() if says != found.total(counter)]
    if lacking:
        yield f"No base yet for {', '.join(lacking)}: the next sync takes what the column says."
    elif apart and found.due is not None:
        yield "The row differs and is due: the next sync sets it."
    elif apart and moving:
        yield "The row differs, and the claim in flight makes it due."
    elif apart and found.still:
        yield "The row differs and is not due: `tallyd audit --repair-replica`."


def _amounts(pairs: Mapping[str, str] | Iterable[tuple[str, str]]) -> list[tuple[str, int]]:
    """(counter, amount) of the pairs that are ours."""
    found = []
    for name, text in pairs.items() if isinstance(pairs, Mapping) else pairs:
        parsed, amount = parse_field(name), parse_amount(text)
        if parsed is not None and amount is not None:
            found.append((parsed.counter, amount))
    return found


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")


def _number(raw: bytes | None) -> int:
    return (parse_amount(_text(raw)) or 0) if raw else 0


def _time(ms: int) -> dt.datetime | None:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC) if ms else None
