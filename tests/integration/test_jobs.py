"""What a job found is kept with --record, and shown by `tallyd status`: the last run of each, failed or not."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest

from tests.kit.system import System, event

ONE_SYSTEM = True

JOBS: dict[str, tuple[str, ...]] = {
    "audit": ("audit",),
    "parity-check": ("parity-check", "--all"),
    "report": ("report", "generate", "--days", "1"),
    "expire": ("expire",),
    "shadow-compare": ("shadow-compare",),
    "doctor": ("doctor",),
}


@pytest.fixture
def counted(system: System) -> System:
    """A row of 3 views, flushed, with the application's own column beside it."""
    system.env["TALLYD_REPLICA__JAV__MOVIE"] = json.dumps(
        {"table": "jav", "key": "uuid", "columns": {"view": "views"}, "shadow": {"view": "downloads"}}
    )
    system.add_movies("a")
    system.count(event(entity_id="a", value=3))
    system.flush()
    return system


def kept(system: System) -> dict[str, dict[str, Any]]:
    return {found["job"]: found for found in json.loads(system.tallyd("status", "--json").stdout)["jobs"]}


def test_each_job_keeps_what_it_found(counted: System) -> None:
    codes = {job: counted.tallyd(*command, "--record", check=False).returncode for job, command in JOBS.items()}
    found = kept(counted)
    assert {job: (each["exit_code"], each["ok"]) for job, each in found.items()} == {
        job: (code, code == 0) for job, code in codes.items()
    }
    shown = counted.tallyd("status").stdout
    for job, each in found.items():
        assert dt.datetime.fromisoformat(each["at"]).tzinfo is not None
        assert each["seconds"] > 0
        assert each["host"]
        assert each["figures"]
        assert all(isinstance(figure, int | float) for figure in each["figures"].values())
        assert f"{job}: {'ok' if each['ok'] else 'failed (1)'}" in shown
        assert each["summary"].endswith(".")
        assert each["summary"] in shown


def test_a_run_without_it_keeps_nothing(counted: System) -> None:
    counted.tallyd("audit")
    assert kept(counted) == {}
    assert "audit" not in counted.tallyd("status").stdout


def test_the_next_run_takes_the_place_of_the_last_and_says_how_far_it_is_off(counted: System) -> None:
    counted.tallyd("audit", "--record")
    assert kept(counted)["audit"]["figures"]["difference:view"] == 0
    counted.redis.hincrby("anl:{0}:ledger", "accepted:view", 2)
    assert counted.tallyd("audit", "--record", check=False).returncode == 1
    found = kept(counted)["audit"]
    assert (found["ok"], found["exit_code"], found["figures"]["difference:view"]) == (False, 1, -2)
    assert found["summary"] == "The audit found 2 differences."
    assert "failed (1)" in counted.tallyd("status").stdout


def test_a_store_that_is_away_is_a_result_too(counted: System) -> None:
    away = {"MYSQL__URL": "mysql://root@127.0.0.1:1/none", "MYSQL__TIMEOUT_MS": "300"}
    assert counted.tallyd("parity-check", "--record", check=False, **away).returncode == 1
    found = kept(counted)["parity-check"]
    assert (found["ok"], found["exit_code"], found["figures"]) == (False, 1, {})
    assert "127.0.0.1:1" in found["summary"]


def test_a_result_that_cannot_be_kept_fails_the_job_and_does_not_hide_why_it_failed(counted: System) -> None:
    away = {"MONGO__URL": "mongodb://127.0.0.1:1/none", "MONGO__TIMEOUT_MS": "300"}
    done = counted.tallyd("doctor", "--record", check=False, **away)
    assert done.returncode == 1
    assert done.stderr.startswith("tallyd: The result was not kept. MongoDB at ")
    assert "fatal" in done.stderr.splitlines()[-1]


def test_what_a_later_version_keeps_besides_does_no_harm(counted: System) -> None:
    counted.tallyd("audit", "--record")
    counted.mongo["analytics_jobs"].update_one({"_id": "audit"}, {"$set": {"mood": "good"}})
    assert kept(counted)["audit"]["ok"]


def test_a_dry_run_is_no_result(counted: System) -> None:
    done = counted.tallyd("expire", "--dry-run", "--record", check=False)
    assert (done.returncode, kept(counted)) == (2, {})
