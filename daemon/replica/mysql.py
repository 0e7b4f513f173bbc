"""One connection to MySQL or MariaDB: it sets the replica columns to the totals, one multi-row UPDATE a table.

The caller reads the totals inside `locked`, so a flusher with older totals never writes after one with newer totals.
The lock belongs to the connection. If the connection is lost, the lock is lost, and the UPDATE with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import msgspec
from asyncmy.connection import Connection
from asyncmy.constants.CLIENT import FOUND_ROWS
from asyncmy.cursors import SSCursor
from asyncmy.errors import MySQLError

from daemon import traces
from daemon.config import MysqlSection, ReplicaTable, address_of, mysql_of, tls_of
from daemon.domain.counter import INT64_MAX
from daemon.domain.outcome import Failure, SinkResult
from daemon.domain.rollup import total
from daemon.errors import MysqlAwayError, MysqlStoreError
from daemon.replica.sql import LABEL_TYPES, KeyColumn, alike_sql, labelled_sql, ranked_sql, select_sql, update_sql
from daemon.retry import jittered

PLAIN_REFUSED = frozenset({1045, 3159})
"""Access denied, insecure transport: so a server answers a client without TLS that it asks for TLS."""
PLAIN_HINT = ". If the password is right, the server may ask for TLS: put ?ssl=true or ?ssl_ca=FILE behind mysql.url"
TLS_HINT = ". The server has no TLS: it answered in plain text"
TRANSIENT = frozenset({1213, 1205, 1020})
"""Deadlock, lock wait timeout, record changed since last read: the same statement may succeed at once."""
TRANSIENT_TRIES = 5
TRANSIENT_PAUSE_S = 0.05
REFUSED = frozenset({1048, 1062, 1264, 1265, 1292, 1366, 1369, 1406, 1451, 1452, 1644, 1690, 1761, 3819, 4025})
"""Codes about a row's values: out of range, too long, or refused by a key, a check or a trigger. Waiting does not help
that row. The statement's other rows may be good."""
LOST = frozenset({1153, 2006, 2013})
"""Packet too large, server gone, connection lost during the query: a smaller statement may get through."""
CHARACTER_BYTES_MAX = 4
"""Of an id's character in a statement: in UTF-8, or a quote that JSON and SQL escape."""
ROW_BYTES_MAX = 8
"""Of a row's quotes (escaped), brackets and comma."""
TOTAL_BYTES_MAX = 21
"""Of a total and its comma."""
STATEMENT_BYTES_MAX = 4_096
"""Of the rest of a statement."""

RANKING_TIMEOUT_S = 300.0
"""What sorting a whole table may take, besides the usual time-out."""
READ_AHEAD_BYTES = 262_144
"""What may arrive of a streamed table before it is read."""

logging.getLogger("asyncmy").setLevel(logging.ERROR)
"""It logs a warning for each id that a key column cannot hold. Such ids are counted as missing, and anybody can send
them."""

_encode = msgspec.json.Encoder().encode


class RankedRow(NamedTuple):
    """A row of a mapped table. `id`: its key as text, "" without one. `values`: counter → amount; NULL is 0."""

    id: str
    label: str | None
    values: dict[str, int]


class StatementLostError(MysqlStoreError):
    """The connection broke during a statement. It is not known whether the server carried it out."""


class LockHeldError(MysqlStoreError):
    """Another flusher writes this shard's rows at the moment."""


async def connect(url: str, timeout_s: float, **settings: Any) -> Any:
    """Opens a connection of asyncmy, by TLS if the address asks for it. The only place that opens one.

    `settings`: further ones of asyncmy. Raises asyncmy's errors.
    """
    tls, hint = tls_of(url), ""
    connection: Any = Connection(  # type: ignore[no-untyped-call]
        **mysql_of(url), ssl=tls, connect_timeout=timeout_s, charset="utf8mb4", autocommit=True, **settings
    )
    try:
        await connection.connect()
    except BaseException as error:
        await _end(connection)
        if not isinstance(error, MySQLError):
            raise
        code, text = (*error.args, None, "")[:2]
        if tls is None and code in PLAIN_REFUSED:
            hint = PLAIN_HINT
        elif tls is not None and "WRONG_VERSION_NUMBER" in str(text):
            hint = TLS_HINT
        raise type(error)(code, f"{text}{hint}") from None
    return connection


async def _end(connection: Any) -> None:
    """Waits until a connection that failed is gone: asyncmy only asks it to close, and the loop may end before."""
    protocol = connection._proto  # noqa: SLF001
    if protocol is not None and protocol.transport is not None:
        protocol.transport.abort()
        with contextlib.suppress(Exception):  # why it was lost
            await protocol.wait_closed()


def drop(connection: Any) -> None:
    """Closes a connection at once: TLS would first wait for the server's goodbye, beyond the end of the loop."""
    transport = connection._transport  # noqa: SLF001
    if transport is not None:
        transport.abort()
    connection.close()


class MysqlSink:
    """`async with MysqlSink(config.mysql) as mysql`. Opens its connection when it needs one.

    Methods raise StoreError if MySQL fails or doesn't answer in time.
    """

    def __init__(self, section: MysqlSection) -> None:
        self._section = section
        self._address = address_of(section.url)
        self._database: str = mysql_of(section.url)["db"]
        self._connection: Any = None
        self._columns: dict[str, KeyColumn] = {}
        self._packet_bytes = 0
        """The largest statement that the server takes. It says so when a connection is opened."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._connection is not None:
            drop(self._connection)
            self._connection = None

    @contextlib.asynccontextmanager
    async def locked(self, shard: int) -> AsyncIterator[None]:
        """Holds the shard's advisory lock. Raises LockHeldError if another flusher keeps it for `lock_timeout_s`."""
        name = f"tallyd:{self._database}:{shard}"[-64:]
        wait_s = self._section.lock_timeout_s
        if await self.query("SELECT GET_LOCK(%s, %s)", (name, wait_s), extra_s=wait_s) != [(1,)]:
            raise LockHeldError(f"MySQL at {self._address}: another flusher holds the lock {name!r}.")
        try:
            yield
        finally:
            if self._connection is not None:
                await self.query("SELECT RELEASE_LOCK(%s)", (name,))

    async def write(self, table: ReplicaTable, totals: Mapping[str, Mapping[str, Any]]) -> SinkResult:
        """Sets the table's columns to these totals: entity id → totals document, each with a base (`adopt.py`).

        Ids without a row are counted as `missing`, and so are those that differ from their row's key in any byte. A row
        that can't take its totals is one of the `failures`; the other rows are set all the same.
        """
        key = await self._key(table)
        ids = sorted(filter(key.takes, totals))
        if not ids:
            return SinkResult(0, missing=len(totals))
        rows = [[id_, *(total(totals[id_], counter) for counter in table.columns)] for id_ in ids]
        matched, failures = await self._set(table, update_sql(table, key, ids), rows)
        return SinkResult(matched, missing=max(0, len(totals) - matched - len(failures)), failures=tuple(failures))

    async def read(self, table: ReplicaTable, ids: Sequence[str]) -> dict[str, dict[str, int]]:
        """Entity id → counter → what its row says (NULL: 0), for the ids that are a row's key, byte for byte."""
        rows = await self._select(table, ids, list(table.columns.values()))
        return {id_: dict(zip(table.columns, (int(n or 0) for n in row), strict=True)) for id_, row in rows.items()}

    async def ranked(
        self, table: ReplicaTable, chunk: int, rows_max: int | None = None
    ) -> AsyncIterator[list[RankedRow]]:
        """All rows, or the first `rows_max`, by the first mapped counter, the highest first; `chunk` at a time.

        The server sorts once and sends as it is read, so memory stays flat here. The connection can carry no other
        statement meanwhile.
        """
        timeout_s = self._section.timeout_ms / 1000
        counters = tuple(table.columns)
        async with self._answered(timeout_s + RANKING_TIMEOUT_S):
            connection = await self._connected(timeout_s)
            # asyncmy takes all that has arrived, however much; so little may arrive ahead.
            connection._transport.get_extra_info("socket").setsockopt(  # noqa: SLF001
                socket.SOL_SOCKET, socket.SO_RCVBUF, READ_AHEAD_BYTES
            )
            cursor = connection.cursor(SSCursor)
            await cursor.execute(ranked_sql(table), (INT64_MAX if rows_max is None else rows_max,))
        try:
            while True:
                async with self._answered(timeout_s):
                    rows = await cursor.fetchmany(chunk)
                if not rows:
                    return
                transport = connection._transport  # noqa: SLF001  (asyncmy reads on while nobody fetches, without bound)
                transport.pause_reading()
                yield [
                    RankedRow(id_ or "", label, {name: int(n or 0) for name, n in zip(counters, values, strict=True)})
                    for id_, label, *values in rows
                ]
                transport.resume_reading()
        finally:
            await self.close()  # what was not read is still on its way

    async def describe(self, table: ReplicaTable, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Entity id → the `enrich` columns of its row, unchanged, for the ids that have one."""
        rows = await self._select(table, ids, table.enrich)
        return {id_: dict(zip(table.enrich, row, strict=True)) for id_, row in rows.items()}

    async def labelled(self, table: ReplicaTable, label: str, most: int) -> dict[str, dict[str, Any]] | None:
        """Entity id → the `enrich` columns of its row, of the first `most` rows with this label, byte for byte. None:
        no index serves the column of labels, so it is not searched."""
        assert table.label is not None
        column = await self._column(table, table.label)
        if column.data_type not in LABEL_TYPES or not await self._is_indexed(table, table.label):
            return None
        if not column.takes(label):
            return {}
        rows = await self.query(labelled_sql(table, column, label), (_encode([[label]]).decode(), most))
        return {id_: dict(zip(table.enrich, row, strict=True)) for id_, *row in rows}

    async def having_rows(self, table: ReplicaTable, ids: Sequence[str]) -> set[str]:
        """The ids among these that are a row's key, byte for byte. Asks about `rows_max` at a time."""
        most = self._section.rows_max
        parts = [ids[start : start + most] for start in range(0, len(ids), most)]
        return {id_ for part in parts for id_ in await self._select(table, part, [table.key])}

    async def alike(self, table: ReplicaTable, ids: Sequence[str]) -> dict[str, str]:
        """Entity id → the key of another row that MySQL takes for it: by case, accent, trailing blank or the like."""
        key = await self._key(table)
        if key.is_integer:
            return {}
        rows = await self._ask(alike_sql(table, key), ids)
        return {id_: found for id_, found in rows if found != id_}

    async def _select(
        self, table: ReplicaTable, ids: Sequence[str], columns: Sequence[str]
    ) -> dict[str, tuple[Any, ...]]:
        """Entity id → these columns of its row, for the ids that have one."""
        key = await self._key(table)
        wanted = list(filter(key.takes, ids))
        rows = await self._ask(select_sql(table, key, wanted, columns), wanted)
        return {id_: tuple(row) for id_, *row in rows}

    async def _ask(self, sql: str, ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """The rows of a query about these ids, in as many statements as it takes."""
        parts = self._fitting([[id_] for id_ in ids]) if ids else []
        return [row for part in parts for row in await self.query(sql, (_encode(part).decode(),))]

    def _fitting(self, rows: list[list[Any]]) -> list[list[list[Any]]]:
        """These rows (an id and its totals) in parts of which each is a statement that the server takes."""
        totals = len(rows[0]) - 1
        bytes_max = STATEMENT_BYTES_MAX + len(rows) * (ROW_BYTES_MAX + TOTAL_BYTES_MAX * totals)
        bytes_max += CHARACTER_BYTES_MAX * sum(len(row[0]) for row in rows)
        if bytes_max <= self._packet_bytes or len(rows) == 1:
            return [rows]
        middle = len(rows) // 2
        return [*self._fitting(rows[:middle]), *self._fitting(rows[middle:])]

    async def _set(self, table: ReplicaTable, sql: str, rows: list[list[Any]]) -> tuple[int, list[Failure]]:
        """The rows matched, and those MySQL refuses: found by halving, at about 2·log2(rows) statements each."""
        matched, failures = 0, []
        parts = self._fitting(rows)[::-1]
        while parts:
            part = parts.pop()
            try:
                spanned = {"db.system.name": "mysql", "db.operation.name": "UPDATE", "db.collection.name": table.table}
                with traces.span(f"UPDATE {table.table}", {**spanned, "db.operation.batch.size": len(part)}):
                    matched += await self._update(sql, _encode(part).decode())
            except _RefusedRowsError as error:
                if len(part) == 1:
                    failures.append(Failure(table.table, part[0][0], str(error)))
                else:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
        return matched, failures

    async def _update(self, sql: str, rows: str) -> int:
        for left in range(TRANSIENT_TRIES - 1, -1, -1):
            try:
                return (await self._run(sql, (rows,), 0))[0]
            except _TransientError:
                if not left:
                    raise
                await asyncio.sleep(jittered(TRANSIENT_PAUSE_S))  # the other one may try again, too
        raise AssertionError

    async def _key(self, table: ReplicaTable) -> KeyColumn:
        return await self._column(table, table.key)

    async def _is_indexed(self, table: ReplicaTable, column: str) -> bool:
        """Whether a whole column begins an index."""
        where = (self._database, table.table, column)
        return bool(
            await self.query(
                "SELECT 1 FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s"
                " AND COLUMN_NAME = %s AND SEQ_IN_INDEX = 1 AND SUB_PART IS NULL LIMIT 1",
                where,
            )
        )

    async def _column(self, table: ReplicaTable, column: str) -> KeyColumn:
        """A column that rows are found by. It is looked up once."""
        name = f"{table.table}.{column}"
        if name not in self._columns:
            found = await self.query(
                "SELECT LOWER(DATA_TYPE), CHARACTER_SET_NAME, COLLATION_NAME FROM information_schema.COLUMNS"
                " WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s AND COLUMN_NAME = %s",
                (self._database, table.table, column),
            )
            if not found:
                raise MysqlStoreError(
                    f"MySQL at {self._address}: there is no column {name} in database"
                    f" {self._database!r}. Create it, or change the [replica] tables of the configuration."
                )
            self._columns[name] = KeyColumn(*found[0])
        return self._columns[name]

    async def query(self, sql: str, args: Sequence[object] = (), *, extra_s: float = 0) -> list[tuple[Any, ...]]:
        """The rows of a SELECT. `extra_s`: what it may take besides the usual time-out."""
        return (await self._run(sql, args, extra_s))[1]

    async def ping(self) -> None:
        """Raises StoreError if MySQL does not answer. The server may have closed an idle connection: it asks twice."""
        try:
            await self.query("SELECT 1")
        except MysqlStoreError:
            await self.query("SELECT 1")

    async def _run(self, sql: str, args: Sequence[object], extra_s: float) -> tuple[int, list[tuple[Any, ...]]]:
        """How many rows an UPDATE matched, and the rows of a query."""
        timeout_s = self._section.timeout_ms / 1000 + extra_s
        async with self._answered(timeout_s):
            connection = await self._connected(timeout_s)
            async with connection.cursor() as cursor:
                matched = await cursor.execute(sql, args)
                return matched, list(await cursor.fetchall()) if cursor.description is not None else []
        raise AssertionError

    async def _connected(self, timeout_s: float) -> Any:
        if self._connection is None:
            self._connection = await connect(
                self._section.url,
                timeout_s,
                client_flag=FOUND_ROWS,  # without it an unchanged row counts as missing
                sql_mode="STRICT_ALL_TABLES",  # without it a total out of range is cut to the range's end
                init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            )
            async with self._connection.cursor() as cursor:
                await cursor.execute("SELECT @@max_allowed_packet")
                self._packet_bytes = int((await cursor.fetchone())[0])
        return self._connection

    @contextlib.asynccontextmanager
    async def _answered(self, timeout_s: float) -> AsyncIterator[None]:
        """Raises every error inside as StoreError, and drops the connection unless it is known to be sound."""
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except MySQLError as error:
            code = error.args[0] if error.args else None
            if code in TRANSIENT:
                raise _TransientError(f"MySQL at {self._address}: {error}") from None
            if code in REFUSED:
                raise _RefusedRowsError(str(error)) from None
            await self.close()
            kind = StatementLostError if code in LOST else MysqlStoreError
            raise kind(f"MySQL at {self._address}: {error}") from None
        except Exception as error:  # noqa: BLE001  (asyncmy lets RuntimeError and others out when a line breaks half-way)
            await self.close()  # a late reply must not meet a later query; what was sent may still be carried out
            raise MysqlAwayError(f"MySQL at {self._address}: {str(error) or 'no answer in time'}") from None


class _RefusedRowsError(MysqlStoreError):
    """A row's values can't be stored; the statement was rolled back, the connection and its lock hold."""


class _TransientError(MysqlStoreError):
    """The statement was rolled back and may be tried again at once."""
