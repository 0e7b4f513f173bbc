"""The parameters of a read: parsed, bounded, and every wrong one named. The texts are in `domain/rejection.py`."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from daemon.domain import rejection
from daemon.domain.admission import entity_id_problem
from daemon.domain.entity import ENTITY_ID_CHARS_MAX

Json = dict[str, Any]

ENTITY_ID: Json = {
    "type": "string",
    "minLength": 1,
    "maxLength": ENTITY_ID_CHARS_MAX,
    "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$",
}
"""An entity's id for OpenAPI, which knows no pattern of Python's."""
FIELDS_MAX = 1_000
"""Parameters of one query, names repeated."""

_ON, _OFF = ("1", "true"), ("0", "false")
_is_integer = re.compile(r"-?[0-9]+\Z").match

T = TypeVar("T", bound=str)


class Parameters:
    """One query string. Each method takes one parameter out of it, and notes in `errors` what is wrong with it. The
    parameters that are left in the end are unknown (`reject_unknown`)."""

    def __init__(self, query: str) -> None:
        self.errors: dict[str, list[str]] = {}
        self._taken: list[str] = []
        self._values: dict[str, list[str]] = {}
        try:
            pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX)
        except ValueError:  # bytes that are no text, or too many of them
            self.errors["query"] = [rejection.unreadable_query(FIELDS_MAX)]
            return
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def choice(self, name: str, allowed: Sequence[T], default: T) -> T:
        value = self._one(name)
        if value is None:
            return default
        for each in allowed:
            if value == each:
                return each
        self.wrong(name, rejection.not_selected(name, allowed))
        return default

    def number(self, name: str, allowed: Sequence[int], default: int) -> int:
        """A choice among integers."""
        return int(self.choice(name, [*map(str, allowed)], str(default)))

    def integer(self, name: str, lowest: int, highest: int, default: int) -> int:
        value = self._one(name)
        if value is None:
            return default
        if not _is_integer(value):
            self.wrong(name, rejection.no_integer(name))
        elif len(value) < 10 and lowest <= int(value) <= highest:
            return int(value)
        else:
            self.wrong(name, rejection.not_between(name, [(lowest, highest)]))
        return default

    def flag(self, name: str) -> bool:
        value = self._one(name)
        if value is not None and value not in (*_ON, *_OFF):
            self.wrong(name, rejection.no_flag(name))
        return value in _ON

    def day(self, name: str) -> dt.date | None:
        value = self._one(name)
        if value is None:
            return None
        try:
            day = dt.date.fromisoformat(value)
            if day.isoformat() == value:  # it takes 20260219 and 2026-W08-4, too
                return day
        except ValueError:
            pass
        self.wrong(name, rejection.no_day(name))
        return None

    def entity_ids(self, listed: str, repeated: str, most: int) -> list[str]:
        """The ids of `listed`, separated by commas, and of each `repeated`, which may hold commas themselves."""
        self._taken += [listed, repeated]
        ids = [id_ for value in self._values.pop(listed, []) for id_ in value.split(",")]
        ids += self._values.pop(repeated, [])
        if len(ids) > most:
            self.wrong(listed, rejection.too_many_items(listed, most))
        problem = next(filter(None, map(entity_id_problem, ids)), None)
        if problem:
            self.wrong(listed, problem)
        return list(dict.fromkeys(ids))

    def check_entity_id(self, id_: str) -> None:
        """Of the path; an error is named `id`."""
        problem = entity_id_problem(id_)
        if problem:
            self.wrong("id", problem)

    def wrong(self, name: str, text: str) -> None:
        self.errors.setdefault(name, []).append(text)

    def reject_unknown(self) -> None:
        """Call last: a parameter nobody took is a mistake, and no reason to answer something else."""
        for name in self._values:
            self.wrong(name, rejection.unknown_parameter(self._taken))

    def _one(self, name: str) -> str | None:
        self._taken.append(name)
        values = self._values.pop(name, None)
        if values is None:
            return None
        if len(values) > 1:
            self.wrong(name, rejection.repeated(name))
        return values[0]


class Description(Parameters):
    """Takes every parameter as absent, and describes it as OpenAPI does (`described`)."""

    def __init__(self) -> None:
        super().__init__("")
        self.described: list[Json] = []

    def choice(self, name: str, allowed: Sequence[T], default: T) -> T:
        self._describe(name, {"enum": [*allowed]})
        return default

    def number(self, name: str, allowed: Sequence[int], default: int) -> int:
        self._describe(name, {"enum": [*allowed]})
        return default

    def integer(self, name: str, lowest: int, highest: int, default: int) -> int:
        self._describe(name, {"type": "integer", "minimum": lowest, "maximum": highest})
        return default

    def flag(self, name: str) -> bool:
        self._describe(name, {"enum": ["0", "1", "true", "false"]})
        return False

    def day(self, name: str) -> dt.date | None:
        self._describe(name, {"type": "string", "format": "date"})
        return None

    def entity_ids(self, listed: str, repeated: str, most: int) -> list[str]:
        of = {"type": "array", "minItems": 1, "maxItems": most}
        comma_free = {**ENTITY_ID, "pattern": ENTITY_ID["pattern"].replace("]", ",]")}
        self._describe(listed, {**of, "items": comma_free}, style="form", explode=False)
        self._describe(repeated, {**of, "items": ENTITY_ID}, style="form", explode=True)
        return []

    def _describe(self, name: str, schema: Json, **more: object) -> None:
        self.described.append({"name": name, "in": "query", "schema": schema, **more})

    def _one(self, name: str) -> str | None:
        raise NotImplementedError(f"{name}: a kind of parameter that is not described")
