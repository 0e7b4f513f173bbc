"""An export holds every document of a rollup, once, and reads back as it was in each format."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from tests.kit.proxy import Fault, Proxy
from tests.kit.system import TALLYD, System, event

ODD = 'a "quoted", comma\'d; ünïcode 片'


@pytest.fixture
def counted(system: System) -> System:
    """Views of three days in three months, an id that needs quoting, a download, and a base."""
    days = ("2026-01-31", "2026-02-01", "2026-03-01")
    system.count(*(event(entity_id=id_, occurred_at=f"{day}T00:00:00Z") for id_ in (ODD, "b") for day in days))
    system.count(event(entity_id="b", action="download", value=3), event(entity_type="actor", entity_id="b", value=9))
    system.flush()
    system.mongo["analytics_entity_totals"].update_one({"_id": "jav:movie:b"}, {"$set": {"base": {"view": 40}}})
    return system


def read_csv(content: bytes) -> list[dict[str, Any]]:
    rows = csv.DictReader(io.StringIO(content.decode(), newline=""))
    texts = ("domain", "entity_type", "entity_id")
    return [{name: value if name in texts else int(value) for name, value in row.items()} for row in rows]


READERS: dict[str, Callable[[bytes], list[dict[str, Any]]]] = {
    "csv": read_csv,
    "ndjson": lambda content: [json.loads(line) for line in content.splitlines()],
    "parquet": lambda content: parquet.read_table(io.BytesIO(content)).to_pylist(),
}


def export(system: System, *options: str, format_: str = "ndjson") -> list[dict[str, Any]]:
    file = system.scratch / "exported"
    system.tallyd("export", *options, "--format", format_, "--output", str(file))
    return READERS[format_](file.read_bytes())


def total(type_: str, id_: str, view: int, download: int = 0, base: int = 0) -> dict[str, Any]:
    return {
        "domain": "jav", "entity_type": type_, "entity_id": id_,
        "download": download, "view": view, "base.download": 0, "base.view": base,
    }  # fmt: skip


@pytest.mark.parametrize("format_", READERS)
def test_every_format_reads_back_as_the_totals(counted: System, format_: str) -> None:
    assert export(counted, "totals", format_=format_) == [
        total("actor", "b", 9), total("movie", ODD, 3), total("movie", "b", 43, 3, 40)
    ]  # fmt: skip


@pytest.mark.parametrize("format_", READERS)
def test_empty_stores_give_a_file_with_columns_and_no_rows(system: System, format_: str) -> None:
    assert export(system, "daily", format_=format_) == []


def test_a_selection_takes_the_buckets_that_hold_its_days(counted: System) -> None:
    movies = ("--type", "jav.movie", "--from", "2026-02-01", "--to", "2026-02-28")
    assert [row["date"] for row in export(counted, "daily", *movies)] == ["2026-02-01", "2026-02-01", "2026-02-19"]
    weekly = export(counted, "weekly", "--type", "jav.movie", "--from", "2026-02-01", "--to", "2026-02-01")
    assert {(row["week"], row["view"]) for row in weekly} == {("2026-W05", 2)}
    assert {row["month"] for row in export(counted, "monthly", "--to", "2026-01-01")} == {"2026-01"}
    assert len(export(counted, "yearly")) == 3


def test_a_spreadsheet_runs_no_id(system: System) -> None:
    ids = ['=HYPERLINK("http://evil.example","x")', "+1", "-1", "@SUM(A1)", "a=b"]
    system.count(*(event(entity_id=id_) for id_ in ids))
    system.flush()
    assert {row["entity_id"] for row in export(system, "totals")} == set(ids), "other formats are exact"
    in_csv = {row["entity_id"] for row in export(system, "totals", format_="csv")}
    assert in_csv == {f"'{id_}" for id_ in ids[:4]} | {"a=b"}


def test_standard_output_gets_the_rows_and_nothing_else(counted: System) -> None:
    done = counted.tallyd("export", "totals", "--format", "csv")
    assert read_csv(done.stdout.encode()) == export(counted, "totals")
    assert done.stderr == ""


def add_many(system: System) -> None:
    movie = {"domain": "jav", "entity_type": "movie"}
    many = [{"_id": f"jav:movie:x{n}", **movie, "entity_id": f"x{n}"} for n in range(20_000)]
    system.mongo["analytics_entity_totals"].insert_many(many)


def test_a_reader_that_has_seen_enough_ends_it_quietly(counted: System) -> None:
    add_many(counted)
    with subprocess.Popen(
        [*TALLYD, "export", "totals"],
        env={**os.environ, **counted.environ()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (0, b"")


def test_an_export_that_breaks_off_leaves_the_file_before_it(counted: System) -> None:
    add_many(counted)
    file = counted.scratch / "totals.csv"
    file.write_text("before")
    with Proxy(counted.env["TALLYD_MONGO__URL"], b"getMore", Fault.LOSE_REPLY).running() as proxy:
        env = {"MONGO__URL": proxy.url(), "MONGO__TIMEOUT_MS": "1000"}
        done = counted.tallyd("export", "totals", "--output", str(file), check=False, **env)
    assert done.returncode == 1
    assert done.stderr.startswith("tallyd: MongoDB at")
    assert file.read_text() == "before"
    assert [each.name for each in counted.scratch.iterdir()] == ["totals.csv"]


def test_parquet_without_pyarrow_ends_with_2_and_says_what_to_install(counted: System, tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError('hidden')")
    options = ("--format", "parquet", "--output", "x.parquet")
    done = counted.tallyd_apart("export", "totals", *options, check=False, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "tallyd[parquet]" in done.stderr
    assert not (counted.scratch / "x.parquet").exists()
