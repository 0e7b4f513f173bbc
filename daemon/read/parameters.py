"""The parameters of a read: parsed, bounded, described for OpenAPI, and every wrong one named."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from daemon.domain import rejection
from daemon.domain.admission import entity_id_problem
from daemon.domain.entity import CONTROL_CHARACTER, ENTITY_ID_CHARS_MAX
from daemon.domain.event import EntityId
from daemon.domain.rejection import say, say_allowed, say_ranges

Json = dict[str, Any]
FIELDS_MAX = 600
"""Parameters of one query, names repeated: more than `read.ids_max` can be."""
UNKNOWN_MAX = 8
"""Unknown parameters that are named in the answer. Others are only counted."""
UNKNOWN_CHARS_MAX = 32
"""Characters of such a name that are repeated."""
ENTITY_ID = msgspec.json.schema(EntityId)
"""An entity's id, for OpenAPI."""
_COMMA_FREE = {**ENTITY_ID, "pattern": ENTITY_ID["pattern"].replace("]", ",]")}
_ON, _OFF = ("1", "true"), ("0", "false")
_is_integer = re.compile(r"-?[0-9]+\Z").match

T = TypeVar("T", bound=str)


class Parameters:
    """One query string. Each method takes one parameter out of it, and notes in `errors` what is wrong with it. The
    parameters that are left in the end are unknown (`reject_unknown`)."""

    def __init__(self, query: str) -> None:
        self.errors: dict[str, list[str]] = {}
        self.described: dict[str, Json] = {}
        """Name of each parameter that was taken → how OpenAPI describes it."""
        self.required: set[str] = set()
        """Those of them that must be given."""
        self._values: dict[str, list[str]] = {}
        try:
            pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX)
        except ValueError:  # bytes that are no text, or too many of them
            self.errors["query"] = [say(rejection.NO_QUERY, most=FIELDS_MAX)]
            return
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def choice(self, name: str, allowed: Sequence[T], default: T) -> T:
        value = self._one(name, {"enum": [*allowed]})
        if value is None:
            return default
        for each in allowed:
            if value == each:
                return each
        self.wrong(name, say_allowed(name, allowed))
        return default

    def number(self, name: str, allowed: Sequence[int], default: int) -> int:
        """A choice among integers."""
        chosen = self.choice(name, [*map(str, allowed)], str(default))
        self.described[name] = {"schema": {"enum": [*allowed]}}
        return int(chosen)

    def integer(self, name: str, lowest: int, highest: int, default: int) -> int:
        value = self._one(name, {"type": "integer", "minimum": lowest, "maximum": highest})
        if value is None:
            return default
        if not _is_integer(value):
            self.wrong(name, say(rejection.NO_INTEGER, name))
        elif len(value) < 10 and lowest <= int(value) <= highest:
            return int(value)
        else:
            self.wrong(name, say_ranges(name, [(lowest, highest)]))
        return default

    def flag(self, name: str, default: bool = False) -> bool:  # noqa: FBT001, FBT002  (read as `flag("top", True)`)
        value = self._one(name, {"enum": ["0", "1", "true", "false"]})
        if value is not None and value not in (*_ON, *_OFF):
            self.wrong(name, say(rejection.NO_FLAG, name))
        return default if value is None else value in _ON

    def text(self, name: str) -> str:
        """A text that must be given. It may be what an entity's id may be."""
        value = self._one(name, ENTITY_ID)
        self.required.add(name)
        if not value:
            self.wrong(name, say(rejection.REQUIRED, name))
        elif len(value) > ENTITY_ID_CHARS_MAX:
            self.wrong(name, say(rejection.TOO_LONG, name, most=ENTITY_ID_CHARS_MAX))
        elif CONTROL_CHARACTER.search(value):
            self.wrong(name, say(rejection.CONTROL_CHARACTERS, name))
        return value or ""

    def day(self, name: str) -> dt.date | None:
        value = self._one(name, {"type": "string", "format": "date"})
        if value is None:
            return None
        try:
            day = dt.date.fromisoformat(value)
            if day.isoformat() == value:  # it takes 20260219 and 2026-W08-4, too
                return day
        except ValueError:
            pass
        self.wrong(name, say(rejection.NO_DAY, name))
        return None

    def entity_ids(self, listed: str, repeated: str, most: int) -> list[str]:
        """The ids of `listed`, separated by commas, and of each `repeated`, which may hold commas themselves."""
        array = {"type": "array", "minItems": 1, "maxItems": most}
        self.described[listed] = {"schema": {**array, "items": _COMMA_FREE}, "style": "form", "explode": False}
        self.described[repeated] = {"schema": {**array, "items": ENTITY_ID}, "style": "form", "explode": True}
        lists, ids = self._values.pop(listed, []), self._values.pop(repeated, [])
        if sum(value.count(",") + 1 for value in lists) + len(ids) > most:
            self.wrong(listed, say(rejection.TOO_MANY_ITEMS, listed, most=most))
            return []
        ids = [id_ for value in lists for id_ in value.split(",")] + ids
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
        """Call it last: a parameter that is left over is an error."""
        known = ", ".join(self.described) or "none"
        for name in islice(self._values, UNKNOWN_MAX):
            self.wrong(name[:UNKNOWN_CHARS_MAX], say(rejection.UNKNOWN, known=known))
        if len(self._values) > UNKNOWN_MAX:
            self.wrong("query", say(rejection.MORE_UNKNOWN, more=len(self._values) - UNKNOWN_MAX))

    def _one(self, name: str, schema: Json) -> str | None:
        self.described[name] = {"schema": schema}
        values = self._values.pop(name, None)
        if values is None:
            return None
        if len(values) > 1:
            self.wrong(name, say(rejection.REPEATED, name))
        return values[0]
