"""The connections that one worker reads over. Each is opened when it is first used; ingest has its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from msgspec.structs import replace

from daemon.buffer.connection import Connection, client_of
from daemon.buffer.layout import Layout
from daemon.buffer.pending import Pending
from daemon.config import Config, ReplicaTable
from daemon.errors import MongoAwayError, MysqlAwayError, MysqlStoreError, StoreError
from daemon.metrics import ReadTally
from daemon.read.breaker import Breaker
from daemon.read.exact import Exact
from daemon.read.status import Connections, OfMongo, Waits, ask_mongo
from daemon.read.totals import TotalsReader, ask_totals
from daemon.replica.mysql import MysqlSink
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import MongoSink

T = TypeVar("T")


class Stores:
    """Create it in the running loop; close it once."""

    def __init__(self, config: Config, tally: ReadTally) -> None:
        timeout_ms = config.read.timeout_ms
        self.mongo = MongoSink(replace(config.mongo, timeout_ms=timeout_ms))
        mysql = replace(config.mysql, timeout_ms=timeout_ms)
        self._mysql = MysqlSink(mysql) if mysql.url else None
        self._asking_mysql = asyncio.Lock()
        self._redis_client = client_of(config.redis)
        self.waits = Waits()
        """The past looks at the status."""
        self.started_at_s = time.monotonic()
        self.workers = config.http.workers
        """As the daemon began; a reload changes none of the three."""
        layout = Layout(config)
        self._connections = [Connection(config.redis, layout, shard) for shard in range(config.redis.shards)]
        self._tally = tally
        self.breaker = Breaker("MongoDB", self._ping_mongo, time.monotonic)
        self._mysql_breaker = Breaker("MySQL", self._try_mysql, time.monotonic)
        self.totals = TotalsReader(partial(ask_totals, self.mongo))
        fields_max = config.read.fresh_fields_max
        shards = [Pending(connection, shard, fields_max) for shard, connection in enumerate(self._connections)]
        self.exact = Exact(shards, self.totals)

    async def describe(self, table: ReplicaTable, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Entity id → the table's `enrich` columns as JSON takes them."""
        async with self._of_mysql() as mysql:
            return _as_json(await mysql.describe(table, ids))

    async def labelled(self, table: ReplicaTable, label: str, most: int) -> dict[str, dict[str, Any]] | None:
        """The same of entities with a label; None: no index serves it."""
        async with self._of_mysql() as mysql:
            rows = await mysql.labelled(table, label, most)
        return None if rows is None else _as_json(rows)

    @asynccontextmanager
    async def _of_mysql(self) -> AsyncIterator[MysqlSink]:
        """One query at a time: there is one connection."""
        breaker = self._mysql_breaker
        async with self._asking_mysql:
            if self._mysql is None or not await breaker.lets_pass():
                raise MysqlStoreError("MySQL did not answer a moment ago.")
            try:
                yield self._mysql
            except MysqlAwayError:
                breaker.failed()
                raise
            breaker.answered()

    @property
    def connections(self) -> Connections:
        """How the status asks the stores."""
        mysql = None if self._mysql is None else self._ping_mysql
        return Connections(self._redis_client, self._ask_mongo, mysql)

    async def _ask_mongo(self) -> OfMongo:
        return await self.ask(lambda: ask_mongo(self.mongo))

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """Asks MongoDB what is not among the reads. While it does not answer, it is asked no more often than for them.

        Raises StoreError.
        """
        if not await self.breaker.lets_pass():
            raise MongoAwayError(f"MongoDB at {self.mongo.address} does not answer")
        try:
            found = await question()
        except MongoAwayError:
            self.breaker.failed()
            raise
        self.breaker.answered()
        return found

    async def _ping_mysql(self) -> None:
        async with self._of_mysql() as mysql:
            await mysql.ping()

    async def _try_mysql(self) -> None:
        """Its caller has the connection."""
        if self._mysql is not None:
            await self._mysql.query("SELECT 1")

    async def _ping_mongo(self) -> None:
        with store_error(self.mongo.address):
            await self.mongo.database.command("ping")

    def note(self, error: StoreError) -> None:
        """Counts and logs a failure that does not fail the answer."""
        self._tally.store_failed(error)

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()
        if self._mysql is not None:
            await self._mysql.close()
        await self._redis_client.aclose()
        await self.mongo.close()


def _as_json(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        id_: {name: value if isinstance(value, str | int | None) else str(value) for name, value in row.items()}
        for id_, row in rows.items()
    }
