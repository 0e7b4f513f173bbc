"""A file of days becomes the history of what was taken over: each day set, the weeks, months and years its sums."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import random
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest

from daemon.rollups.collections import HISTORY_MARKS as MARKS
from tests.kit.system import ROLLUPS, System, event, expected_rollups
from tests.kit.takeover import Recorder, add_rows, audited, backfill, bases, everything

ONE_SYSTEM = True

Days = list[tuple[str, str, dt.date, int]]
"""(entity key, counter, day, amount)."""
FIRST = dt.date(2024, 12, 20)
"""The week of its year's end lies in two years and two months."""


@pytest.fixture
def legacy(system: System) -> System:
    add_rows(system, {f"m{n}": (10_000, 500) for n in range(4)})
    return system


def some_days(entities: int = 4, days: int = 30) -> Days:
    chosen = random.Random(7)
    return [
        (f"jav:movie:m{n}", counter, FIRST + dt.timedelta(day), chosen.randrange(50))
        for n in range(entities)
        for day in range(days)
        for counter in ("view", "download")[: 1 + day % 2]
    ]


def as_csv(days: Iterable[tuple[str, str, dt.date, int]]) -> str:
    return "entity,date,counter,amount\n" + "".join(f"{key},{day},{name},{n}\n" for key, name, day, n in days)


def write(system: System, text: str) -> Path:
    path = system.scratch / "days"
    path.write_text(text)
    return path


def expected_bases(days: Days) -> dict[str, dict[str, dict[str, int]]]:
    return {name: documents for name, documents in expected_rollups(days).items() if name != "totals"}


def history(system: System) -> dict[str, dict[str, dict[str, int]]]:
    return {name: bases(system, name) for name in ROLLUPS[1:]}


def test_days_weeks_months_and_years_beside_what_is_counted(legacy: System) -> None:
    days = some_days()
    legacy.count(event(entity_id="m1", occurred_at="2024-12-30T10:00:00Z", value=9))
    legacy.flush()
    outcome = backfill(legacy, daily=write(legacy, as_csv(days)))
    assert outcome.history is not None
    assert (outcome.history.lines, outcome.history.days, outcome.history.entities) == (len(days), len(days), 4)
    assert history(legacy) == expected_bases(days)
    counted = expected_rollups([("jav:movie:m1", "view", dt.date(2024, 12, 30), 9)])
    assert {name: {id_: n for id_, n in found.items() if n} for name, found in legacy.rollups().items()} == counted
    document = legacy.mongo["analytics_entity_weekly"].find_one({"_id": "jav:movie:m1:2025-W01"})
    assert document is not None
    assert (document["entity_id"], document["week"], document["source"]) == ("m1", "2025-W01", "migration")
    assert audited(legacy) == set()
    [point] = json.loads(
        legacy.tallyd(
            "series", "m1", "--bucket", "yearly", "--from", "2024-12-31", "--to", "2024-12-31", "--json"
        ).stdout
    )
    assert point["view"] == 9 + expected_bases(days)["yearly"]["jav:movie:m1:2024"]["view"]


def test_again_in_another_order_and_zipped_it_changes_nothing(legacy: System) -> None:
    days = some_days()
    backfill(legacy, daily=write(legacy, as_csv(days)))
    before = everything(legacy)
    lines = [
        json.dumps({"domain": "jav", "entity_type": "movie", "entity_id": key[10:], "counter": name, "amount": n,
                    "date": str(day)})
        for key, name, day, n in reversed(days)
    ]  # fmt: skip
    path = legacy.scratch / "days.ndjson.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    outcome = backfill(legacy, daily=path)
    assert outcome.history is not None
    assert (outcome.history.days, outcome.history.unchanged, outcome.history.problems) == (0, len(days), 0)
    assert everything(legacy) == before


def test_a_corrected_day_replaces_the_former(legacy: System) -> None:
    days = some_days()
    backfill(legacy, daily=write(legacy, as_csv(days)))
    key, name, day, amount = days[3]
    days[3] = (key, name, day, amount + 7)
    outcome = backfill(legacy, daily=write(legacy, as_csv([days[3]])))
    assert outcome.history is not None
    assert (outcome.history.days, outcome.history.entities) == (1, 1)
    assert history(legacy) == expected_bases(days)


def test_a_dry_run_shows_the_days_and_writes_nothing(legacy: System) -> None:
    path = write(legacy, as_csv([("jav:movie:m1", "view", FIRST, 5), ("jav:movie:gone", "view", FIRST, 5)]))
    printed = legacy.tallyd("backfill", "--daily", str(path), "--dry-run", check=False)
    assert printed.returncode == 1
    assert "jav:movie:m1:2024-12-20 view base none → 5" in printed.stdout
    assert "line 3: entity: jav:movie:gone has no base" in printed.stdout
    assert not any(everything(legacy).values())


def test_wrong_lines_are_named_and_the_others_go_on(legacy: System) -> None:
    good = "jav:movie:m1,2024-12-20,view,5"
    wrong = {
        "jav:movie,2024-12-20,view,5": "entity: must name an entity",
        "jav:actor:m1,2024-12-20,view,5": "entity: jav.actor is mapped to no table",
        "jav:movie:gone,2024-12-20,view,5": "entity: jav:movie:gone has no base",
        "jav:movie:m1,2024-13-20,view,5": "date: must be a day",
        "jav:movie:m1,20241220,view,5": "date: must be a day",
        "jav:movie:m1,2024-12-20,likes,5": "counter: must be one of view, download",
        "jav:movie:m1,2024-12-20,view,-5": "amount: must be a whole number",
        "jav:movie:m1,2024-12-20,view,5.0": "amount: must be a whole number",
        "jav:movie:m1,2024-12-20,view": "line: 3 columns, the header has 4",
        '"jav:movie:m1,2024-12-20,view,5': "line: unexpected end of data",
        "jav:movie:m1,2024-12-20,view,1000000000000001": "amount: must be a whole number",
    }
    path = write(legacy, "\n".join(["entity,date,counter,amount", *wrong, "", good]))
    done = legacy.tallyd("backfill", "--daily", str(path), "--json", check=False)
    assert done.returncode == 1
    listed = sorted(json.loads(done.stdout)["history"]["problems_listed"], key=lambda line: int(line.split()[1][:-1]))
    assert len(listed) == len(wrong)
    for number, (line, reason) in enumerate(zip(listed, wrong.values(), strict=True), start=2):
        assert line.startswith(f"line {number}: {reason}")
    assert bases(legacy, "daily") == {"jav:movie:m1:2024-12-20": {"view": 5}}
    assert bases(legacy, "yearly") == {"jav:movie:m1:2024": {"view": 5}}


def test_what_a_cut_off_file_ends_with_is_no_line(legacy: System) -> None:
    days = [("jav:movie:m1", "view", FIRST + dt.timedelta(day), 1_000) for day in range(3)]
    path = legacy.scratch / "days.csv.gz"
    packer = zlib.compressobj(wbits=31)
    path.write_bytes(packer.compress(as_csv(days).encode()[:-2]) + packer.flush(zlib.Z_SYNC_FLUSH))
    outcome = backfill(legacy, daily=path)
    assert outcome.history is not None
    assert outcome.history.problems_listed == ["behind line 3: the gzip data ends too early: the file is cut off"]
    assert history(legacy) == expected_bases(days[:2])


def test_a_file_without_the_columns_is_refused(legacy: System) -> None:
    done = legacy.tallyd("backfill", "--daily", str(write(legacy, "uuid,views\nm1,5\n")), check=False)
    assert done.returncode == 2
    assert "entity (or domain, entity_type and entity_id), date, counter, amount" in " ".join(done.stderr.split())


def test_days_that_say_more_than_the_total_are_named_by_both(legacy: System) -> None:
    outcome = backfill(legacy, daily=write(legacy, as_csv([("jav:movie:m1", "download", FIRST, 501)])))
    assert outcome.history is not None
    assert outcome.history.problems_listed == ["jav:movie:m1 download: its days sum to 501, its base is only 500"]
    assert audited(legacy) == {("base", "download", 1)}  # of this entity; all together have room


def test_a_stopped_run_leaves_marks_and_the_next_one_sums(legacy: System) -> None:
    days = some_days()
    path = write(legacy, as_csv(days))
    backfill(legacy)
    stopped = Recorder(stop_after=4 + 1)  # its rows, and the first lines
    backfill(legacy, daily=path, recorder=stopped)
    assert bases(legacy, "daily")
    assert not bases(legacy, "weekly")
    assert legacy.mongo[MARKS].count_documents({}) == 4
    report = legacy.audit("--deep")
    assert (report["holds"], report["history_pending"]) == (True, 4)
    assert "half written" in legacy.tallyd("audit").stdout
    backfill(legacy, daily=path)
    assert history(legacy) == expected_bases(days)
    assert audited(legacy) == set()


@pytest.mark.parametrize("name", ["daily", "weekly", "monthly", "yearly"])
def test_an_edited_base_is_found_by_the_audit(legacy: System, name: str) -> None:
    backfill(legacy, daily=write(legacy, as_csv(some_days(entities=2, days=3))))
    edited, sign = legacy.mongo[f"analytics_entity_{name}"], -1 if name == "daily" else 1
    edited.update_one({"entity_id": "m0", "base.view": {"$gt": 1}}, {"$inc": {"base.view": 1}})
    assert audited(legacy) == {("base", "view", sign)}
    edited.update_one({"entity_id": "m1", "base.view": {"$gt": 1}}, {"$inc": {"base.view": -1}})
    assert audited(legacy) == {("base", "view", 1), ("base", "view", -1)}  # they cancel out in the sum, not for each
