"""Validates one artifact: is it JSON, has each field its type, and do its numbers agree with each other?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from daemon.verify.report.artifact import OF_EVERY_PRODUCER, OF_TALLYD, Row
from daemon.verify.report.contents import Problem

_DATED = re.compile(r"(?:.*/)?(?:parity|rollback|drill)-(\d{4}-\d\d-\d\d)\.json\Z")


def validate(file: str, content: bytes, *, strict: bool) -> Iterator[Problem]:
    """`strict`: it must have all fields that tallyd writes. Otherwise those of every producer are enough."""
    try:
        found = msgspec.json.decode(content)
    except (ValueError, RecursionError) as error:
        yield Problem(file, "", f"is not JSON: {error}")
        return
    if not isinstance(found, dict):
        yield Problem(file, "", "is no JSON object")
        return
    kind = found.get("artifact_type")
    if not isinstance(kind, str) or kind not in OF_EVERY_PRODUCER:
        yield Problem(file, "artifact_type", f"must be one of {', '.join(OF_EVERY_PRODUCER)}")
        return
    problems = [*_fields(file, found, OF_TALLYD[_of_tallyd(kind, found)] if strict else OF_EVERY_PRODUCER[kind])]
    yield from problems
    if not problems:
        yield from _date(file, found)
        yield from _numbers(file, kind, found)


def _of_tallyd(kind: str, found: Mapping[str, Any]) -> str:
    """Which of tallyd's artifacts it is."""
    if kind == "rollback" and "steps" in found:
        return "drill"
    return "check" if kind == "parity" and isinstance(found.get("pending"), int) else kind


def _fields(file: str, found: Mapping[str, Any], kind: type[Struct]) -> Iterator[Problem]:
    for field in msgspec.structs.fields(kind):
        if field.name not in found:
            yield Problem(file, field.name, "is missing")
        elif field.name == "rows" and isinstance(found["rows"], list):
            for number, row in enumerate(found["rows"]):
                yield from _row(file, f"rows[{number}]", row)
        else:
            yield from _typed(file, field.name, found[field.name], field.type)
    if kind in OF_TALLYD.values():
        for name in sorted(found.keys() - {field.name for field in msgspec.structs.fields(kind)}):
            yield Problem(file, name, "is no field of the schema")


def _typed(file: str, name: str, value: Any, kind: Any) -> Iterator[Problem]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        yield Problem(file, name + path.rstrip("`"), message)


def _row(file: str, name: str, row: Any) -> Iterator[Problem]:
    problems = [*_typed(file, name, row, Row)]
    yield from problems
    if problems:
        return
    if "code" not in row:
        yield Problem(file, f"{name}.code", "is missing")
    for field, value in row.items():
        store, _, column = field.partition("_")
        if store in ("mysql", "mongo"):
            other = f"{'mongo' if store == 'mysql' else 'mysql'}_{column}"
            if not isinstance(value, int):
                yield Problem(file, f"{name}.{field}", "Expected `int`")
            if other not in row:
                yield Problem(file, f"{name}.{other}", f"is missing; {field} is there")


def _date(file: str, found: Mapping[str, Any]) -> Iterator[Problem]:
    named = _DATED.match(file)
    if named and found.get("artifact_date", named[1]) != named[1]:
        yield Problem(file, "artifact_date", f"is {found.get('artifact_date')}, the file is of {named[1]}")
    day = found.get("day")
    if isinstance(day, dict) and day.get("date") != found.get("artifact_date"):
        yield Problem(file, "day.date", f"is {day.get('date')}, the artifact is of {found.get('artifact_date')}")


def _numbers(file: str, kind: str, found: Mapping[str, Any]) -> Iterator[Problem]:
    if kind == "parity":
        differing = sum(
            any(row[f"mongo_{name[6:]}"] != value for name, value in row.items() if name.startswith("mysql_"))
            for row in found["rows"]
        )
        if found["mismatches"] != differing:
            yield Problem(file, "mismatches", f"is {found['mismatches']}, but {differing} of the rows differ")
        if found["checked"] < len(found["rows"]):
            yield Problem(file, "checked", f"is {found['checked']}, but there are {len(found['rows'])} rows")
        types = found.get("types")
        if isinstance(types, list) and all(isinstance(each, dict) for each in types):  # else of another producer
            for name in ("checked", "mismatches"):
                sum_ = sum(count for each in types if isinstance(count := each.get(name), int))
                if found[name] != sum_:
                    yield Problem(file, name, f"is {found[name]}, but the types have {sum_}")
    if kind == "rollback" and "mysql_equals_mongo" in found:
        if found["mysql_equals_mongo"] != (found.get("mismatches") == 0):
            yield Problem(file, "mysql_equals_mongo", f"disagrees with mismatches {found.get('mismatches')}")
        if found.get("safe") and not found["mysql_equals_mongo"]:
            yield Problem(file, "safe", "is true, but MySQL does not equal MongoDB")
