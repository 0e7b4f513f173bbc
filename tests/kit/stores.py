"""The content of the three stores, read with their plain clients: a test doesn't trust the readers it tests."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import asyncmy
import pymongo
import redis

from daemon.config import mysql_of
from tests.kit.oracle import ROLLUPS

CALL_TIMEOUT_S = 120.0
"""Of Redis: emptying one of ten million keys takes a while."""


def run_sql(url: str, statement: str, *args: object, database: str | None = None) -> list[tuple[Any, ...]]:
    """Runs a statement on the MySQL at `url` and returns its rows. `database`: in place of the URL's; "": in none."""
    where = mysql_of(url)
    if database is not None:
        where["db"] = database or None

    async def run() -> list[tuple[Any, ...]]:
        connection = await asyncmy.connect(**where, autocommit=True)
        try:
            async with connection.cursor() as cursor:
                await cursor.execute(statement, args or None)
                return list(await cursor.fetchall()) if cursor.description else []
        finally:
            await connection.ensure_closed()

    return asyncio.run(run())


def hash_of(client: redis.Redis, key: str) -> dict[str, str]:
    """A hash of Redis whose fields and values are text."""
    found = cast("dict[bytes, bytes]", client.hgetall(key))
    return {field.decode(): value.decode() for field, value in found.items()}


class Stores:
    """The stores at these URLs, MongoDB's and MySQL's with a database. Changes nothing by itself."""

    def __init__(self, redis_url: str, mongo_url: str, mysql_url: str, shards: int = 1) -> None:
        self.shards = shards
        self.redis = redis.Redis.from_url(redis_url, socket_timeout=CALL_TIMEOUT_S)
        self.mongo_client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(mongo_url, tz_aware=True)
        self.mongo = self.mongo_client.get_default_database()
        self._mysql_url = mysql_url

    def close(self) -> None:
        self.mongo_client.close()
        self.redis.close()

    def sql(self, statement: str, *args: object, database: str | None = None) -> list[tuple[Any, ...]]:
        """Runs a statement on MariaDB and returns its rows."""
        return run_sql(self._mysql_url, statement, *args, database=database)

    def replica(self) -> dict[str, tuple[int, int]]:
        """uuid → (views, downloads)."""
        return {
            uuid: (views, downloads) for uuid, views, downloads in self.sql("SELECT uuid, views, downloads FROM jav")
        }

    def rollup(self, name: str) -> dict[str, dict[str, int]]:
        """`_id` → counters that are not 0, of one of the five collections."""
        found = {}
        for document in self.mongo[f"analytics_entity_{name}"].find():
            found[document["_id"]] = {
                field: amount
                for field, amount in document.items()
                if isinstance(amount, int) and amount and field != "flush_seq"
            }
        return found

    def rollups(self) -> dict[str, dict[str, dict[str, int]]]:
        return {name: self.rollup(name) for name in ROLLUPS}

    def dead_letters(self) -> int:
        return self.mongo["analytics_dead_letters"].count_documents({})

    def ledger(self) -> dict[str, int]:
        """The sums over all shards."""
        sums: dict[str, int] = {}
        for shard in range(self.shards):
            for field, amount in hash_of(self.redis, f"anl:{{{shard}}}:ledger").items():
                sums[field] = sums.get(field, 0) + int(amount)
        return sums

    def views(self) -> int:
        """How many the ledger has as accepted."""
        return self.ledger().get("accepted:view", 0)
