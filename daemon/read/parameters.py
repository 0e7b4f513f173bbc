"""The parameters of a read: parsed, bounded, and every wrong one named in the words of a 422."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from typing import TypeVar
from urllib.parse import parse_qsl

from daemon.domain.entity import CONTROL_CHARACTER, ENTITY_ID_CHARS_MAX

FIELDS_MAX = 1_000
"""Parameters of one query, names repeated."""

_ON, _OFF = ("1", "true"), ("0", "false")

T = TypeVar("T", bound=str)


class Parameters:
    """One query string. Each method takes one parameter out of it; what is wrong collects in `errors`, and what is left
    in the end is unknown (`reject_unknown`)."""

    def __init__(self, query: str) -> None:
        self.errors: dict[str, list[str]] = {}
        self._values: dict[str, list[str]] = {}
        try:
            pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX)
        except ValueError:  # bytes that are no text, or too many of them
            self.errors["query"] = [f"The query must be UTF-8, with at most {FIELDS_MAX} parameters."]
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
        self.wrong(name, f"The selected {name} is invalid. It must be one of: {', '.join(allowed)}.")
        return default

    def integer(self, name: str, lowest: int, highest: int, default: int) -> int:
        value = self._one(name)
        if value is None:
            return default
        if value.isascii() and value.isdecimal() and len(value) < 10 and lowest <= int(value) <= highest:
            return int(value)
        self.wrong(name, f"The {name} field must be an integer between {lowest} and {highest}.")
        return default

    def flag(self, name: str) -> bool:
        value = self._one(name)
        if value is not None and value not in (*_ON, *_OFF):
            self.wrong(name, f"The {name} field must be 1 or 0.")
        return value in _ON

    def day(self, name: str, default: dt.date) -> dt.date:
        value = self._one(name)
        if value is None:
            return default
        try:
            day = dt.date.fromisoformat(value)
            if day.isoformat() == value:  # it takes 20260219 and 2026-W08-4, too
                return day
        except ValueError:
            pass
        self.wrong(name, f"The {name} field must be a UTC day such as 2026-02-19.")
        return default

    def entity_ids(self, listed: str, repeated: str, most: int) -> list[str]:
        """The ids of `listed`, separated by commas, and of each `repeated`, which may hold commas themselves."""
        ids = [id_ for value in self._values.pop(listed, []) for id_ in value.split(",")]
        ids += self._values.pop(repeated, [])
        if len(ids) > most:
            self.wrong(listed, f"The {listed} field must not name more than {most} entities.")
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

    def reject_unknown(self, known: Collection[str]) -> None:
        """Call last: a parameter nobody took is a mistake, and no reason to answer something else."""
        for name in self._values:
            self.wrong(name, f"There is no such parameter; there are: {', '.join(known) or 'none'}.")

    def _one(self, name: str) -> str | None:
        values = self._values.pop(name, None)
        if values is None:
            return None
        if len(values) > 1:
            self.wrong(name, f"The {name} field must be given once.")
        return values[0]


def entity_id_problem(id_: str) -> str | None:
    """What is wrong with an entity id, in the words ingest uses."""
    if not id_:
        return "The entity id field is required."
    if len(id_) > ENTITY_ID_CHARS_MAX:
        return f"The entity id field must not be greater than {ENTITY_ID_CHARS_MAX} characters."
    if CONTROL_CHARACTER.search(id_):
        return "The entity id field must not contain control characters."
    return None
