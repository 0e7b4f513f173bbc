"""Reads what the checks of MySQL or MariaDB need. Changes nothing: the UPDATE is only explained."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from asyncmy.cursors import DictCursor
from asyncmy.errors import MySQLError

from daemon.config import Config, ReplicaTable, address_of, mysql_of, replica_tables
from daemon.doctor import clock
from daemon.doctor.clock import Clock
from daemon.errors import MysqlStoreError
from daemon.replica.mysql import connect, drop
from daemon.replica.sql import KeyColumn, update_sql

_VARIABLES = """SELECT VERSION() release_, CURRENT_USER() user_, @@max_allowed_packet packet, @@SESSION.sql_mode mode_,
 @@GLOBAL.read_only read_only_"""
_CLUSTER = "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_cluster_size', 'wsrep_ready')"
_NODE = "SELECT @@wsrep_node_name node"
CONNECTIONS_TRIED = 4
"""Of a Galera cluster: enough to meet another node behind a proxy that goes round."""
_UTC = "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) us"
_JSON_TABLE = "SELECT k, n FROM JSON_TABLE(%s, '$[*]' COLUMNS (k VARCHAR(255) PATH '$[0]', n BIGINT PATH '$[1]')) d"
_TABLE = """SELECT TABLE_TYPE kind, ENGINE engine, TABLE_ROWS row_count FROM information_schema.TABLES
 WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s"""
_COLUMNS = """SELECT COLUMN_NAME name, LOWER(DATA_TYPE) data_type, COLUMN_TYPE declared, CHARACTER_SET_NAME charset,
 COLLATION_NAME `collation`, NUMERIC_PRECISION `precision`, NUMERIC_SCALE scale, COALESCE(EXTRA, '') extra
 FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s"""
_INDEXES = """SELECT INDEX_NAME name, NON_UNIQUE non_unique, COLUMN_NAME column_, SUB_PART sub_part
 FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s ORDER BY INDEX_NAME, SEQ_IN_INDEX"""

Row = dict[str, Any]


class Column(NamedTuple):
    """A row of `_COLUMNS`. `declared`: its type in the server's words. `extra` says whether it is generated."""

    name: str
    data_type: str
    declared: str
    charset: str | None
    collation: str | None
    precision: int | None
    scale: int | None
    extra: str


class Index(NamedTuple):
    """An index. `columns` are in lower case. One of which only a prefix is indexed ends in `(n)`."""

    name: str
    unique: bool
    columns: tuple[str, ...]


class Table(NamedTuple):
    """A table or view. `columns` by their names in lower case.

    `refused`: the server's reason to refuse our UPDATE; None if it would run, or was not tried. `scans`: the server
    would read every row for it.
    """

    kind: str
    engine: str
    rows: int
    columns: Mapping[str, Column]
    indexes: Sequence[Index]
    refused: str | None = None
    scans: bool = False

    def column(self, name: str) -> Column | None:
        return self.columns.get(name.lower())


@dataclass(frozen=True)
class MysqlFacts:
    """What MySQL said. `tables`: "domain.type" → the mapping and the table; None if there is no such table."""

    config: Config
    database: str
    release: str
    user: str
    packet_bytes: int
    sql_mode: str
    read_only: bool
    clock: Clock
    tables: Mapping[str, tuple[ReplicaTable, Table | None]]
    json_table_error: str | None = None
    lock_error: str | None = None
    cluster_nodes: int = 0
    """Nodes of the Galera cluster that this one sees; 0: there is no cluster."""
    cluster_ready: bool = True
    """Whether the node is one of the majority. Otherwise it takes no statement about a table."""
    nodes_reached: frozenset[str] = frozenset()
    """Nodes of it that took connections to this address."""


async def read_mysql(config: Config, *, timeout_ms: int, probe: bool) -> MysqlFacts:
    """`probe`: also try JSON_TABLE, the lock and the UPDATE. Raises StoreError if MySQL does not answer."""
    timeout_s = min(timeout_ms, config.mysql.timeout_ms) / 1000
    address = address_of(config.mysql.url)
    try:
        async with asyncio.timeout(timeout_s), _connected(config.mysql.url, timeout_s) as session:
            return await _read(config, session, probe=probe)
    except MySQLError as error:
        raise MysqlStoreError(f"MySQL at {address}: {error}") from None
    except (OSError, TimeoutError, RuntimeError, asyncio.IncompleteReadError) as error:
        # asyncmy raises RuntimeError if the line breaks while it connects.
        raise MysqlStoreError(f"MySQL at {address}: {str(error) or 'no answer in time'}") from None


class _Session(NamedTuple):
    connection: Any
    database: str

    async def rows(self, sql: str, *args: object) -> list[Row]:
        async with self.connection.cursor(DictCursor) as cursor:
            await cursor.execute(sql, args or None)
            return list(await cursor.fetchall())

    async def refusal(self, sql: str, *args: object) -> str | None:
        """Why a statement fails, or None."""
        try:
            await self.rows(sql, *args)
        except MySQLError as error:
            return str(error)
        return None


@contextlib.asynccontextmanager
async def _connected(url: str, timeout_s: float) -> AsyncIterator[_Session]:
    connection = await connect(url, timeout_s)
    try:
        yield _Session(connection, mysql_of(url)["db"])
    finally:
        drop(connection)


async def _read(config: Config, session: _Session, *, probe: bool) -> MysqlFacts:
    [variables] = await session.rows(_VARIABLES)
    sent_s = time.time()
    [now] = await session.rows(_UTC)
    read_clock = clock.compare(now["us"] / 1e6, sent_s, time.time())
    tables = {}
    for (domain, kind), mapping in replica_tables(config).items():
        tables[f"{domain}.{kind}"] = (mapping, await _table(session, mapping, probe=probe))
    return MysqlFacts(
        config=config,
        database=session.database,
        release=variables["release_"],
        user=variables["user_"],
        packet_bytes=int(variables["packet"]),
        sql_mode=variables["mode_"],
        read_only=str(variables["read_only_"]).lower() not in ("0", "off", "no_lock"),
        clock=read_clock,
        tables=tables,
        json_table_error=await session.refusal(_JSON_TABLE, '[["a", 1]]') if probe else None,
        lock_error=await _lock_error(session) if probe else None,
        **(await _cluster(config, session) if probe else {}),
    )


async def _cluster(config: Config, session: _Session) -> dict[str, Any]:
    status = {row["Variable_name"]: row["Value"] for row in await session.rows(_CLUSTER)}
    size = int(status.get("wsrep_cluster_size", 0))
    if not size:
        return {}
    [first] = await session.rows(_NODE)
    reached = {str(first["node"])}
    for _ in range(CONNECTIONS_TRIED - 1):
        async with _connected(config.mysql.url, config.mysql.timeout_ms / 1000) as another:
            [row] = await another.rows(_NODE)
            reached.add(str(row["node"]))
    ready = status.get("wsrep_ready") == "ON"
    return {"cluster_nodes": size, "cluster_ready": ready, "nodes_reached": frozenset(reached)}


async def _table(session: _Session, mapping: ReplicaTable, *, probe: bool) -> Table | None:
    where = (session.database, mapping.table)
    found = await session.rows(_TABLE, *where)
    if not found:
        return None
    columns = {row["name"].lower(): Column(**row) for row in await session.rows(_COLUMNS, *where)}
    indexes: dict[str, Index] = {}
    for row in await session.rows(_INDEXES, *where):
        part = str(row["column_"]).lower() + (f"({row['sub_part']})" if row["sub_part"] else "")
        before = indexes.get(row["name"], Index(row["name"], not row["non_unique"], ()))
        indexes[row["name"]] = before._replace(columns=(*before.columns, part))
    table = Table(
        found[0]["kind"], str(found[0]["engine"]), int(found[0]["row_count"] or 0), columns, list(indexes.values())
    )
    needed = [mapping.key, *mapping.columns.values()]
    if probe and all(table.column(name) for name in needed):
        return await _explained(session, mapping, table)
    return table


async def _explained(session: _Session, mapping: ReplicaTable, table: Table) -> Table:
    """Asks for the plan of the flusher's own UPDATE. That needs the same rights, and changes nothing."""
    key = table.column(mapping.key)
    assert key is not None
    statement = update_sql(mapping, KeyColumn(key.data_type, key.charset, key.collation))
    try:
        plan = await session.rows(f"EXPLAIN {statement}", "[[0" + ", 0" * len(mapping.columns) + "]]")
    except MySQLError as error:
        return table._replace(refused=str(error))
    steps = [{name.lower(): value for name, value in step.items()} for step in plan]
    return table._replace(scans=any(step.get("table") == "t" and step.get("type") == "ALL" for step in steps))


async def _lock_error(session: _Session) -> str | None:
    name = f"tallyd:doctor:{secrets.token_hex(8)}"
    try:
        [got] = await session.rows("SELECT GET_LOCK(%s, 0) got", name)
        [released] = await session.rows("SELECT RELEASE_LOCK(%s) released", name)
    except MySQLError as error:
        return str(error)
    return None if (got["got"], released["released"]) == (1, 1) else "a free lock was not given"
