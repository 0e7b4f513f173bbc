"""The lines of a file of days: CSV with a header, or NDJSON. Plain functions that ask no store.

    entity,date,counter,amount                     {"entity": "jav:movie:ID", "date": "2026-02-19",
    jav:movie:ID,2026-02-19,view,120                "counter": "view", "amount": 120}

`entity` may be replaced by `domain`, `entity_type` and `entity_id`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import msgspec

from daemon.domain.admission import entity_id_problem
from daemon.domain.counter import parse_amount
from daemon.domain.entity import Entity, parse_entity
from daemon.domain.rollup import DAILY
from daemon.errors import ConfigError

AMOUNT_MAX = 10**15
"""The largest amount of a day. Sums over a lifetime then stay 64-bit integers."""
_ENTITY_FIELDS = ("domain", "entity_type", "entity_id")
_FIELDS = ("date", "counter", "amount")

Counters = Mapping[tuple[str, str], Collection[str]]
"""(domain, entity type) → the counters that have a column."""


class Day(NamedTuple):
    """The base that a day gets."""

    line: int
    entity: Entity
    date: str
    counter: str
    amount: int


class Wrong(NamedTuple):
    """A line that cannot be used, and why."""

    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.field}: {self.reason}"


Fields = Callable[[str], Mapping[str, Any]]
"""Turns a line into its fields. Raises ValueError with what is wrong."""


def reader(first: str) -> tuple[Fields, bool]:
    """How to read the lines of a file, and whether the first line is data (else it is the header).

    Raises ConfigError if the first line is neither NDJSON nor a header with the needed columns.
    """
    if first.lstrip().startswith("{"):
        return _json_fields, True
    names = [name.strip() for name in next(csv.reader([first]), [])]
    missing = [name for name in _FIELDS if name not in names]
    if "entity" not in names and not set(_ENTITY_FIELDS) <= set(names):
        missing.insert(0, "entity (or domain, entity_type and entity_id)")
    if missing:
        raise ConfigError(f"--daily: the first line is no JSON and no header with the columns {', '.join(missing)}.")

    def fields(line: str) -> Mapping[str, Any]:
        values = next(csv.reader([line], strict=True))
        if len(values) != len(names):
            raise ValueError(f"{len(values)} columns, the header has {len(names)}")
        return dict(zip(names, values, strict=True))

    return fields, False


def parse(number: int, line: bytes, fields: Fields, counters: Counters) -> Day | Wrong:
    """One line, checked against what is configured."""
    try:
        found = fields(line.decode().removesuffix("\r"))
    except (ValueError, csv.Error, RecursionError) as error:
        return Wrong(number, "line", str(error))
    entity = _entity(found)
    if entity is None or entity_id_problem(entity.id):
        return Wrong(number, "entity", "must name an entity, as jav:movie:ID")
    known = counters.get((entity.domain, entity.type))
    if known is None:
        return Wrong(number, "entity", f"{entity.domain}.{entity.type} is mapped to no table, so it has no base")
    date, counter, amount = found.get("date"), found.get("counter"), found.get("amount")
    if not isinstance(date, str) or DAILY.parse(date) is None:
        return Wrong(number, "date", "must be a day, as 2026-02-19")
    if not isinstance(counter, str) or counter not in known:
        return Wrong(number, "counter", f"must be one of {', '.join(known)}")
    amount = parse_amount(amount) if isinstance(amount, str) else amount
    if not isinstance(amount, int) or isinstance(amount, bool) or not 0 <= amount <= AMOUNT_MAX:
        return Wrong(number, "amount", f"must be a whole number from 0 to {AMOUNT_MAX}")
    return Day(number, entity, date, counter, amount)


def _json_fields(line: str) -> Mapping[str, Any]:
    found = msgspec.json.decode(line)
    if not isinstance(found, dict):
        raise ValueError("no JSON object")  # noqa: TRY004  (what is wrong is the line, like every other ValueError here)
    return found


def _entity(found: Mapping[str, Any]) -> Entity | None:
    if "entity" in found:
        return parse_entity(found["entity"]) if isinstance(found["entity"], str) else None
    parts = [found.get(name) for name in _ENTITY_FIELDS]
    texts = [str(part) for part in parts if type(part) in (str, int)]
    return Entity(*texts) if len(texts) == len(parts) else None
