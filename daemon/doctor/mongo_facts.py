"""Reads what the checks of MongoDB need, and tries a write with the flusher's write concern."""

from __future__ import annotations

import datetime as dt
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pymongo import ReadPreference
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import NotPrimaryError, OperationFailure, PyMongoError, ServerSelectionTimeoutError
from pymongo.read_preferences import _ServerMode

from daemon.config import Config, address_of
from daemon.doctor import clock
from daemon.doctor.clock import Clock
from daemon.doctor.finding import Refusal
from daemon.domain.rollup import HOURLY, KINDS
from daemon.errors import MongoStoreError
from daemon.rollups.collections import DEAD_LETTERS, DOCTOR
from daemon.rollups.errors import sentence
from daemon.rollups.mongo import close_client, open_client

Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class MongoFacts:
    """What MongoDB said. `indexes`: collection → its indexes by name; empty for a collection that does not exist.

    `write_error`: why the scratch write failed; None if it worked or was not tried. `storage`: dbStats. `replica_set`:
    its configuration; empty of a server that is in no set.
    """

    config: Config
    address: str
    database: str
    hello: Mapping[str, Any]
    release: str
    clock: Clock
    indexes: Mapping[str, Mapping[str, Json]] | Refusal
    write_error: str | None = None
    dead_letters: int | Refusal = 0
    storage: Mapping[str, Any] | Refusal | None = None
    replica_set: Mapping[str, Any] | Refusal = field(default_factory=dict)
    first_hour: str | Refusal | None = None
    """The hour of the document of an hour that was made first; None: there is none."""


async def read_mongo(config: Config, *, timeout_ms: int, probe: bool) -> MongoFacts:
    """`probe`: also write, count the dead letters and measure. Raises StoreError if MongoDB does not answer."""
    timeout_ms = min(timeout_ms, config.mongo.timeout_ms)
    address = address_of(config.mongo.url)
    client, database = open_client(config.mongo.url, timeout_ms, "tallyd doctor")
    try:
        return await _read(config, address, database, probe=probe)
    except PyMongoError as error:
        raise MongoStoreError(f"MongoDB at {address}: {sentence(error)}") from None
    finally:
        await close_client(client)


async def _read(config: Config, address: str, database: AsyncDatabase[Json], *, probe: bool) -> MongoFacts:
    admin, asked = database.client.get_database("admin"), await _whom_to_ask(database)
    release = (await admin.command("buildInfo", read_preference=asked))["version"]
    sent_s = time.time()
    hello = await admin.command("hello", read_preference=asked)
    local: dt.datetime = hello["localTime"]
    facts: Json = {"clock": clock.compare(local.timestamp(), sent_s, time.time()), "hello": hello, "release": release}
    facts["indexes"] = Refusal("listIndexes", "there is no primary")  # of which alone the driver asks it
    if is_writable(hello):
        facts["indexes"] = await _asked("listIndexes", _indexes(database))
    if probe and "setName" in hello:
        facts["replica_set"] = await _asked("replSetGetConfig", _replica_set(admin, asked))
    if probe and is_writable(hello):
        facts["write_error"] = await _try_write(database)
    if probe:
        letters = database.with_options(read_preference=asked)[DEAD_LETTERS].count_documents({"dropped_at": None})
        facts["dead_letters"] = await _asked("count", letters)
        facts["first_hour"] = await _asked("find", _first_hour(database.with_options(read_preference=asked)))
        facts["storage"] = await _asked("dbStats", database.command("dbStats", read_preference=asked))
    return MongoFacts(config=config, address=address, database=database.name, **facts)


async def _whom_to_ask(database: AsyncDatabase[Json]) -> _ServerMode:
    """The primary, to which the flusher writes. Only if there is none, any member: such a set is not one that is away.

    It connects, too, so that connecting does not count as round trip.
    """
    client = database.client
    try:
        await client.admin.command("ping", read_preference=ReadPreference.PRIMARY)
    except ServerSelectionTimeoutError:
        if not client.topology_description.known_servers:
            raise
        return ReadPreference.NEAREST
    return ReadPreference.PRIMARY


def is_writable(hello: Mapping[str, Any]) -> bool:
    return bool(hello.get("isWritablePrimary"))


async def _asked(question: str, answer: Awaitable[T]) -> T | Refusal:
    try:
        return await answer
    except (OperationFailure, NotPrimaryError) as error:
        details: Json = dict(error.details or {})
        return Refusal(question, str(details.get("errmsg", error)))


async def _indexes(database: AsyncDatabase[Json]) -> dict[str, dict[str, Json]]:
    found = {}
    for kind in KINDS:
        indexes = await database[kind.collection].index_information()
        found[kind.collection] = {name: dict(index) for name, index in indexes.items()}
    return found


async def _first_hour(database: AsyncDatabase[Json]) -> str | None:
    """By the order in which documents were made: no index is asked for, and hardly another document is read."""
    goes = {"dead_applied": {"$exists": False}}  # others never expire, and are few
    found = await database[HOURLY.collection].find_one(goes, {"hour": 1}, sort=[("$natural", 1)])
    return str(found.get("hour")) if found else None


async def _replica_set(admin: AsyncDatabase[Json], asked: _ServerMode) -> Json:
    found: Json = (await admin.command("replSetGetConfig", read_preference=asked))["config"]
    return found


async def _try_write(database: AsyncDatabase[Json]) -> str | None:
    """Inserts a document with majority and journal, then deletes it and its collection. Returns the error, or None."""
    scratch, id_ = database[DOCTOR], f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    try:
        await scratch.insert_one({"_id": id_, "at": dt.datetime.now(dt.UTC)})
        await scratch.delete_one({"_id": id_})
        await scratch.drop()
    except PyMongoError as error:
        return sentence(error)
    return None
