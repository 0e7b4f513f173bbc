"""The gate passes a row of days only if each has evidence of its own in which nothing differs, and names the first that
has not."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from daemon.verify.report import archive
from daemon.verify.report.gate import read_gate

TODAY = dt.date(2026, 2, 19)
ROW = {"code": "M1", "mysql_views": 5, "mongo_views": 4}
DISAGREE = {"day": {"date": "2026-02-17", "agreement": {"disagreements": 2}}}


def path(folder: Path, back: int) -> Path:
    return folder / f"parity/parity-{TODAY - dt.timedelta(days=back)}.json"


def add(folder: Path, back: int, **fields: Any) -> None:
    """The artifact of so many days ago."""
    day = (TODAY - dt.timedelta(days=back)).isoformat()
    found = {
        "schema_version": "analytics-artifact.v1", "artifact_type": "parity", "artifact_date": day,
        "generated_at": f"{day}T23:50:00Z", "limit": 100, "checked": 100, "mismatches": 0, "rows": [],
    }  # fmt: skip
    path(folder, back).parent.mkdir(exist_ok=True)
    path(folder, back).write_text(json.dumps(found | fields))


@pytest.fixture
def week(tmp_path: Path) -> Path:
    """Seven days, today the last."""
    for back in range(7):
        add(tmp_path, back)
    return tmp_path


def bad(folder: Path, days: int = 7) -> list[tuple[str, str]]:
    return [(str(each.date), each.why) for each in read_gate(folder, days, TODAY).bad]


def test_a_day_each_is_in_order(week: Path) -> None:
    found = read_gate(week, 7, TODAY)
    assert (str(found.first), str(found.last), found.bad) == ("2026-02-13", "2026-02-19", [])


def test_today_counts_once_it_has_an_artifact(week: Path) -> None:
    path(week, 0).unlink()
    found = read_gate(week, 6, TODAY)
    assert (str(found.first), str(found.last), found.bad) == ("2026-02-13", "2026-02-18", [])


@pytest.mark.parametrize("days", [14, 30, 90])
def test_a_longer_row_begins_with_the_first_missing_day(week: Path, days: int) -> None:
    missing = bad(week, days)
    assert len(missing) == days - 7
    assert missing[0] == (str(TODAY - dt.timedelta(days=days - 1)), "has no artifact")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"mismatches": 1, "rows": [ROW]}, "has 1 rows that differ"),
        (DISAGREE, "has 2 rollups that disagree"),
        ({"checked": 0}, "has an artifact that compared no row"),
        ({"generated_at": "2026-02-19T01:00:00Z"}, "has an artifact of another day: it was written on 2026-02-19"),
        (
            {"mismatches": 1},
            "cannot be relied on: parity/parity-2026-02-17.json mismatches is 1, but 0 of the rows differ",
        ),
    ],
)  # fmt: skip
def test_each_bad_day_is_named_the_first_at_the_head(week: Path, fields: dict[str, Any], why: str) -> None:
    add(week, 2, **fields)
    path(week, 1).unlink()
    assert bad(week) == [("2026-02-17", why), ("2026-02-18", "has no artifact")]


def test_a_day_that_was_changed_since_is_bad(week: Path) -> None:
    sums = {f"parity/{path(week, back).name}": archive.sum_of(path(week, back).read_bytes()) for back in range(7)}
    archive.update_manifest(week, sums, dt.datetime(2026, 2, 19, tzinfo=dt.UTC))
    assert bad(week) == []
    add(week, 3, checked=99)
    name = "parity/parity-2026-02-16.json"
    assert bad(week) == [("2026-02-16", f"cannot be relied on: {name} was changed: its SHA-256 is not the manifest's")]


def test_no_day_can_be_relied_on_with_a_manifest_that_cannot_be_read(week: Path) -> None:
    (week / "manifest.sums").write_text("{")
    assert len(bad(week)) == 7


def test_what_another_producer_adds_does_not_matter(week: Path) -> None:
    add(week, 2, day=3, generated_at="2026-02-17T17:00:00+07:00")
    add(week, 3, day={"agreement": "?"})
    assert [why for _, why in bad(week)] == [
        "cannot be relied on: parity/parity-2026-02-16.json day.date is None, the artifact is of 2026-02-16"
    ]
