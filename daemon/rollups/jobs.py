"""The last result of each job that a timer runs, so that status, metrics and alerts can tell what it found and when.

A job keeps its result if it is run with `--record`. One document a job: the next run replaces it.
"""

from __future__ import annotations

import datetime as dt
from typing import Literal

import msgspec
from msgspec import Struct

from daemon.rollups.collections import JOBS
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import MongoSink

Job = Literal["audit", "parity-check", "report", "expire", "shadow-compare", "doctor"]


class JobResult(Struct, frozen=True):
    """The result of a job's last run. `at`: when it ended. `exit_code`: as of its command; 0 is `ok`.

    `summary`: one sentence. `host`: where it ran. `figures`: what it counted, by name. The subject of a figure follows
    a colon: an audit has `difference:view`.
    """

    job: str
    at: dt.datetime
    seconds: float
    ok: bool
    exit_code: int
    summary: str
    host: str
    figures: dict[str, int | float]


async def record_job(mongo: MongoSink, result: JobResult) -> None:
    """Replaces what was kept of this job. Raises StoreError."""
    document = msgspec.structs.asdict(result)
    with store_error(mongo.address):
        await mongo.database[JOBS].replace_one({"_id": document.pop("job")}, document, upsert=True)


async def read_jobs(mongo: MongoSink) -> list[JobResult]:
    """The last result of each job that ever kept one, by name. Raises StoreError."""
    with store_error(mongo.address):
        cursor = mongo.database[JOBS].find().sort("_id", 1)
        # A later version may keep more fields.
        return [msgspec.convert({"job": document["_id"], **document}, JobResult) async for document in cursor]
