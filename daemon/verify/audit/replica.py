"""Each mapped row of MySQL against its totals in MongoDB. Reads only, in chunks, so memory stays flat.

Two stores cannot be read in one instant, so each difference is read again before it counts (`confirm`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from msgspec import Struct, field
from redis.asyncio import Redis

from daemon.buffer.due import pending
from daemon.buffer.keys import Keys, by_shard
from daemon.config import RedisSection, ReplicaTable
from daemon.domain.rollup import total
from daemon.replica.aliases import find_aliases
from daemon.replica.mysql import MysqlSink
from daemon.rollups.mongo import Json, MongoSink
from daemon.verify.audit.laws import Broken

CHUNK_ENTITIES = 5_000
CONFIRM_TRIES = 5

Tables = Mapping[tuple[str, str], ReplicaTable]


class Row(Struct, frozen=True):
    """An entity whose row differs from its totals. `columns`: each mapped counter → (MongoDB, MySQL)."""

    key: str
    columns: dict[str, tuple[int, int]]

    @property
    def totals(self) -> list[int]:
        return [here for here, _ in self.columns.values()]

    def broken(self) -> list[Broken]:
        return [
            Broken("replica", counter, there - here, f"{self.key}: MySQL says {there}, MongoDB {here}")
            for counter, (here, there) in self.columns.items()
            if here != there
        ]


class Alias(Struct, frozen=True):
    """An entity that has the base of another one's row (`daemon.replica.aliases`). `base`: counter → amount."""

    key: str
    row: str
    """The key of the entity that the row belongs to."""
    base: dict[str, int]

    def broken(self) -> list[Broken]:
        said = (
            f"{self.key}: its base is of the row of {self.row}, which a former version took for its own and wrote."
            " `tallyd audit --repair-replica` removes the base and sets the row"
        )
        return [Broken("alias", counter, amount, said) for counter, amount in self.base.items()]


class Compared(Struct):
    """What a chunk of the totals has in MySQL. `missing`: how many have no row. That is no difference."""

    differing: list[Row] = field(default_factory=list)
    missing: int = 0
    aliases: list[Alias] = field(default_factory=list)


async def compare(mongo: MongoSink, mysql: MysqlSink, tables: Tables) -> AsyncIterator[Compared]:
    """Compares all totals of these tables, a chunk at a time."""
    for (domain, entity_type), table in tables.items():
        prefix = f"{domain}:{entity_type}:"
        async for chunk in mongo.totals_of_type(domain, entity_type, CHUNK_ENTITIES):
            rows = await mysql.read(table, [document["entity_id"] for document in chunk])
            missing = {document["entity_id"]: document for document in chunk if document["entity_id"] not in rows}
            aliases = await find_aliases(mysql, table, missing.values())
            yield Compared(
                differing(prefix, {document["_id"]: document for document in chunk}, rows, table),
                len(missing),
                [Alias(prefix + id_, prefix + row, missing[id_]["base"]) for id_, row in aliases.items()],
            )


async def confirm(
    redis: Redis,
    section: RedisSection,
    mongo: MongoSink,
    mysql: MysqlSink,
    tables: Tables,
    found: Sequence[Row],
    *,
    dirty_too: bool = False,
) -> tuple[list[Row], int]:
    """Those of the rows that truly differ, and how many are pending instead.

    A row truly differs if two things hold. Its totals are the same before and after a moment in which it was neither
    due nor in flight. And its row was read after that moment: MySQL had been given those totals by then. `dirty_too`:
    rows with live counts are pending, too.
    """
    true: list[Row] = []
    rows, waiting = list(found), 0
    keys = Keys.of(section)
    for _ in range(CONFIRM_TRIES):
        moving = set[str]()
        for shard, entities in by_shard((row.key for row in rows), section.shards, str).items():
            moving |= await pending(redis, keys.shard(shard), entities, dirty_too=dirty_too)
        waiting += len(moving)
        before = {row.key: row.totals for row in rows if row.key not in moving}
        if not before:
            return true, waiting
        again = await _read_again(mongo, mysql, tables, list(before))
        true += [row for row in again if row.totals == before[row.key]]
        rows = [row for row in again if row.totals != before[row.key]]
    return true, waiting + len(rows)


async def _read_again(mongo: MongoSink, mysql: MysqlSink, tables: Tables, keys: Sequence[str]) -> list[Row]:
    """Those of the entities whose rows differ now. It reads MySQL first."""
    found: list[Row] = []
    for (domain, entity_type), table in tables.items():
        prefix = f"{domain}:{entity_type}:"
        of_type = [key for key in keys if key.startswith(prefix)]
        if of_type:
            rows = await mysql.read(table, [key.removeprefix(prefix) for key in of_type])
            found += differing(prefix, await mongo.totals(of_type), rows, table)
    return found


def differing(
    prefix: str, totals: Mapping[str, Json], rows: Mapping[str, Mapping[str, int]], table: ReplicaTable
) -> list[Row]:
    """Those of the rows (entity id → counter → value) that differ from their totals (by entity key; absent: 0)."""
    found = []
    for id_, row in rows.items():
        document = totals.get(prefix + id_, {})
        columns = {counter: (total(document, counter), row[counter]) for counter in table.columns}
        if any(here != there for here, there in columns.values()):
            found.append(Row(prefix + id_, columns))
    return found
