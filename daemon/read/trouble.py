"""All that is wrong, in sentences: for `tallyd status`, and for the dashboard. Pure.

A sentence each for what an operator should know now, the worst first, and what to do about it. No sentence: all is
well. The bounds are near those of ops/prometheus/alerts.yml, which also ask how long a thing has been so.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from typing import Literal

from daemon.config import Config
from daemon.read.status import ShardStatus, Status
from daemon.response import Body
from daemon.spool.segment import Usage

Level = Literal["warn", "bad"]
"""bad: counts are lost, refused, stuck or wrong. warn: they are not, or not yet."""

LATE_S = 30.0
"""How long counts may wait for a flush, besides twice `flush.interval_s`, and how old a claim may get."""
REPLICA_LATE_S = 300.0
SPOOL_LEFT_S = 900.0
"""How long events may stay in the spool while Redis answers."""
JOB_LATE_S = 26 * 3_600.0
"""The timers run daily."""
WELL = "All is well."


class Trouble(Body):
    """One sentence, and what to do."""

    level: Level
    text: str
    do: str


def troubles(config: Config, status: Status, now: dt.datetime) -> list[Trouble]:
    """All there is to say, the worst first. `now`: with a time zone."""
    found = [
        *_of_stores(status),
        *(_of_spool(config, status, status.spool) if status.spool else ()),
        *_of_other_spools(status),
        *(trouble for shard in status.shards for trouble in _of_shard(config, status, shard)),
        *_of_letters(status),
        *_of_jobs(status, now),
    ]
    if not config.enabled:
        found.append(
            Trouble(
                "warn",
                "tallyd is switched off: events are answered 202 and not counted.",
                "Set enabled = true in the configuration, and reload. ops/moving-over.md has the way back.",
            )
        )
    return sorted(found, key=lambda trouble: trouble.level != "bad")


def lasted(seconds: float) -> str:
    """A time as people say it."""
    return f"{seconds:.1f} s" if seconds < 120 else str(dt.timedelta(seconds=int(seconds)))


def _of_stores(status: Status) -> Iterator[Trouble]:
    more = "`tallyd doctor` says more"
    if status.redis_error:
        wait = "Events wait in the spool." if status.spool else "Events are refused (503)."
        yield Trouble("bad", f"Redis does not answer. {wait}", f"Start it, or correct redis.url. {more}.")
    if status.mongo_error:
        yield Trouble(
            "bad",
            "MongoDB does not answer. New counts wait in Redis, and reads fail.",
            f"Start it, or correct mongo.url. {more}.",
        )
    if status.mysql_error:
        yield Trouble(
            "bad",
            "MySQL does not answer. Its columns stay as they are.",
            f"Start it, or correct mysql.url. {more}.",
        )


def _of_spool(config: Config, status: Status, spool: Usage) -> Iterator[Trouble]:
    folder = config.spool.dir
    if spool.error:
        yield Trouble("bad", f"{spool.error}.", "Give the daemon's user the folder spool.dir, and room on its disk.")
    percent = 100 * spool.bytes // config.spool.bytes_max
    if percent >= 50:
        yield Trouble(
            "bad" if percent >= config.spool.ready_percent else "warn",
            f"The spool is {percent} % full. Events are refused when it is full.",
            "Bring Redis back, or raise spool.bytes_max if the disk has room.",
        )
    age_s = spool.oldest_age_s or 0.0
    if spool.segments and not status.redis_error:
        if age_s > SPOOL_LEFT_S:
            yield Trouble(
                "bad",
                f"Events have waited in the spool for {lasted(age_s)}, although Redis answers.",
                "Read the log of the ingest daemon, or run `tallyd replay` while none runs.",
            )
        else:
            yield Trouble(
                "warn",
                f"{spool.bytes:,} bytes of events wait in the spool. They are being counted.",
                "Nothing, if the number falls.",
            )
    if spool.damaged:
        yield Trouble(
            "warn",
            f"{spool.damaged:,} files of damaged bytes were set aside.",
            f"Keep {folder}/damaged: its events are not counted. Check the disk.",
        )
    if spool.strays:
        yield Trouble(
            "warn",
            f"{len(spool.strays) + spool.strays_more:,} files in the spool are not taken.",
            "`tallyd status` names them, and says why.",
        )


def _of_other_spools(status: Status) -> Iterator[Trouble]:
    for known in status.spools:
        said = known.report
        held = f"{said.bytes:,} bytes of events" if said.segments else "nothing"
        if known.silent:
            yield Trouble(
                "bad",
                f"The spool {said.dir} of {said.host} has not reported for {lasted(known.age_s)}. It held {held} then.",
                "Start ingest there. If the host is lost: `tallyd replay --from` its folder, or `tallyd spools"
                f" forget {known.name}`.",
            )
        elif said.segments:
            yield Trouble(
                "warn",
                f"{said.bytes:,} bytes of events wait in the spool of {said.host}.",
                "Nothing, if the number falls. Else read the log of the ingest daemon there.",
            )


def _of_shard(config: Config, status: Status, shard: ShardStatus) -> Iterator[Trouble]:
    where = f" in shard {shard.shard}" if config.redis.shards > 1 else ""
    late_s = LATE_S + 2 * config.flush.interval_s
    claim_age_s = shard.in_flight_age_s or 0.0
    if shard.hold is not None:
        yield Trouble(
            "bad",
            f"Shard {shard.shard} is held: its Redis came back older than MongoDB, and nothing of it is flushed. If it"
            f" goes on, {shard.hold.bound}.",
            f"Bring the right Redis back, or run `tallyd shards accept {shard.shard} --reason …`. See ops/backup.md.",
        )
        late_s = math.inf  # its counts wait, and that is why
    if shard.lag_s > late_s and claim_age_s <= late_s:
        ago = shard.last_flush_age_s
        last = "there was no flush yet" if ago is None else f"the last flush was {lasted(ago)} ago"
        yield Trouble(
            "bad",
            f"{_wait(shard)}{where}, and {last}.",
            "Start the flusher: `systemctl start tallyd-flush`. If it runs, read its log.",
        )
    if claim_age_s > late_s:
        yield Trouble(
            "bad",
            f"A claim{where} has been in flight for {lasted(claim_age_s)}.",
            "Read the flusher's log: a store may be away or slow. A claim counts once, however late.",
        )
    if shard.replica_refused:
        yield Trouble(
            "warn",
            f"MySQL refuses the rows of {_entities(shard.replica_refused)}{where}.",
            f"HGETALL {config.redis.prefix}:{{{shard.shard}}}:refused shows the reasons. They are tried again.",
        )
    due_age_s = shard.replica_due_age_s or 0.0
    if config.enabled and config.mysql.url and not status.mysql_error and due_age_s > REPLICA_LATE_S:
        yield Trouble(
            "warn",
            f"{_entities(shard.replica_due)} are due for MySQL{where}, the oldest for {lasted(due_age_s)}.",
            "Read the flusher's log. `tallyd audit` compares the rows.",
        )
    if aside := shard.ledger.get("aside", 0):
        yield Trouble(
            "warn",
            f"{aside:,} foreign values in Redis were renamed{where}.",
            f"Look at the keys {config.redis.prefix}:{{{shard.shard}}}:aside:*. Another program may use the prefix.",
        )


def _of_letters(status: Status) -> Iterator[Trouble]:
    if status.dead_letters:
        letters = "1 dead letter waits" if status.dead_letters == 1 else f"{status.dead_letters:,} dead letters wait"
        yield Trouble(
            "warn",
            f"{letters}: amounts that no document could take.",
            "`tallyd dead list` gives the reasons. Then `tallyd dead retry` or `tallyd dead drop`.",
        )


def _of_jobs(status: Status, now: dt.datetime) -> Iterator[Trouble]:
    for job in status.jobs:
        age_s = (now - job.at).total_seconds()
        if not job.ok:
            yield Trouble(
                "bad" if job.job in ("audit", "parity-check") else "warn",
                f"{job.job} failed {lasted(age_s)} ago: {job.summary}",
                f"Run `tallyd {job.job}` and read its report. ops/runbook.md has a section for it.",
            )
        elif age_s > JOB_LATE_S:
            yield Trouble(
                "warn",
                f"{job.job} last ran {lasted(age_s)} ago.",
                f"Look at its timer (`systemctl list-timers`), or run `tallyd {job.job} --record`.",
            )


def _wait(shard: ShardStatus) -> str:
    count = shard.dirty + shard.in_flight
    return f"{_entities(count)} wait{'s' if count == 1 else ''}"


def _entities(count: int) -> str:
    return "1 entity" if count == 1 else f"{count:,} entities"
