"""The sentences that say what is wrong, and what to do: one for each thing, the worst first."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from msgspec.structs import replace

from daemon import config as configuration
from daemon.config import Config
from daemon.read.status import ShardStatus, Status
from daemon.read.trouble import JOB_LATE_S, LATE_S, REPLICA_LATE_S, SPOOL_LEFT_S, troubles
from daemon.rollups.floors import Hold
from daemon.rollups.jobs import JobResult
from daemon.spool.segment import NO_USAGE, Stray, Usage

NOW = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)
CONFIG = {"TALLYD_MYSQL__URL": "mysql://t@127.0.0.1/t", "TALLYD_SPOOL__BYTES_MAX": "1048576"}
IDLE = ShardStatus(
    shard=0, dirty=0, in_flight=0, in_flight_age_s=None, owner=None, replica_due=0, replica_due_age_s=None,
    replica_refused=0, last_flush_age_s=3.0, lag_s=0.0, epoch=1, ledger={"accepted:view": 7},
)  # fmt: skip
LATE = LATE_S + 2 * 5 + 1


def loaded(**env: str) -> Config:
    return configuration.load(environ={**CONFIG, **{f"TALLYD_{key}": value for key, value in env.items()}})


def job(**fields: Any) -> JobResult:
    good = JobResult("audit", NOW - dt.timedelta(hours=1), 1.0, True, 0, "The law holds.", "host", {})
    return replace(good, **fields)


def status(shard: dict[str, Any] | None = None, **fields: Any) -> Status:
    well = Status([replace(IDLE, **(shard or {}))], None, NO_USAGE, 0, None, [job()])
    return replace(well, **fields)


def said(found: Status, **env: str) -> list[tuple[str, str]]:
    return [(trouble.level, trouble.text) for trouble in troubles(loaded(**env), found, NOW)]


def test_nothing_is_said_while_all_is_well() -> None:
    assert said(status()) == []
    assert said(status(spool=None, jobs=[])) == []
    busy = {"dirty": 900, "in_flight": 5_000, "in_flight_age_s": 8.0, "replica_due": 5_000, "lag_s": 9.0}
    assert said(status(shard=busy)) == []


@pytest.mark.parametrize(
    ("found", "level", "text"),
    [
        (status(shards=[], redis_error="x"), "bad", "Redis does not answer. Events wait in the spool."),
        (status(shards=[], redis_error="x", spool=None), "bad", "Redis does not answer. Events are refused (503)."),
        (status(mongo_error="x", dead_letters=None), "bad", "MongoDB does not answer."),
        (status(mysql_error="x"), "bad", "MySQL does not answer."),
        (status({"dirty": 2, "lag_s": LATE}), "bad", "2 entities wait, and the last flush was 3.0 s ago."),
        (
            status({"dirty": 1, "lag_s": LATE, "last_flush_age_s": None}),
            "bad",
            "1 entity waits, and there was no flush yet.",
        ),
        (status({"in_flight": 9, "in_flight_age_s": LATE}), "bad", "A claim has been in flight for 41.0 s."),
        (status({"replica_refused": 2}), "warn", "MySQL refuses the rows of 2 entities."),
        (
            status({"replica_due": 3, "replica_due_age_s": REPLICA_LATE_S + 1}),
            "warn",
            "3 entities are due for MySQL, the oldest for 0:05:01.",
        ),
        (status({"ledger": {"aside": 2}}), "warn", "2 foreign values in Redis were renamed."),
        (
            status({"dirty": 3, "lag_s": LATE, "hold": Hold(1, 2, NOW, {"view": 10}, {})}),
            "bad",
            "Shard 0 is held: its Redis came back older than MongoDB, and nothing of it is flushed.",
        ),
        (status(dead_letters=1), "warn", "1 dead letter waits: amounts that no document could take."),
        (status(dead_letters=1_200), "warn", "1,200 dead letters wait: amounts that no document could take."),
        (status(jobs=[job(ok=False, summary="2 differ.")]), "bad", "audit failed 1:00:00 ago: 2 differ."),
        (status(jobs=[job(job="expire", ok=False)]), "warn", "expire failed 1:00:00 ago"),
        (status(jobs=[job(at=NOW - dt.timedelta(seconds=JOB_LATE_S + 1))]), "warn", "audit last ran 1 day, 2:00:01"),
        (status(spool=Usage(1, 99, 5.0, 0)), "warn", "99 bytes of events wait in the spool. They are being counted."),
        (status(spool=Usage(1, 99, SPOOL_LEFT_S + 1, 0)), "bad", "Events have waited in the spool for 0:15:01"),
        (status(spool=Usage(0, 600_000, None, 0)), "warn", "The spool is 57 % full."),
        (status(spool=Usage(0, 1_000_000, None, 0)), "bad", "The spool is 95 % full."),
        (status(spool=Usage(0, 0, None, 3)), "warn", "3 files of damaged bytes were set aside."),
        (status(spool=replace(NO_USAGE, error="/x cannot be read: denied")), "bad", "/x cannot be read: denied."),
        (status(spool=Usage(0, 0, None, 0, [Stray("a", "b")], 4)), "warn", "5 files in the spool are not taken."),
    ],
)
def test_one_thing_is_one_sentence(found: Status, level: str, text: str) -> None:
    (told,) = said(found)
    assert told[0] == level
    assert told[1].startswith(text)


def test_each_says_what_to_do() -> None:
    everything = status(
        {"dirty": 1, "lag_s": LATE, "replica_refused": 1, "ledger": {"aside": 1}},
        mongo_error="x", dead_letters=2, jobs=[job(ok=False)], spool=Usage(1, 1_000_000, 99.0, 1),
    )  # fmt: skip
    found = troubles(loaded(), everything, NOW)
    assert all(trouble.do.endswith(".") for trouble in found)
    assert [trouble.level for trouble in found] == sorted((trouble.level for trouble in found), key="bad warn".index)


def test_a_claim_in_flight_is_said_once_and_not_as_a_missing_flusher() -> None:
    stuck = status({"dirty": 4, "in_flight": 9, "in_flight_age_s": LATE, "lag_s": LATE})
    assert [text for _, text in said(stuck)] == ["A claim has been in flight for 41.0 s."]


def test_a_long_interval_is_no_trouble() -> None:
    waiting = status({"dirty": 2, "lag_s": 1_000.0})
    assert said(waiting, FLUSH__INTERVAL_S="3600") == []


def test_one_that_is_switched_off_says_so_and_its_rows_are_not_late() -> None:
    found = status({"replica_due": 3, "replica_due_age_s": 1e6})
    assert said(found, ENABLED="false") == [
        ("warn", "tallyd is switched off: events are answered 202 and not counted.")
    ]


def test_the_shard_is_named_where_there_are_several() -> None:
    assert said(status({"replica_refused": 1, "shard": 3}), REDIS__SHARDS="4") == [
        ("warn", "MySQL refuses the rows of 1 entity in shard 3.")
    ]
