"""The SQL text of the replica: statements about many rows at once, each a plain function of the table's mapping.

Rows come as one bound JSON value through JSON_TABLE. It takes any number of rows and joins by the key's index. It is
valid on MySQL ≥ 8.0.4 and MariaDB ≥ 10.6; VALUES ROW() and CTEs in an UPDATE are not, and CASE is quadratic. Names of
tables and columns are checked by the configuration, so they are written into the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from daemon.config import ReplicaTable
from daemon.domain.counter import INT64_MAX

INTEGER_TYPES = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint"})
LABEL_TYPES = INTEGER_TYPES | {"char", "varchar", "uuid"}
"""Of a column of labels whose index serves a search."""
UUID_PATTERN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
"""How MariaDB writes a value of its UUID type."""


class KeyColumn(NamedTuple):
    """The key column of a mapped table, as information_schema describes it."""

    data_type: str
    charset: str | None
    collation: str | None

    @property
    def is_integer(self) -> bool:
        return self.data_type in INTEGER_TYPES

    @property
    def declared(self) -> str:
        """Its type in JSON_TABLE. The join can use the column's index only if both types are the same."""
        if self.is_integer:
            return "BIGINT"
        if self.charset and self.collation:
            return f"VARCHAR(255) CHARACTER SET {self.charset} COLLATE {self.collation}"
        return "VARCHAR(255) CHARACTER SET utf8mb4"

    def takes(self, id_: str) -> bool:
        """Whether an entity id can be a key. MySQL writes a number or a UUID in one way only."""
        if self.is_integer:
            return id_.isascii() and id_.isdecimal() and str(int(id_)) == id_ and int(id_) <= INT64_MAX
        return self.data_type != "uuid" or UUID_PATTERN.fullmatch(id_) is not None

    def joined(self, column: str, ids: Iterable[str]) -> tuple[str, str]:
        """What JSON_TABLE declares of ids that are keys, and the condition of the join with the table `t`.

        A row's key must be the id byte for byte. By collation alone, "ABC", "abc " and "ábc" find the row "abc", too:
        anybody could write it under such an id.
        """
        declared, equal = f"k {self.declared} PATH '$[0]'", f"t.`{column}` = d.k"
        if self.is_integer or self.data_type == "uuid":
            return declared, equal
        if self.charset in (None, "utf8mb4") or all(map(str.isascii, ids)):
            return declared, f"{equal} AND CAST(t.`{column}` AS BINARY) = CAST(d.k AS BINARY)"
        # The column's characters are fewer. A character that it lacks becomes "?" in `k`, so "caf茶" finds "caf?".
        return (
            f"{declared}, u VARCHAR(255) CHARACTER SET utf8mb4 PATH '$[0]'",
            f"{equal} AND CAST(CONVERT(t.`{column}` USING utf8mb4) AS BINARY) = CAST(d.u AS BINARY)",
        )


def update_sql(table: ReplicaTable, key: KeyColumn, ids: Iterable[str] = ()) -> str:
    """Sets the columns of these ids. Its one parameter is a JSON array of [id, total, …] in the order of the table's
    columns."""
    declared, condition = key.joined(table.key, ids)
    assigned = []
    for position, column in enumerate(table.columns.values(), start=1):
        declared += f", c{position} BIGINT PATH '$[{position}]'"
        assigned.append(f"t.`{column}` = d.c{position}")
    return (
        f"UPDATE `{table.table}` t JOIN JSON_TABLE(%s, '$[*]' COLUMNS ({declared})) d"  # noqa: S608
        f" ON {condition} SET {', '.join(assigned)}"
    )


def select_sql(table: ReplicaTable, key: KeyColumn, ids: Iterable[str], columns: Iterable[str]) -> str:
    """Reads these columns, after the id as it was asked for. Its one parameter is a JSON array of [id]."""
    declared, condition = key.joined(table.key, ids)
    names = ", ".join(f"t.`{column}`" for column in columns)
    return (
        f"SELECT CAST(d.k AS CHAR), {names} FROM JSON_TABLE(%s, '$[*]' COLUMNS ({declared})) d"  # noqa: S608
        f" JOIN `{table.table}` t ON {condition}"
    )


def labelled_sql(table: ReplicaTable, column: KeyColumn, label: str) -> str:
    """Reads the `enrich` columns, after the key, of the rows with this label. Its parameters are a JSON array with
    [label], and the most rows."""
    assert table.label is not None
    declared, condition = column.joined(table.label, [label])
    names = "".join(f", t.`{name}`" for name in table.enrich)
    return (
        f"SELECT CAST(t.`{table.key}` AS CHAR){names} FROM JSON_TABLE(%s, '$[*]' COLUMNS ({declared})) d"  # noqa: S608
        f" JOIN `{table.table}` t ON {condition} ORDER BY t.`{table.key}` LIMIT %s"
    )


def alike_sql(table: ReplicaTable, key: KeyColumn) -> str:
    """Reads the keys that MySQL takes for these ids, after the id. Its one parameter is a JSON array of [id]."""
    return (
        f"SELECT d.u, CAST(t.`{table.key}` AS CHAR) FROM JSON_TABLE(%s, '$[*]' COLUMNS (k {key.declared} PATH '$[0]',"  # noqa: S608
        f" u VARCHAR(255) CHARACTER SET utf8mb4 PATH '$[0]')) d JOIN `{table.table}` t ON t.`{table.key}` = d.k"
    )


def ranked_sql(table: ReplicaTable) -> str:
    """Reads the whole table, ordered; its one parameter is the most rows."""
    columns = list(table.columns.values())
    label = f"CAST(`{table.label}` AS CHAR)" if table.label else "NULL"
    return (
        f"SELECT CAST(`{table.key}` AS CHAR), {label}, {', '.join(f'`{column}`' for column in columns)}"  # noqa: S608
        f" FROM `{table.table}` ORDER BY `{columns[0]}` DESC, `{table.key}` LIMIT %s"
    )
