"""The parity check names each row that differs, and none that is only on its way."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest

from tests.kit.proxy import Gate, update_of
from tests.kit.system import System, event

ONE_SYSTEM = True

KEYS = [f"m{n}" for n in range(1, 8)]


@pytest.fixture
def counted(system: System) -> System:
    """Seven movies, the last the most viewed, flushed and synced."""
    system.add_movies(*KEYS)
    system.sql("UPDATE jav SET code = UPPER(uuid)")
    system.count(*(event(entity_id=key, value=n) for n, key in enumerate(KEYS, start=1)))
    system.flush()
    return system


def parity(system: System, *options: str, **env: str) -> dict[str, Any]:
    done = system.tallyd("parity-check", "--print-json", *options, check=False, **env)
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if found["mismatches"] else 0), done.stderr
    return found


def test_equal_stores_have_no_mismatch(counted: System) -> None:
    found = parity(counted, "--all")
    assert (found["checked"], found["mismatches"], found["pending"], found["rows"]) == (7, 0, 0, [])
    assert found["types"][0] | {"missing_some": [], "not_backfilled_some": []} == {
        "entity_type": "jav.movie",
        "table": "jav",
        "ordered_by": "views",
        "checked": 7,
        "mismatches": 0,
        "pending": 0,
        "keyless": 0,
        "missing": 0,
        "missing_some": [],
        "not_backfilled": 0,
        "not_backfilled_some": [],
    }


def test_each_mismatch_is_listed_with_label_and_both_values_the_highest_counter_first(counted: System) -> None:
    counted.sql("UPDATE jav SET views = 50 WHERE uuid = 'm2'")
    counted.sql("UPDATE jav SET downloads = 3 WHERE uuid = 'm5'")
    rows = parity(counted, "--all")["rows"]
    assert rows == [
        {
            "code": "M2", "key": "m2", "entity_type": "jav.movie",
            "mysql_views": 50, "mysql_downloads": 0, "mongo_views": 2, "mongo_downloads": 0,
        },
        {
            "code": "M5", "key": "m5", "entity_type": "jav.movie",
            "mysql_views": 5, "mysql_downloads": 3, "mongo_views": 5, "mongo_downloads": 0,
        },
    ]  # fmt: skip


def test_only_the_first_rows_are_looked_at_with_a_limit(counted: System) -> None:
    counted.sql("UPDATE jav SET downloads = 3 WHERE uuid = 'm5'")
    assert parity(counted, "--limit", "2")["mismatches"] == 0
    found = parity(counted, "--limit", "3")
    assert (found["checked"], found["mismatches"], found["types"][0]["missing"]) == (3, 1, None)


def test_a_row_that_counts_but_has_no_totals_is_a_mismatch_and_a_row_of_zeros_is_none(counted: System) -> None:
    counted.sql("INSERT INTO jav (uuid, views) VALUES ('legacy', 40), ('new', 0)")
    found = parity(counted, "--all")
    assert [(row["key"], row["code"], row["mysql_views"], row["mongo_views"]) for row in found["rows"]] == [
        ("legacy", "legacy", 40, 0)
    ]


def test_a_mismatch_that_nobody_backfilled_is_named_as_such(counted: System) -> None:
    counted.sql("UPDATE jav SET views = 50 WHERE uuid = 'm2'")
    counted.sql("INSERT INTO jav (uuid, code, views) VALUES ('legacy', 'OLD', 40), ('new', 'NEW', 0)")
    assert parity(counted)["types"][0]["not_backfilled_some"] == ["legacy"]
    said = counted.tallyd("parity-check", "--all", check=False).stdout
    assert (
        "OLD (legacy): mysql_views 40, mysql_downloads 0, mongo_views 0, mongo_downloads 0; nobody backfilled it"
        in said
    )
    assert "mongo_views 2, mongo_downloads 0\n" in said
    assert "1 of the mismatches have no totals. `tallyd backfill` takes such rows over." in said
    counted.tallyd("backfill")
    counted.sql("UPDATE jav SET views = 41 WHERE uuid = 'legacy'")
    assert parity(counted)["types"][0]["not_backfilled"] == 0


def test_the_output_is_an_artifact_that_verifies_in_a_folder_that_is_made(counted: System) -> None:
    counted.sql("UPDATE jav SET views = 50 WHERE uuid = 'm2'")
    today = dt.datetime.now(dt.UTC).date()
    file = counted.scratch / f"reports/parity/parity-{today}.json"
    counted.tallyd("parity-check", "--all", "--output", str(file), check=False)
    found = json.loads(file.read_text())
    assert (found["schema_version"], found["artifact_type"]) == ("analytics-artifact.v1", "parity")
    assert (found["artifact_date"], found["limit"], found["mismatches"]) == (str(today), 0, 1)
    assert "1 files read, 0 problems" in counted.tallyd("report", "verify").stdout


def test_a_base_belongs_to_the_total(counted: System) -> None:
    counted.sql("UPDATE jav SET views = views + 40 WHERE uuid = 'm3'")
    counted.mongo["analytics_entity_totals"].update_one({"_id": "jav:movie:m3"}, {"$set": {"base": {"view": 40}}})
    assert parity(counted, "--all")["mismatches"] == 0


def test_totals_without_a_row_are_missing_and_no_mismatch(counted: System) -> None:
    counted.count(event(entity_id="gone"), event(entity_id="other"))
    counted.flush()
    found = parity(counted, "--all")
    assert (found["mismatches"], found["types"][0]["missing"]) == (0, 2)
    assert found["types"][0]["missing_some"] == ["gone", "other"]


def test_what_is_due_or_dirty_is_pending_until_it_is_flushed(counted: System) -> None:
    counted.sql("UPDATE jav SET views = 0 WHERE uuid IN ('m1', 'm2', 'm3')")
    counted.redis.zadd("anl:{0}:replica", {"jav:movie:m1": 1})
    counted.count(event(entity_id="m2"))
    found = parity(counted, "--all")
    assert (found["pending"], [row["key"] for row in found["rows"]]) == (2, ["m3"])
    found = parity(counted, "--all", "--wait")
    assert (found["pending"], [row["key"] for row in found["rows"]]) == (0, ["m3"])
    assert counted.replica()["m2"] == (3, 0)


def test_what_is_in_flight_is_pending(counted: System) -> None:
    """Totals are written, the other rollups and so the ack wait: MySQL cannot have the new total yet."""
    counted.sql("UPDATE jav SET views = 99 WHERE uuid = 'm4'")
    counted.count(event(entity_id="m1", value=5))
    gate = Gate(counted.env["TALLYD_MONGO__URL"], update_of("analytics_entity_daily"))
    with gate.running(), counted.flusher(MONGO__URL=gate.url(), FLUSH__INTERVAL_S="0.1") as flusher:
        assert gate.tripped.wait(20)
        found = parity(counted, "--all")
        flusher.kill()
    assert (found["pending"], [row["key"] for row in found["rows"]]) == (1, ["m4"])


def test_under_traffic_nothing_is_a_mismatch_but_what_is(counted: System) -> None:
    counted.sql("INSERT INTO jav (uuid, views) VALUES ('legacy', 40)")
    with counted.flusher(FLUSH__INTERVAL_S="0.05", FLUSH__POLL_MS="10"):
        for _ in range(3):
            counted.count(*(event(entity_id=key) for key in KEYS))
            assert [row["key"] for row in parity(counted, "--all")["rows"]] == ["legacy"]


def test_the_output_is_the_json_and_stays_as_it_was_if_the_check_breaks_off(counted: System) -> None:
    counted.sql("UPDATE jav SET views = 50 WHERE uuid = 'm2'")
    file = counted.scratch / "parity.json"
    done = counted.tallyd("parity-check", "--all", "--output", str(file), check=False)
    assert done.returncode == 1
    assert "M2 (m2): mysql_views 50" in done.stdout
    written = file.read_bytes()
    assert [row["key"] for row in json.loads(written)["rows"]] == ["m2"]
    done = counted.tallyd("parity-check", "--output", str(file), check=False, MONGO__URL="mongodb://127.0.0.1:1/x",
                          MONGO__TIMEOUT_MS="300")  # fmt: skip
    assert (done.returncode, file.read_bytes()) == (1, written)
    assert [each.name for each in counted.scratch.iterdir()] == ["parity.json"]


def test_an_empty_system_has_no_mismatch(system: System) -> None:
    found = parity(system, "--all")
    assert (found["checked"], found["types"][0]["missing"]) == (0, 0)
