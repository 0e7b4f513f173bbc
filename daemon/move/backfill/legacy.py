"""The rows of a mapped table, in the order of the key column, a page at a time. Reads only."""

from __future__ import annotations

from typing import Any, NamedTuple

from daemon.config import ReplicaTable
from daemon.domain.admission import entity_id_problem
from daemon.domain.counter import INT64_MAX
from daemon.errors import ConfigError
from daemon.replica.mysql import MysqlSink

KEYLESS_LISTED_MAX = 100
"""Of the rows without a key, so many are named. The others are only counted."""


class LegacyRow(NamedTuple):
    key: object
    """The value of the key column: text or a number."""
    columns: dict[str, int]
    """Counter → amount; NULL is 0."""


class LegacyTable:
    """One mapped table. Methods raise StoreError if MySQL fails or does not answer in time."""

    def __init__(self, mysql: MysqlSink, table: ReplicaTable) -> None:
        self._mysql = mysql
        self._table = table
        self._columns = ", ".join(f"COALESCE(`{column}`, 0)" for column in table.columns.values())

    async def check(self, name: str) -> None:
        """Raises ConfigError if the table cannot be read by its key. `name`: the entity type, as `jav.movie`."""
        table = self._table
        there = {str(row[0]).lower() for row in await self._facts("COLUMN_NAME", "COLUMNS")}
        missing = [column for column in (table.key, *table.columns.values()) if column.lower() not in there]
        if missing:
            raise ConfigError(
                f"replica.{name}: table {table.table} has no column {', '.join(missing)}, or there is no such table."
                " Correct the mapping, or create them."
            )
        if not await self._facts("1", "STATISTICS", "AND COLUMN_NAME = %s AND SEQ_IN_INDEX = 1", table.key):
            raise ConfigError(
                f"replica.{name}: {table.table}.{table.key} has no index. Each page of rows would read the whole"
                f" table. Run: ALTER TABLE `{table.table}` ADD UNIQUE KEY (`{table.key}`)"
            )

    async def rows_estimate(self) -> int:
        """About how many rows there are. MySQL keeps no exact number."""
        found = await self._facts("TABLE_ROWS", "TABLES")
        return int(found[0][0] or 0) if found else 0

    async def page(self, after: object, rows_max: int) -> list[LegacyRow]:
        """The next rows by their key, after this one (None: from the first)."""
        table, key = f"`{self._table.table}`", f"`{self._table.key}`"
        behind, args = (f"{key} IS NOT NULL", ()) if after is None else (f"{key} > %s", (after,))
        found = await self._mysql.query(
            f"SELECT {key}, {self._columns} FROM {table} WHERE {behind} ORDER BY {key} LIMIT {rows_max:d}",  # noqa: S608  (names are checked by the configuration)
            args,
        )
        return [LegacyRow(key_, dict(zip(self._table.columns, map(int, row), strict=True))) for key_, *row in found]

    async def keyless(self) -> tuple[int, list[str]]:
        """How many rows have no key, and the first of them, named by their primary key."""
        table, key = f"`{self._table.table}`", f"`{self._table.key}`"
        [(count,)] = await self._mysql.query(f"SELECT COUNT(*) FROM {table} WHERE {key} IS NULL")  # noqa: S608
        if not count:
            return 0, []
        primary = await self._facts("COLUMN_NAME", "STATISTICS", "AND INDEX_NAME = 'PRIMARY' ORDER BY SEQ_IN_INDEX")
        names = [str(row[0]) for row in primary]
        if not names:
            return count, []
        chosen = ", ".join(f"`{name}`" for name in names)
        rows = await self._mysql.query(
            f"SELECT {chosen} FROM {table} WHERE {key} IS NULL ORDER BY {chosen} LIMIT {KEYLESS_LISTED_MAX:d}"  # noqa: S608
        )
        return count, [", ".join(f"{name} {value}" for name, value in zip(names, row, strict=True)) for row in rows]

    async def _facts(self, column: str, view: str, further: str = "", *args: object) -> list[tuple[Any, ...]]:
        """What a view of information_schema says of the table."""
        where = f"TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s {further}"
        sql = f"SELECT {column} FROM information_schema.{view} WHERE {where}"  # noqa: S608
        return await self._mysql.query(sql, (self._table.table, *args))


def entity_id_of(key: object) -> str | None:
    """The entity id that a key stands for, or None if it is no entity id."""
    if isinstance(key, int):
        return str(key) if 0 <= key <= INT64_MAX else None
    if isinstance(key, bytes):  # of a VARBINARY column
        try:
            key = key.decode()
        except UnicodeDecodeError:
            return None
    return key if isinstance(key, str) and entity_id_problem(key) is None else None
