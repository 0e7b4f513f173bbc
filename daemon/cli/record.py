"""`--record`: what a command found is kept in MongoDB, where `tallyd status` and the metrics show it."""

from __future__ import annotations

import datetime as dt
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from socket import gethostname
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Struct

from daemon.cli.options import run
from daemon.config import Config
from daemon.errors import StoreError, TallydError
from daemon.log import neutral_lines

if TYPE_CHECKING:
    from daemon.rollups.jobs import Job, JobResult

SUMMARY_CHARS_MAX = 300

RecordOption = Annotated[
    bool, typer.Option("--record", help="Keep the result for `tallyd status` and the metrics, as the timers do.")
]


class Found(Struct):
    """The result of a command, which the command fills in. If it fails, the error is the summary."""

    summary: str = ""
    figures: dict[str, int | float] = {}


@contextmanager
def recorded(config: Config, job: Job, *, wanted: bool) -> Iterator[Found]:
    """Keeps how the block ended, if `wanted`. An interrupted run is not kept: it found nothing.

    Raises what the block raises. Raises StoreError if only the keeping fails.
    """
    found, started = Found(), time.monotonic()

    def keep(summary: str, exit_code: int) -> None:
        if wanted:
            run(_record(config, _result(job, found, summary, exit_code, time.monotonic() - started)))

    try:
        yield found
    except Exception as error:
        summary, code = (str(error), error.exit_code) if isinstance(error, TallydError) else (repr(error), 1)
        try:
            keep(summary, code)
        except StoreError as lost:
            print(neutral_lines(f"tallyd: The result was not kept. {lost}"), file=sys.stderr)
        raise
    keep(found.summary, 0)


def _result(job: Job, found: Found, summary: str, exit_code: int, seconds: float) -> JobResult:
    from daemon.rollups.jobs import JobResult

    now = dt.datetime.now(dt.UTC)
    line = " ".join(summary.split())[:SUMMARY_CHARS_MAX]
    return JobResult(job, now, round(seconds, 3), exit_code == 0, exit_code, line, gethostname(), found.figures)


async def _record(config: Config, result: JobResult) -> None:
    from daemon.rollups.jobs import record_job
    from daemon.rollups.mongo import MongoSink

    async with MongoSink(config.mongo) as mongo:
        await record_job(mongo, result)
