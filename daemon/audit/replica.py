"""Each mapped row of MySQL against its totals in MongoDB. Reads only, in chunks, so memory stays flat."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

from msgspec import Struct

from daemon.audit.laws import Broken
from daemon.config import ReplicaTable
from daemon.domain.rollup import total
from daemon.sinks.mongo import Json, MongoSink
from daemon.sinks.mysql import MysqlSink

CHUNK_ENTITIES = 5_000


class Row(Struct, frozen=True):
    """An entity whose row differs from its totals. `columns`: counter → (MongoDB, MySQL)."""

    key: str
    columns: dict[str, tuple[int, int]]

    def broken(self) -> list[Broken]:
        return [
            Broken("replica", counter, there - here, f"{self.key}: MySQL says {there}, MongoDB {here}")
            for counter, (here, there) in self.columns.items()
        ]


async def differing_rows(
    mongo: MongoSink, mysql: MysqlSink, tables: Mapping[tuple[str, str], ReplicaTable]
) -> AsyncIterator[list[Row]]:
    """A list a chunk, often empty. Entities without a row are no difference: the flush counts and reports them."""
    for (domain, entity_type), table in tables.items():
        async for chunk in mongo.totals_of_type(domain, entity_type, CHUNK_ENTITIES):
            rows = await mysql.read(table, [document["entity_id"] for document in chunk])
            yield _differing(chunk, rows, table)


async def still_differing(
    mongo: MongoSink, mysql: MysqlSink, tables: Mapping[tuple[str, str], ReplicaTable], found: Sequence[Row]
) -> list[Row]:
    """Those of the rows that differ when they are read once more: what moved between two reads is no difference."""
    differing: list[Row] = []
    for (domain, entity_type), table in tables.items():
        prefix = f"{domain}:{entity_type}:"
        keys = [row.key for row in found if row.key.startswith(prefix)]
        if keys:
            rows = await mysql.read(table, [key.removeprefix(prefix) for key in keys])
            differing += _differing((await mongo.totals(keys)).values(), rows, table)
    return differing


def _differing(documents: Iterable[Json], rows: Mapping[str, Mapping[str, int]], table: ReplicaTable) -> list[Row]:
    differing = []
    for document in documents:
        row = rows.get(document["entity_id"])
        if row is None:
            continue
        columns = {
            counter: (total(document, counter), row[counter])
            for counter in table.columns
            if total(document, counter) != row[counter]
        }
        if columns:
            differing.append(Row(document["_id"], columns))
    return differing
