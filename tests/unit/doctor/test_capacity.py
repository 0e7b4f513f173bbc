"""What a load takes, by the measured figures. The table of the page is made here.

After a change: python -m tests.unit.doctor.test_capacity
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from daemon import config as configuration
from daemon.config import Config
from daemon.doctor import capacity as figures
from daemon.doctor.capacity import Load, capacity, shown

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "ops" / "capacity.md"
COLUMNS = {
    "Redis, maxmemory": "Redis `maxmemory`",
    "Redis, disk": "Redis disk",
    "spool, disk": "spool",
    "MongoDB, disk": "MongoDB disk, a year",
    "MongoDB, memory of its machine": "MongoDB memory",
    "ingest workers": "workers",
    "flushers, MongoDB and MySQL": "flush cores",
}
LOADS = (
    Load(10, 100_000, 10_000),
    Load(100, 1_000_000, 100_000),
    Load(500, 1_000_000, 100_000),
    Load(2_000, 10_000_000, 1_000_000),
    Load(10_000, 10_000_000, 1_000_000),
)


def config(**env: str) -> Config:
    return configuration.load(environ=env)


def amounts(load: Load, **env: str) -> dict[str, float]:
    return {need.what: need.amount for need in capacity(config(**env), load).needs}


def table() -> str:
    head = ["events/s", "entities", "a day", *COLUMNS.values()]
    lines = [head, ["---"] * len(head)]
    for load in LOADS:
        needs = {need.what: shown(need) for need in capacity(config(), load).needs}
        sizes = (f"{load.events_per_second:,.0f}", f"{load.entities:,}", f"{load.active:,}")
        lines.append([*sizes, *(needs[what] for what in COLUMNS)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def with_table(page: str) -> str:
    return re.sub(r"(?<=<!-- table -->\n).*?(?=<!-- /table -->)", f"{table()}\n", page, flags=re.DOTALL)


def test_the_page_has_the_table_of_the_command() -> None:
    page = PAGE.read_text()
    assert page == with_table(page), "python -m tests.unit.doctor.test_capacity"


def measured(group: str, name: str) -> float:
    rows: list[dict[str, Any]] = json.loads((ROOT / "bench" / "results" / f"{group}.json").read_text())["rows"]
    [row] = [row for row in rows if row["name"] == name]
    values: list[float] = sorted(row["ours"])
    return values[len(values) // 2]


@pytest.mark.parametrize(
    ("figure", "measured_"),
    [
        (figures.DEDUPE_EVENT_BYTES, measured("memory", "memory")),
        (figures.REDIS_BATCH_US, measured("batch", "redis-cpu") + 1.2),
        (figures.FLUSH_ENTITY_US, measured("scale", "scale-100000")),
        (figures.ROW_US, 1e6 / measured("replica", "replica") + 15),
    ],
)
def test_a_figure_is_the_measured_one(figure: float, measured_: float) -> None:
    assert measured_ <= figure * 1.02
    assert figure <= measured_ * 1.1


def test_ids_are_remembered_for_two_windows() -> None:
    one_window = amounts(Load(1, 1, 1), TALLYD_DEDUPE__WINDOW_S="86400")["Redis, ids"]
    assert one_window == 2 * 86_400 * figures.DEDUPE_EVENT_BYTES


@pytest.mark.parametrize("field", ["events_per_second", "entities", "active", "peak", "outage_h", "years"])
def test_more_of_anything_never_takes_less(field: str) -> None:
    small, large = (Load(**{**dict.fromkeys(("entities", "active"), 1_000), "events_per_second": 10, field: amount})
                    for amount in (1_000, 5_000))  # fmt: skip
    before, after = amounts(small), amounts(large)
    assert all(after[what] >= before[what] for what in before)


def test_an_entity_has_one_document_a_bucket() -> None:
    disk = amounts(Load(100, 10, 10))["MongoDB, disk"] / (figures.DOCUMENT_BYTES + figures.DOCUMENT_INDEX_BYTES)
    # Totals, days, weeks, months and the year; a leap year has 366 days.
    assert disk == pytest.approx(10 * (1 + 366 + 366 / 7 + 366 / 31 + 1))


def test_old_days_that_expire_take_no_disk() -> None:
    load = Load(100, 1_000, 1_000)
    kept = amounts(load, TALLYD_RETENTION__DAILY_DAYS="30", TALLYD_RETENTION__WEEKLY_WEEKS="4")
    assert kept["MongoDB, disk"] < amounts(load)["MongoDB, disk"] / 5


def test_hours_take_disk_for_as_long_as_they_are_kept_and_no_more_than_events() -> None:
    hourly = {"TALLYD_DOMAINS": '{"jav": {"entity_types": ["movie"], "hourly": true}}'}

    def more(load: Load, **env: str) -> float:
        return amounts(load, **hourly, **env)["MongoDB, disk"] - amounts(load, **env)["MongoDB, disk"]

    a_document = figures.DOCUMENT_BYTES + figures.DOCUMENT_INDEX_BYTES
    assert more(Load(100, 10**6, 10**5)) == pytest.approx(8 * 24 * 10**5 * a_document)
    assert more(Load(1, 10**6, 10**5)) == pytest.approx(8 * 86_400 * a_document)
    assert more(Load(1, 10**6, 10**5), TALLYD_RETENTION__HOURLY_DAYS="2") == pytest.approx(2 * 86_400 * a_document)


def test_the_keys_that_are_too_small_are_named() -> None:
    assert not capacity(config(), Load(10, 1_000, 1_000)).settings
    named = capacity(config(), Load(20_000, 1_000_000, 1_000_000)).settings
    assert named["dedupe.events_per_window"] == str(20_000 * 172_800)
    assert {"http.workers", "spool.bytes_max"} <= named.keys()
    many = capacity(config(), Load(100_000, 1_000_000, 1_000_000)).settings
    shards = int(many["redis.shards"].partition(" ")[0])
    assert shards > 1
    assert int(many["dedupe.events_per_window"]) == 100_000 * 172_800, "of all shards together"


def test_batches_take_fewer_cores() -> None:
    alone, together = Load(30_000, 1_000, 1_000), Load(30_000, 1_000, 1_000, batches=True)
    assert amounts(together)["ingest workers"] < amounts(alone)["ingest workers"]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
