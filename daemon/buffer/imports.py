"""How far each file was imported: the hash `anl:imports`. Only `tallyd import` writes and reads it.

The dedupe memory forgets after two windows, these records never: so a file that comes back after a year is still known.
They lie in Redis beside the counts, not in MongoDB, because both must be lost together. A checkpoint is written once
Redis has answered for the events before it. So a Redis that lost its last second has lost those events and their
checkpoint alike. An import that goes on over a restart of Redis must not write a later checkpoint: `save` refuses that,
and the next import begins at the last place that Redis still knows.

A field is `<digest of the first line>:<bytes>:<digest at that place>`. So all places in files that begin alike are
found by their first line, and files that differ later don't overwrite each other's. The value is a `Checkpoint` as
JSON.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

import msgspec
from redis.asyncio import Redis

from daemon.buffer.connection import FAILURES
from daemon.buffer.keys import Keys
from daemon.errors import RedisStoreError

_SCAN_COUNT = 1_000


RESTARTED = (
    "Redis was restarted during the import and may have lost the last events it had counted. Run the same command"
    " again: it goes on from the last place that Redis still knows."
)


class Checkpoint(msgspec.Struct, frozen=True):
    """A place in a file's decompressed content up to which everything is counted."""

    bytes: int
    lines: int
    digest: str
    name: str
    """What the file was called then, for people who look."""
    at: str
    began: str = ""
    """When the first of the lines before it, and behind the place before, may have been counted: a UTC time like `at`.
    "": not known (before 0.6.0)."""


RESTARTED = (
    "Redis was restarted during the import and may have lost the last events it had counted. Run the same command"
    " again: it goes on from the last place that Redis still knows."
)


class RestartedError(RedisStoreError):
    """Another Redis process answers than the one that counted the events before this checkpoint."""


class Imports:
    """The records. Methods raise StoreError; each may be repeated."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._run_id = ""

    async def find(self, first_line: str) -> list[Checkpoint]:
        """Every place reached in files with this first line, nearest first. Called before a file's first event."""
        try:
            self._run_id = (await self._redis.info("server"))["run_id"]
            pairs = self._redis.hscan_iter(self._keys.imports, match=f"{first_line}:*", count=_SCAN_COUNT)
            found = [self._decode(field, value) async for field, value in pairs]
        except FAILURES as error:
            raise RedisStoreError(f"Redis, reading {self._keys.imports}: {error}") from None
        return sorted(found, key=lambda checkpoint: checkpoint.bytes)

    async def save(self, first_line: str, reached: Checkpoint, replaces: Checkpoint | None) -> None:
        """Records a place, and forgets an earlier one of the same run.

        Those of other runs stay: a shorter copy of the file may turn up, and ends where one of them is.

        Raises RestartedError if Redis was restarted since `find`: it may have lost what it had answered. Of a cluster
        that is another node's affair: whoever counts asks those that count (`importer/store.py`).
        """
        try:
            async with self._redis.pipeline(transaction=True) as commands:
                if not self._keys.are_of_cluster:
                    # A watch binds all commands to one connection, and so to one Redis process. The key never changes.
                    await commands.watch(self._keys.layout)
                    if (await commands.info("server"))["run_id"] != self._run_id:
                        raise RestartedError(RESTARTED)
                    commands.multi()  # type: ignore[no-untyped-call] # redis-py's omission
                commands.hset(self._keys.imports, _field(first_line, reached), msgspec.json.encode(reached).decode())
                if replaces is not None and replaces.digest != reached.digest:
                    commands.hdel(self._keys.imports, _field(first_line, replaces))
                await commands.execute()
        except FAILURES as error:
            raise RedisStoreError(f"Redis, writing {self._keys.imports}: {error}") from None

    def _decode(self, field: Any, value: Any) -> Checkpoint:
        try:
            return msgspec.json.decode(cast("bytes", value), type=Checkpoint)
        except msgspec.MsgspecError as error:
            raise RedisStoreError(
                f"{self._keys.imports} has a field {field!r} that is no checkpoint: {error}"
            ) from None


def as_recorded(at: datetime) -> str:
    """A UTC time as `Checkpoint` has it. These texts sort like the times."""
    return at.isoformat("T", "seconds")


def _field(first_line: str, checkpoint: Checkpoint) -> str:
    return f"{first_line}:{checkpoint.bytes}:{checkpoint.digest}"
