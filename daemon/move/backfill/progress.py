"""How far the backfill of an entity type has come, kept in MongoDB. After a stop or a crash the next run goes on there.

This only saves time: a second run over the same rows would find them unchanged.

    {_id: "jav.movie", table, key, after, rows, started_at, at, finished_at}
"""

from __future__ import annotations

import datetime as dt

from daemon.config import ReplicaTable
from daemon.rollups.collections import BACKFILLS
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import Json, MongoSink


class Progress:
    """The progress of one entity type. Methods raise StoreError."""

    def __init__(self, mongo: MongoSink, name: str, table: ReplicaTable) -> None:
        self._address = mongo.address
        self._records = mongo.database[BACKFILLS]
        self._name = name
        self._of = {"table": table.table, "key": table.key}

    async def resume(self) -> tuple[object, int]:
        """The key to go on after (None: from the start) and the rows before it. Begins a run if none is open."""
        with store_error(self._address):
            open_ = await self._records.find_one({"_id": self._name, **self._of, "finished_at": None})
            if open_ is not None:
                return open_["after"], open_["rows"]
            begun: Json = {"after": None, "rows": 0, "started_at": dt.datetime.now(dt.UTC), "finished_at": None}
            await self._records.replace_one({"_id": self._name}, {**self._of, **begun}, upsert=True)
        return None, 0

    async def record(self, after: object, rows: int) -> None:
        await self._set({"after": after, "rows": rows, "at": dt.datetime.now(dt.UTC)})

    async def finish(self) -> None:
        await self._set({"finished_at": dt.datetime.now(dt.UTC)})

    async def _set(self, fields: Json) -> None:
        with store_error(self._address):
            await self._records.update_one({"_id": self._name}, {"$set": fields})
