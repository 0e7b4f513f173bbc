"""What `report verify` finds in files nobody has vouched for: each thing that is wrong is named, by file and field."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from daemon.domain.rollup import DAILY, MONTHLY, TOTALS, WEEKLY, YEARLY
from daemon.files import FileError
from daemon.verify.parity import Tally
from daemon.verify.report import archive, contents
from daemon.verify.report.artifact import (
    SCHEMA_VERSION,
    Agreement,
    CheckArtifact,
    Day,
    DrillArtifact,
    ParityArtifact,
    RollbackArtifact,
    Step,
    Waiting,
    instant,
    schema,
)
from daemon.verify.report.day import within
from daemon.verify.report.verify import verify_archive, verify_folder

NOW = dt.datetime(2026, 2, 19, 10, tzinfo=dt.UTC)
AT = instant(NOW)
SCHEMA_V1_SHA256 = "152d7fffb9806e2426fc876dad9a2cf405dcc0e381e81c76b418203633354ffa"
"""Of the schema without its descriptions."""
PARITY = "parity/parity-2026-02-19.json"
ROLLBACK = "rollback/rollback-2026-02-19.json"
DRILL = "rollback/drill-2026-02-19.json"
NOTHING = Waiting({}, {}, 0, 0, 0, 0, 0)
ROW: dict[str, str | int | None] = {
    "code": "M1", "key": "m1", "entity_type": "jav.movie",
    "mysql_views": 5, "mysql_downloads": 0, "mongo_views": 4, "mongo_downloads": 0,
}  # fmt: skip
V1 = {
    "schema_version": "analytics-artifact.v1",
    "artifact_type": "parity",
    "artifact_date": "2026-02-19",
    "generated_at": "2026-02-19T17:00:00+07:00",
    "limit": 100,
    "checked": 100,
    "mismatches": 1,
    "rows": [{name: ROW[name] for name in ROW if name not in ("key", "entity_type")}],
}
ROLLBACK_V1 = {
    "schema_version": "analytics-artifact.v1",
    "artifact_type": "rollback",
    "generated_at": "2026-02-19T17:00:00+07:00",
    "ingest_route_present": True,
    "legacy_movie_view_route_present": False,
    "notes": ["The event route is in use.", "The old route should stay absent."],
}
"""Both as the replaced application writes them: these fields and no other, not even a date in the second."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A report as tallyd writes it, with one mismatch."""
    parity = ParityArtifact(
        schema_version=SCHEMA_VERSION, artifact_type="parity", artifact_date=NOW.date(), generated_at=AT, limit=10,
        checked=10, mismatches=1, rows=[ROW], types=[Tally("jav.movie", "jav", "views", checked=10, mismatches=1)],
        pending=NOTHING, day=Day(NOW.date(), {"view": 4}, {}, {}, False, Agreement(1, 0, [])),
    )  # fmt: skip
    rollback = RollbackArtifact(
        schema_version=SCHEMA_VERSION, artifact_type="rollback", artifact_date=NOW.date(), generated_at=AT,
        ingest_route_present=False, legacy_movie_view_route_present=False, notes=["nobody answers"], enabled=True,
        pending=NOTHING, checked=10, mismatches=1, mysql_equals_mongo=False, safe=False,
    )  # fmt: skip
    drill = DrillArtifact(
        schema_version=SCHEMA_VERSION, artifact_type="rollback", artifact_date=NOW.date(), generated_at=AT,
        ingest_route_present=True, legacy_movie_view_route_present=False, notes=["it broke off"],
        steps=[Step("Events over HTTP", "0 events accepted", ok=False)],
    )  # fmt: skip
    report = tmp_path / "report"
    artifacts = {PARITY: parity, ROLLBACK: rollback, DRILL: drill}
    written = {name: archive.write(report, name, artifact) for name, artifact in artifacts.items()}
    archive.update_manifest(report, written, NOW)
    archive.pack(report, written, NOW)
    return report


@pytest.fixture
def packed(folder: Path) -> Path:
    return folder / "archive/evidence-20260219_100000.zip"


def problems(folder: Path, *, strict: bool = True) -> list[tuple[str, str, str]]:
    return [tuple(problem) for problem in verify_folder(folder, strict=strict).problems]


def edit(path: Path, **fields: Any) -> None:
    """Changes fields of a JSON file; `...` takes one away."""
    found = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in found.items() if value is not ...}))


def without_manifest(folder: Path) -> Path:
    (folder / "manifest.sums").unlink()
    (folder / "archive/evidence-20260219_100000.zip").unlink()
    return folder


def test_what_tallyd_writes_is_in_order(folder: Path) -> None:
    verdict = verify_folder(folder, strict=True)
    assert (verdict.files, verdict.problems) == (8, [])


def without_prose(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: without_prose(value) for key, value in found.items() if key != "description"}
    return [without_prose(each) for each in found] if isinstance(found, list) else found


def test_version_1_of_the_schema_means_what_it_always_meant() -> None:
    meaning = json.dumps(without_prose(json.loads(schema())), sort_keys=True)
    assert hashlib.sha256(meaning.encode()).hexdigest() == SCHEMA_V1_SHA256, "other fields need another version"


def test_what_tallyd_writes_is_valid_by_the_schema(folder: Path) -> None:
    validator = jsonschema_rs.validator_for(json.loads(schema()))
    for name in (PARITY, ROLLBACK, DRILL, "manifest.sums"):
        artifact = json.loads((folder / name).read_text())
        validator.validate(artifact)
        assert not validator.is_valid({**artifact, "artifact_type": "other"})
    assert validator.is_valid(V1)


# Artifacts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [{}, {"producer": "other", "types": "?", "day": 3}])
def test_an_artifact_of_another_producer_passes_but_not_if_all_of_ours_is_asked_for(
    tmp_path: Path, extra: dict[str, Any]
) -> None:
    (tmp_path / "parity").mkdir()
    (tmp_path / PARITY).write_text(json.dumps(V1 | extra))
    assert problems(tmp_path, strict=False) == []
    found = {(file, field) for file, field, _ in problems(tmp_path)}
    assert {(PARITY, "types"), (PARITY, "day"), (PARITY, "pending"), ("manifest.sums", "")} <= found


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A report of the replaced application: the same folders, no manifest, and a zip without one."""
    report = tmp_path / "theirs"
    for name, artifact in ((PARITY, V1), (ROLLBACK, ROLLBACK_V1)):
        (report / name).parent.mkdir(parents=True)
        (report / name).write_text(json.dumps(artifact, indent=4))
    (report / "archive").mkdir()
    with zipfile.ZipFile(report / "archive/evidence-20260219_170000.zip", "w") as packed:
        for name in (PARITY, ROLLBACK):
            packed.write(report / name, name)
    return report


def test_a_report_of_the_replaced_application_is_in_order(theirs: Path) -> None:
    verdict = verify_folder(theirs, strict=False)
    assert (verdict.files, verdict.problems) == (4, [])
    assert problems(theirs)


@pytest.mark.parametrize("text", ["2026-02-19 17:00", "Thursday", ""])
def test_its_artifacts_may_say_in_any_words_when_they_were_made(theirs: Path, text: str) -> None:
    edit(theirs / PARITY, generated_at=text)
    edit(theirs / ROLLBACK, generated_at=text)
    assert problems(theirs, strict=False) == []


@pytest.mark.parametrize(
    "fields", [{"ingest_route_present": None}, {"notes": "all is well"}, {"generated_at": ...}, {"notes": [1]}]
)
def test_what_its_own_verifier_refuses_is_refused_here(theirs: Path, fields: dict[str, Any]) -> None:
    edit(theirs / ROLLBACK, **fields)
    assert [(file, field.partition("[")[0]) for file, field, _ in problems(theirs, strict=False)] == [
        (ROLLBACK, *fields)
    ]


def refused_by_its_verifier(folder: Path) -> set[str]:
    """Each `.json` below the folder that the replaced application's verifier refuses. It leaves dot files out."""
    fields = {
        "parity": {"artifact_date": str, "limit": int, "checked": int, "mismatches": int, "rows": list},
        "rollback": {"ingest_route_present": bool, "legacy_movie_view_route_present": bool, "notes": list},
    }
    refused = set()
    for path in folder.rglob("[!.]*.json"):
        found = json.loads(path.read_text())
        wanted = fields.get(found["artifact_type"], {"artifact_type": None}) | {"generated_at": str}
        if found["schema_version"] != SCHEMA_VERSION or any(type(found[name]) is not wanted[name] for name in wanted):
            refused.add(path.name)
    return refused


def test_what_tallyd_writes_is_in_order_for_the_verifier_of_the_replaced_application(
    folder: Path, packed: Path, tmp_path: Path
) -> None:
    assert refused_by_its_verifier(folder) == set()
    with zipfile.ZipFile(packed) as opened:
        opened.extractall(tmp_path / "unpacked")
    assert len([*(tmp_path / "unpacked").rglob("*.json")]) == 3
    assert refused_by_its_verifier(tmp_path / "unpacked") == set()
    edit(folder / ROLLBACK, notes="a text")
    assert refused_by_its_verifier(folder) == {Path(ROLLBACK).name}


def test_what_a_parity_check_writes_is_an_artifact_of_its_own(tmp_path: Path) -> None:
    check = CheckArtifact(
        schema_version=SCHEMA_VERSION, artifact_type="parity", artifact_date=NOW.date(), generated_at=AT,
        limit=0, checked=10, mismatches=1, rows=[ROW], types=[Tally("jav.movie", "jav", "views", 10, 1)], pending=0,
    )  # fmt: skip
    archive.update_manifest(tmp_path, {PARITY: archive.write(tmp_path, PARITY, check)}, NOW)
    assert problems(tmp_path) == []
    assert refused_by_its_verifier(tmp_path) == set()
    jsonschema_rs.validator_for(json.loads(schema())).validate(json.loads((tmp_path / PARITY).read_text()))
    edit(tmp_path / PARITY, types=...)
    assert (PARITY, "types", "is missing") in problems(tmp_path)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"checked": ...}, "checked", "is missing"),
        ({"checked": "10"}, "checked", "Expected `int`, got `str`"),
        ({"checked": -1}, "checked", "Expected `int` >= 0"),
        ({"rows": 3}, "rows", "Expected `array`, got `int`"),
        ({"rows": [ROW | {"mysql_views": "5"}]}, "rows[0].mysql_views", "Expected `int`"),
        ({"rows": [ROW, 7]}, "rows[1]", "Expected `object`, got `int`"),
        ({"rows": [{"code": "M1", "mysql_views": 1}]}, "rows[0].mongo_views", "is missing; mysql_views is there"),
        ({"rows": [{"mysql_views": 1, "mongo_views": 2}]}, "rows[0].code", "is missing"),
        ({"mismatches": 2}, "mismatches", "is 2, but 1 of the rows differ"),
        ({"rows": []}, "mismatches", "is 1, but 0 of the rows differ"),
        ({"checked": 0}, "checked", "is 0, but there are 1 rows"),
        ({"checked": 11}, "checked", "is 11, but the types have 10"),
        ({"schema_version": "v2"}, "schema_version", "Invalid enum value 'v2'"),
        ({"artifact_type": "other"}, "artifact_type", "must be one of parity, rollback, manifest"),
        ({"artifact_date": "2026-02-18"}, "artifact_date", "is 2026-02-18, the file is of 2026-02-19"),
        ({"generated_at": 1}, "generated_at", "Expected `str`, got `int`"),
    ],
)
def test_each_wrong_field_is_named(folder: Path, fields: dict[str, Any], field: str, message: str) -> None:
    edit(without_manifest(folder) / PARITY, **fields)
    assert (PARITY, field, message) in problems(folder, strict=False)


def test_all_wrong_fields_are_named_at_once(folder: Path) -> None:
    edit(without_manifest(folder) / PARITY, checked=..., limit="x", day={"date": 1}, surplus=1)
    assert {field for _, field, _ in problems(folder)} == {"checked", "limit", "day.date", "surplus", ""}


@pytest.mark.parametrize(
    ("name", "fields", "named"),
    [
        (ROLLBACK, {"mysql_equals_mongo": True}, {"mysql_equals_mongo"}),
        (ROLLBACK, {"safe": True}, {"safe"}),
        (ROLLBACK, {"notes": 1}, {"notes"}),
        (DRILL, {"steps": [{"step": "flush --once"}]}, {"steps[0]"}),
        (DRILL, {"enabled": True}, {"enabled"}),
        (DRILL, {"artifact_date": "2026-02-18"}, {"artifact_date"}),
    ],
)
def test_what_is_wrong_with_a_rollback_or_a_drill_is_named(
    folder: Path, name: str, fields: dict[str, Any], named: set[str]
) -> None:
    edit(without_manifest(folder) / name, **fields)
    assert {field for file, field, _ in problems(folder) if file == name} == named


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff", "[" * 100_000, '{"artifact_type": ["parity"]}'])
def test_what_is_no_artifact_is_named(folder: Path, text: str) -> None:
    (without_manifest(folder) / PARITY).write_bytes(text.encode("latin-1"))
    assert {file for file, _, _ in problems(folder, strict=False)} == {PARITY}


def test_an_empty_folder_holds_no_artifact(tmp_path: Path) -> None:
    assert [message for _, _, message in problems(tmp_path, strict=False)] == ["holds no artifact"]


# Manifest ---------------------------------------------------------------------------------------------------------


def test_a_file_changed_added_or_missing_is_named(folder: Path) -> None:
    edit(folder / ROLLBACK, notes=["all is well"])
    (folder / "parity/parity-2026-02-18.json").write_text(json.dumps(V1 | {"artifact_date": "2026-02-18"}))
    (folder / PARITY).unlink()
    assert problems(folder, strict=False) == [
        (PARITY, "", "is missing; the manifest names it"),
        (ROLLBACK, "", "was changed: its SHA-256 is not the manifest's"),
        ("parity/parity-2026-02-18.json", "", "was added: the manifest does not name it"),
    ]


def test_a_later_report_does_not_vouch_for_a_file_that_was_changed_before(folder: Path) -> None:
    edit(folder / ROLLBACK, notes=["all is well"])
    archive.update_manifest(folder, {PARITY: archive.sum_of((folder / PARITY).read_bytes())}, NOW)
    assert [file for file, _, _ in problems(folder)] == [ROLLBACK]


def test_a_manifest_under_its_name_of_before_holds_and_the_next_report_renames_it(folder: Path) -> None:
    (folder / "manifest.sums").rename(folder / "manifest.json")
    edit(folder / ROLLBACK, notes=["all is well"])
    changed = [(ROLLBACK, "", "was changed: its SHA-256 is not the manifest's")]
    assert problems(folder) == changed
    archive.update_manifest(folder, {PARITY: archive.sum_of((folder / PARITY).read_bytes())}, NOW)
    assert not (folder / "manifest.json").exists()
    assert problems(folder) == changed


def test_a_manifest_that_may_not_be_read_is_not_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a report that root wrote by hand: its sums are the evidence of earlier days."""
    before = (folder / "manifest.sums").read_text()

    def denied(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", denied)
        with pytest.raises(FileError, match="Permission denied"):
            archive.update_manifest(folder, {}, NOW)
    assert (folder / "manifest.sums").read_text() == before


def test_a_symbolic_link_in_the_folder_is_named(folder: Path) -> None:
    (folder / PARITY).rename(folder / "elsewhere.json")
    (folder / PARITY).symlink_to(folder / "elsewhere.json")
    assert problems(folder) == [(PARITY, "", "is no regular file")]


# Archives ---------------------------------------------------------------------------------------------------------


def with_entry(packed: Path, name: str, content: bytes = b"{}", mode: int = 0o644) -> None:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    with zipfile.ZipFile(packed, "a") as opened:
        opened.writestr(entry, content, zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("../out.json", 0o644, "has a path that climbs out"),
        ("parity/../../out.json", 0o644, "has a path that climbs out"),
        ("/etc/out.json", 0o644, "has an absolute path"),
        ("C:/out.json", 0o644, "has an absolute path"),
        ("..\\out.json", 0o644, "has an invalid name"),
        ("parity/link.json", 0o120777, "is a symbolic link or another special file"),
    ],
)
def test_an_entry_that_would_leave_the_folder_is_named(packed: Path, name: str, mode: int, message: str) -> None:
    with_entry(packed, name, mode=mode)
    found = [tuple(problem) for problem in verify_archive(packed, strict=True).problems]
    assert found == [(name, "", message)]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_is_there_twice_is_named(packed: Path) -> None:
    with_entry(packed, PARITY)
    assert (PARITY, "", "is there twice") in verify_archive(packed, strict=True).problems


def test_a_list_of_entries_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "long.zip"
    with zipfile.ZipFile(packed, "w") as opened:
        for number in range(20):
            opened.writestr(f"{number:0200d}", b"")
    monkeypatch.setattr(contents, "DIRECTORY_BYTES_MAX", 4_000)
    monkeypatch.setattr(zipfile, "ZipInfo", None)  # no entry may be made
    assert [message for _, _, message in verify_archive(packed, strict=True).problems] == [
        "cannot be read as a zip: its list of entries is larger than 4,000 bytes"
    ]


def test_a_zip_bomb_is_not_unpacked(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_entry(packed, "parity/bomb.json", b" " * 1_000_000)
    assert verify_archive(packed, strict=True).problems == [
        ("parity/bomb.json", "", "unpacks to more than 100 times its size")
    ]
    monkeypatch.setattr(contents, "TOTAL_BYTES_MAX", 1_000_000)
    monkeypatch.setattr(zipfile.ZipFile, "open", None)  # nothing may be unpacked from here on
    assert [message for _, _, message in verify_archive(packed, strict=True).problems] == [
        "unpacks to more than 1,000,000 bytes"
    ]


def test_an_entry_that_claims_less_than_it_holds_is_named(packed: Path) -> None:
    """The size in the directory of the zip is what the limits are judged by."""
    with zipfile.ZipFile(packed) as opened:
        size = opened.getinfo(PARITY).file_size
    data = packed.read_bytes()
    directory = data.index(b"PK\x01\x02")
    at = data.index(PARITY.encode(), directory) - 46 + 24
    assert int.from_bytes(data[at : at + 4], "little") == size
    packed.write_bytes(data[:at] + (10).to_bytes(4, "little") + data[at + 4 :])
    assert [file for file, _, message in verify_archive(packed, strict=True).problems if "unpacked" in message] == [
        PARITY
    ]


def truncated(data: bytes) -> bytes:
    return data[:-100]


def flipped(data: bytes) -> bytes:
    at = data.index(b"PK\x01\x02") - 20  # in the last entry's packed bytes
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


@pytest.mark.parametrize("damage", [truncated, flipped, lambda _: b"", lambda _: b"PK"])
def test_a_damaged_archive_is_named(packed: Path, damage: Callable[[bytes], bytes]) -> None:
    packed.write_bytes(damage(packed.read_bytes()))
    assert verify_archive(packed, strict=True).problems


def test_an_archive_without_manifest_is_named(packed: Path) -> None:
    with zipfile.ZipFile(packed) as opened:
        kept = {name: opened.read(name) for name in opened.namelist() if name != "manifest.sums"}
    with zipfile.ZipFile(packed, "w") as opened:
        for name, content in kept.items():
            opened.writestr(name, content)
    assert verify_archive(packed, strict=False).problems == [("manifest.sums", "", "is missing")]


def test_an_archive_in_a_folder_is_verified_with_it(folder: Path, packed: Path) -> None:
    with_entry(packed, "parity/more.json")
    assert "archive/evidence-20260219_100000.zip: parity/more.json" in {file for file, _, _ in problems(folder)}


# Which bucket lies in which ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "week_in_month", "week_in_year"),
    [("2026-02-19", True, True), ("2026-03-01", False, True), ("2026-01-01", False, False)],
)
def test_a_week_is_compared_only_with_the_month_and_year_it_wholly_lies_in(
    day: str, week_in_month: bool, week_in_year: bool
) -> None:
    pairs = [*within(dt.date.fromisoformat(day))]
    assert ((WEEKLY, MONTHLY) in pairs, (WEEKLY, YEARLY) in pairs) == (week_in_month, week_in_year)
    assert {(DAILY, WEEKLY), (DAILY, MONTHLY), (MONTHLY, YEARLY), (YEARLY, TOTALS)} <= {*pairs}
