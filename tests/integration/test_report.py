"""A report says of each day what was counted that day, and of now whether both stores agree; and its files verify."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from tests.kit.system import System, event

ONE_SYSTEM = True

TODAY = dt.datetime.now(dt.UTC).date()


def day(back: int) -> str:
    return (TODAY - dt.timedelta(days=back)).isoformat()


@pytest.fixture
def counted(system: System) -> System:
    """Two movies: 7 and 2 views two days ago, 3 views today; flushed, synced, and 5 more of yesterday still live."""
    system.add_movies("a", "b")
    for id_, value, back in (("a", 7, 2), ("b", 2, 2), ("a", 3, 0)):
        system.count(event(entity_id=id_, value=value, occurred_at=f"{day(back)}T00:00:00Z"))
    system.flush()
    system.count(event(entity_id="b", value=5, occurred_at=f"{day(1)}T00:00:00Z"))
    return system


def generate(system: System, *options: str, days: int = 3, fails: bool = False, **env: str) -> Path:
    done = system.tallyd("report", "generate", "--days", str(days), *options, check=False, **env)
    assert done.returncode == int(fails), done.stdout + done.stderr
    return system.scratch / "reports"


def read(folder: Path, kind: str = "parity", back: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / kind / f"{kind}-{day(back)}.json").read_text())
    return found


def verify(system: System, *options: str) -> list[str]:
    done = system.tallyd("report", "verify", "--json", *options, check=False)
    problems = json.loads(done.stdout)["problems"]
    assert done.returncode == (1 if problems else 0)
    return [f"{problem['file']}: {problem['message']}" for problem in problems]


def test_each_days_artifact_speaks_of_its_day(counted: System) -> None:
    folder = generate(counted)
    days = [read(folder, back=back)["day"] for back in (2, 1, 0)]
    assert [found["date"] for found in days] == [day(2), day(1), day(0)]
    assert [found["sums"]["view"] for found in days] == [9, 0, 3]
    assert [found["live"].get("view", 0) for found in days] == [0, 5, 0]
    assert [found["agreement"]["entities"] for found in days] == [2, 0, 1]
    assert [found["agreement"]["disagreements"] for found in days] == [0, 0, 0]
    assert not any(found["expired"] for found in days)


def test_parity_and_what_is_pending_are_those_of_now(counted: System) -> None:
    counted.sql("UPDATE jav SET views = 6, code = 'A-1' WHERE uuid = 'a'")
    counted.sql("UPDATE jav SET views = 0 WHERE uuid = 'b'")  # has live counts
    folder = generate(counted, fails=True)
    for back in range(3):
        artifact = read(folder, back=back)
        assert (artifact["checked"], artifact["mismatches"], artifact["limit"]) == (2, 1, 1000)
        assert artifact["rows"] == [
            {
                "code": "A-1", "key": "a", "entity_type": "jav.movie",
                "mysql_views": 6, "mysql_downloads": 0, "mongo_views": 10, "mongo_downloads": 0,
            }
        ]  # fmt: skip
        assert artifact["types"][0]["pending"] == 1
        assert (artifact["pending"]["live"], artifact["pending"]["dirty_entities"]) == ({"view": 5}, 1)


@pytest.mark.parametrize("kind", ["weekly", "monthly", "yearly", "totals"])
def test_a_bucket_that_holds_less_than_its_day_is_named(counted: System, kind: str) -> None:
    counted.mongo[f"analytics_entity_{kind}"].update_many({"entity_id": "b"}, {"$set": {"view": 1}})
    counted.redis.sadd("anl:{0}:dirty", "jav:movie:b")
    folder = generate(counted, fails=True)
    [found, *_] = read(folder, back=2)["day"]["agreement"]["some"]
    assert (found["entity"], found["counter"], found["inner"]) == ("jav:movie:b", "view", f"daily {day(2)}")
    assert (found["inner_amount"], found["outer"].split()[0], found["outer_amount"]) == (2, kind, 1)


def test_what_is_written_verifies_and_the_archive_holds_the_same(counted: System) -> None:
    folder = generate(counted, "--rollback", "--archive")
    [archive] = (folder / "archive").iterdir()
    assert verify(counted, "--strict") == []
    assert verify(counted, "--strict", "--archive", str(archive)) == []
    path = folder / f"parity/parity-{day(1)}.json"
    path.write_text(path.read_text().replace('"checked": 2', '"checked": 3', 1))
    assert verify(counted) == [
        f"parity/parity-{day(1)}.json: is 3, but the types have 2",
        f"parity/parity-{day(1)}.json: was changed: its SHA-256 is not the manifest's",
    ]
    assert verify(counted, "--archive", str(archive)) == []
    generate(counted)
    assert len(verify(counted, "--strict")) == 2, "a later report does not mend the artifact of a past day"


def test_the_artifact_of_a_past_day_is_never_written_again(counted: System) -> None:
    folder = generate(counted, "--archive")
    before = {path.name: path.read_bytes() for path in (folder / "parity").iterdir()}
    counted.sql("UPDATE jav SET views = 6 WHERE uuid = 'a'")
    (folder / f"parity/parity-{day(1)}.json").unlink()
    said = counted.tallyd("report", "generate", "--days", "4", "--archive", check=False).stdout
    assert "4 artifacts in reports" in said
    assert "1 of past days stay as they were." in said
    assert (folder / f"parity/parity-{day(2)}.json").read_bytes() == before[f"parity-{day(2)}.json"]
    assert [read(folder, back=back)["mismatches"] for back in (3, 2, 1, 0)] == [1, 0, 1, 1]
    assert verify(counted, "--strict") == [], "the archives hold the same"


def test_the_gate_asks_for_a_report_of_each_day_on_that_day(counted: System) -> None:
    generate(counted, days=1)
    assert "1 of 1 days are in order" in counted.tallyd("report", "gate", "--days", "1").stdout
    generate(counted, days=2)
    late = counted.tallyd("report", "gate", "--days", "7", "--json", check=False)
    assert late.returncode == 1
    assert f"tallyd: {day(6)} has no artifact." in late.stderr
    bad = json.loads(late.stdout)["bad"]
    assert [each["date"] for each in bad] == [day(back) for back in range(6, 0, -1)]
    assert bad[-1]["why"] == f"has an artifact of another day: it was written on {day(0)}"
    counted.sql("UPDATE jav SET views = 6 WHERE uuid = 'a'")
    generate(counted, days=1, fails=True)
    assert f"{day(0)} has 1 rows that differ" in counted.tallyd("report", "gate", "--days", "1", check=False).stderr


def test_the_rollback_artifact_says_whether_the_way_back_is_clear(counted: System) -> None:
    with counted.ingest() as ingest:
        port = ingest.url.rpartition(":")[2]
        options = ("--rollback", "--legacy-url", f"{ingest.url}/movies/1/view")
        before = read(generate(counted, *options, HTTP__PORT=port), "rollback")
        counted.flush()
        after = read(generate(counted, *options, HTTP__PORT=port, ENABLED="false"), "rollback")
    assert (before["ingest_route_present"], before["legacy_movie_view_route_present"]) == (True, False)
    assert (before["enabled"], before["mysql_equals_mongo"], before["safe"]) == (True, True, False)
    assert before["pending"]["live"] == {"view": 5}
    assert (after["enabled"], after["mysql_equals_mongo"], after["safe"]) == (False, True, True)
    assert counted.replica() == {"a": (10, 0), "b": (7, 0)}


def test_routes_nobody_answers_for_are_not_present_and_the_notes_say_so(counted: System) -> None:
    options = ("--rollback", "--legacy-url", "http://127.0.0.1:1/view")
    found = read(generate(counted, *options, HTTP__PORT="1"), "rollback")
    assert (found["ingest_route_present"], found["legacy_movie_view_route_present"]) == (False, False)
    assert found["notes"] == [
        "GET http://127.0.0.1:1/api/v1/analytics/events: no answer",
        "OPTIONS http://127.0.0.1:1/view: no answer",
    ]


def test_a_report_of_empty_stores_is_in_order_and_holds_as_many_days_as_asked_for(system: System) -> None:
    folder = generate(system, "--rollback", "--archive", days=14)
    assert verify(system, "--strict") == []
    assert len([*(folder / "parity").iterdir()]) == 14


def test_a_report_that_breaks_off_leaves_the_one_before_as_it_was(counted: System) -> None:
    folder = generate(counted)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    generate(counted, fails=True, MYSQL__URL="mysql://root@127.0.0.1:1/none", MYSQL__TIMEOUT_MS="300")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert verify(counted, "--strict") == []
