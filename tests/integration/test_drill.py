"""The rollback drill, as an operator runs it; and that it would notice a loss."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import subprocess
from pathlib import Path

import pytest

from daemon.move import drill
from daemon.verify.report.artifact import Step
from tests.kit.commands import TALLYD, run
from tests.kit.system import System


def rehearse(cwd: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return run([*TALLYD, "drill", "rollback", *arguments], cwd=cwd, env=os.environ | env)


def test_no_count_is_lost_on_the_way_there_and_back_and_there_again(tmp_path: Path, system: System) -> None:
    done = rehearse(tmp_path, "--json", "--data", str(tmp_path / "kept"), TALLYD_MYSQL__URL="mysql://not.asked/x")
    assert done.returncode == 0, done.stderr
    artifact = json.loads(done.stdout)
    day = dt.date.fromisoformat(artifact["artifact_date"])
    assert json.loads((tmp_path / f"reports/rollback/drill-{day}.json").read_text()) == artifact
    assert (artifact["schema_version"], artifact["artifact_type"]) == ("analytics-artifact.v1", "rollback")
    assert artifact["ingest_route_present"] is artifact["legacy_movie_view_route_present"] is True
    assert [step["step"] for step in artifact["steps"]] == [name for name, _ in drill.REHEARSAL]
    assert all(step["ok"] for step in artifact["steps"])
    assert (tmp_path / "kept/mysql").is_dir()
    assert not (tmp_path / "kept/stack.json").exists(), "its servers are stopped"

    reports = ("--dir", str(tmp_path / "reports"))
    system.tallyd("report", "verify", "--strict", *reports)
    system.tallyd("report", "generate", "--days", "2", "--rollback", "--archive", *reports)
    system.tallyd("report", "verify", "--strict", *reports)
    assert json.loads((tmp_path / f"reports/rollback/drill-{day}.json").read_text()) == artifact, "as it was"
    [archive] = (tmp_path / "reports/archive").iterdir()
    system.tallyd("report", "verify", "--strict", "--archive", str(archive))

    again = rehearse(tmp_path, "--data", str(tmp_path / "kept"))
    assert again.returncode == 2
    assert "must be a new or empty folder" in " ".join(again.stderr.split())


def test_without_the_reconcile_it_finds_what_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TALLYD_") and "__" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(drill, "REHEARSAL", [step for step in drill.REHEARSAL if drill.Drill.reconcile not in step])
    shown: list[Step] = []
    drilled = asyncio.run(drill.run(None, shown.append))
    assert not drilled.ok
    assert drilled.steps == shown
    assert [step.ok for step in shown] == [True] * (len(shown) - 1) + [False]
    assert shown[-1].found.startswith("6 rows are wrong")


def test_without_mariadb_it_says_so(tmp_path: Path) -> None:
    done = rehearse(tmp_path, TALLYD_STACK_MARIADBD="")
    assert done.returncode == 1
    assert "The drill needs MariaDB" in " ".join(done.stderr.split())
