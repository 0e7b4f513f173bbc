"""The SQL text of the replica: statements about many rows at once, each a plain function of the table's mapping.

Rows come as one bound JSON value through JSON_TABLE. It takes any number of rows and joins by the key's index. It is
valid on MySQL ≥ 8.0.4 and MariaDB ≥ 10.6; VALUES ROW() and CTEs in an UPDATE are not, and CASE is quadratic. Names of
tables and columns are checked by the configuration, so they are written into the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from daemon.config import ReplicaTable
from daemon.domain.counter import INT64_MAX

INTEGER_TYPES = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint"})


def declared_key(data_type: str, charset: str | None, collation: str | None) -> str:
    """The key column's type in JSON_TABLE. The join can use the column's index only if both types are the same."""
    if data_type in INTEGER_TYPES:
        return "BIGINT"
    return "VARCHAR(255)" + (f" CHARACTER SET {charset} COLLATE {collation}" if charset and collation else "")


def is_key_of(key_type: str) -> Callable[[str], bool]:
    """Tells which entity ids can be keys of that type. An integer column only matches an id that is written as MySQL
    would write the number."""
    if key_type != "BIGINT":
        return lambda _: True
    return lambda id_: id_.isascii() and id_.isdecimal() and str(int(id_)) == id_ and int(id_) <= INT64_MAX


def update_sql(table: ReplicaTable, key_type: str) -> str:
    """Sets the columns. Its one parameter is a JSON array of [key, total, …] in the order of the table's columns."""
    declared = [f"k {key_type} PATH '$[0]'"]
    assigned = []
    for position, column in enumerate(table.columns.values(), start=1):
        declared.append(f"c{position} BIGINT PATH '$[{position}]'")
        assigned.append(f"t.`{column}` = d.c{position}")
    return (
        f"UPDATE `{table.table}` t JOIN JSON_TABLE(%s, '$[*]' COLUMNS ({', '.join(declared)})) d"  # noqa: S608
        f" ON t.`{table.key}` = d.k SET {', '.join(assigned)}"
    )


def select_sql(table: ReplicaTable, key_type: str, columns: Iterable[str]) -> str:
    """Reads these columns, after the id as it was asked for. Its one parameter is a JSON array of [key]."""
    names = ", ".join(f"t.`{column}`" for column in columns)
    return (
        f"SELECT CAST(d.k AS CHAR), {names} FROM JSON_TABLE(%s, '$[*]' COLUMNS (k {key_type} PATH '$[0]')) d"  # noqa: S608
        f" JOIN `{table.table}` t ON t.`{table.key}` = d.k"
    )


def ranked_sql(table: ReplicaTable) -> str:
    """Reads the whole table, ordered; its one parameter is the most rows."""
    columns = list(table.columns.values())
    label = f"CAST(`{table.label}` AS CHAR)" if table.label else "NULL"
    return (
        f"SELECT CAST(`{table.key}` AS CHAR), {label}, {', '.join(f'`{column}`' for column in columns)}"  # noqa: S608
        f" FROM `{table.table}` ORDER BY `{columns[0]}` DESC, `{table.key}` LIMIT %s"
    )
