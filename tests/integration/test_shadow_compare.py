"""While both count: how far apart the two columns are, row by row and day by day, and whether that is tolerable."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest

from daemon.verify.shadow import percentiles
from tests.kit.system import System, event

NOW = dt.datetime.now(dt.UTC)


@pytest.fixture
def both(system: System) -> System:
    """A hundred movies that both counted alike, by 10 each."""
    system.env |= {
        "TALLYD_REPLICA__JAV__MOVIE": json.dumps(
            {"table": "jav", "key": "uuid", "columns": {"view": "views"}, "shadow": {"view": "own_views"}}
        )
    }
    system.sql("ALTER TABLE jav ADD COLUMN own_views BIGINT UNSIGNED NULL")
    rows = ", ".join(f"('m{n}', 10, 10)" for n in range(100))
    system.sql(f"INSERT INTO jav (uuid, own_views, views) VALUES {rows}")
    return system


def compare(system: System, *options: str, fails: bool = False) -> dict[str, Any]:
    done = system.tallyd("shadow-compare", "--json", *options, check=False)
    assert done.returncode == int(fails), done.stderr
    [found] = json.loads(done.stdout)
    assert found["within_tolerance"] is not fails
    return dict(found)


def test_columns_that_agree_are_within_any_tolerance(both: System) -> None:
    found = compare(both)
    assert (found["rows"], found["differing"], found["own"], found["tallyd"]) == (100, 0, 1000, 1000)
    assert (found["apart"], found["worst"], found["trend"]) == (0, [], [])
    assert (found["own_column"], found["tallyd_column"]) == ("own_views", "views")


def test_each_rows_difference_is_measured_and_the_worst_are_named(both: System) -> None:
    both.sql("UPDATE jav SET views = 8 WHERE uuid = 'm1'")
    both.sql("UPDATE jav SET views = 15 WHERE uuid = 'm2'")
    both.sql("UPDATE jav SET own_views = NULL, views = 1 WHERE uuid = 'm3'")
    found = compare(both, fails=True)
    assert (found["differing"], found["difference"], found["apart"]) == (3, 991 + 13 - 990 - 10, 8)
    assert found["absolute"] == {"p50": 0, "p90": 0, "p99": 2, "max": 5}
    assert found["percent"] == {"p50": 0, "p90": 0, "p99": 50, "max": 100}
    assert [(row["key"], row["own"], row["tallyd"], row["difference"], row["percent"]) for row in found["worst"]] == [
        ("m2", 10, 15, 5, 50.0), ("m1", 10, 8, -2, -20.0), ("m3", 0, 1, 1, None)
    ]  # fmt: skip
    assert [row["key"] for row in compare(both, "--worst", "1", fails=True)["worst"]] == ["m2"]


@pytest.mark.parametrize(
    ("tolerance", "fails"), [("0", True), ("9", True), ("10", False), ("0.9%", True), ("1%", False), ("1.5%", False)]
)
def test_differences_that_cancel_out_count_all_the_same(both: System, tolerance: str, fails: bool) -> None:
    both.sql("UPDATE jav SET views = 15 WHERE uuid = 'm1'")
    both.sql("UPDATE jav SET views = 5 WHERE uuid = 'm2'")
    assert compare(both, "--tolerance", tolerance, fails=fails)["difference"] == 0


def test_what_is_not_flushed_yet_is_waited_for(both: System) -> None:
    both.sql("UPDATE jav SET own_views = own_views + 1 WHERE uuid = 'm1'")
    both.sql("UPDATE jav SET views = 0 WHERE uuid = 'm1'")
    both.count(event(entity_id="m1", value=11))
    compare(both, fails=True)
    assert compare(both, "--wait")["apart"] == 0


def test_the_growth_of_both_since_earlier_days_is_told_by_the_days_that_were_recorded(both: System) -> None:
    kept = both.mongo["analytics_shadow"]
    for back, own, tallyd, apart in ((100, 1, 1, 0), (40, 400, 380, 20), (10, 900, 899, 1), (1, 990, 990, 0)):
        day = (NOW.date() - dt.timedelta(days=back)).isoformat()
        sums = {"own": own, "tallyd": tallyd, "apart": apart, "differing": 1}
        kept.insert_one({"_id": f"jav.movie:view:{day}", "date": day, **sums})
    trend = compare(both)["trend"]
    grown = {each["days"]: (each["own"], each["tallyd"], each["difference"], each["apart_before"]) for each in trend}
    assert grown == {
        1: (10, 10, 0, 0), 7: (10, 10, 0, 0), 14: (100, 101, 1, 1), 30: (100, 101, 1, 1), 90: (600, 620, 20, 20)
    }  # fmt: skip
    assert [each["percent"] for each in trend] == [0.0, 0.0, 1.0, 1.0, 3.3333]


@pytest.mark.parametrize(
    ("apart", "without", "tolerance", "bad"),
    [
        (0, None, "0", None),
        (5, None, "5", None),
        (5, None, "0.5%", None),
        (5, None, "4", (3, "was 5 apart")),
        (5, None, "0.4%", (3, "was 5 apart")),
        (0, 6, "0", (6, "has no result")),
        (5, 1, "0", (3, "was 5 apart")),
    ],
)
def test_each_of_the_last_days_must_be_within_the_tolerance_and_the_first_that_is_not_is_named(
    both: System, apart: int, without: int | None, tolerance: str, bad: tuple[int, str] | None
) -> None:
    """`apart`: three days ago. `without`: so many days ago nothing was compared."""
    for back in set(range(1, 7)) - {without}:
        day = (NOW.date() - dt.timedelta(days=back)).isoformat()
        sums = {"own": 1000, "tallyd": 1000, "apart": apart if back == 3 else 0, "differing": 1}
        both.mongo["analytics_shadow"].insert_one({"_id": f"jav.movie:view:{day}", "date": day, **sums})
    done = both.tallyd("shadow-compare", "--days", "7", "--tolerance", tolerance, "--json", check=False)
    [found] = json.loads(done.stdout)
    if bad is None:
        assert (done.returncode, found["bad_day"]) == (0, None)
    else:
        date = (NOW.date() - dt.timedelta(days=bad[0])).isoformat()
        assert (done.returncode, found["bad_day"]) == (1, {"date": date, "why": bad[1]})
        assert f"jav.movie view on {date} {bad[1]}." in done.stderr


def test_a_day_is_recorded_once_with_what_its_last_run_found(both: System) -> None:
    compare(both)
    both.sql("UPDATE jav SET views = 15 WHERE uuid = 'm1'")
    compare(both, fails=True)
    [found] = both.mongo["analytics_shadow"].find()
    assert found["_id"] == f"jav.movie:view:{dt.datetime.now(dt.UTC).date()}"
    assert (found["own"], found["tallyd"], found["apart"], found["differing"], found["max"]) == (1000, 1005, 5, 1, 5)


def test_an_empty_table_agrees(both: System) -> None:
    both.sql("DELETE FROM jav")
    assert compare(both, "--tolerance", "0%")["rows"] == 0


def test_people_are_shown_the_same(both: System) -> None:
    both.sql("UPDATE jav SET views = 15 WHERE uuid = 'm1'")
    shown = both.tallyd("shadow-compare", "--tolerance", "1%").stdout
    assert "100 rows, 1 differ; sums 1,000 and 1,005 (+5); apart 5 (0.5 %)" in shown


@pytest.mark.parametrize(
    ("histogram", "rows", "expected"),
    [
        ([], 0, (0, 0, 0, 0)),
        ([(7, 1)], 1, (7, 7, 7, 7)),
        ([(0, 50), (1, 40), (2, 9), (3, 1)], 100, (0, 1, 2, 3)),
        ([(0, 49), (1, 51)], 100, (1, 1, 1, 1)),
        ([(0, 1), (5, 1)], 2, (0, 5, 5, 5)),
    ],
)
def test_percentiles_are_those_of_the_nearest_rank(
    histogram: list[tuple[int, int]], rows: int, expected: tuple[float, ...]
) -> None:
    found = percentiles(histogram, rows)
    assert (found.p50, found.p90, found.p99, found.max) == expected
