"""Every text of a 422, of events and of the parameters of reads: Laravel's words, which existing producers parse.

`domain/admission.py` and `ingest/decode.py` use them for events, `read/parameters.py` and `read/endpoints/` for
parameters. The same fault has the same text in both. Which field is wrong is never decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

LISTED_MAX = 12
"""Values that a text names as the allowed ones. A name has up to 32 characters."""

# Of both. {name}: the field or parameter.
REQUIRED = "The {name} field is required."
TOO_LONG = "The {name} field must not be greater than {most} characters."
CONTROL_CHARACTERS = "The {name} field must not contain control characters."
NOT_SELECTED = "The selected {name} is invalid. It must be one of: {allowed}."
NO_INTEGER = "The {name} field must be an integer."
OUT_OF_RANGE = "The {name} field must be {ranges}."
TOO_MANY_ITEMS = "The {name} field must not have more than {most} items."

# Of events.
NO_OBJECT = "The event must be a JSON object."
NO_JSON_LINE = "The line is not valid JSON."
NO_STRING = "The {name} field must be a string."
NO_ID = "The {name} field must be a string or an integer of 64 bits."
NO_UUID = "The entity id field must be a UUID in lower case, such as 0f8fad5b-d9cb-469f-a165-70867728950e."
NO_DECIMAL = "The entity id field must be a decimal integer without leading zeros."
NO_MATCH = "The {name} field must match the pattern {pattern}."
NO_LIST = "The {name} field must be a list."
TOO_MANY_VALUES = "The {name} field holds a wrong event, and has more than {most} values; send smaller batches."
TAKES_VALUE = "The selected {name} takes a value, and a pixel sends none."
NO_INSTANT = "The {name} field must be an RFC 3339 date and time with an offset, such as 2026-02-19T10:00:00Z."
TOO_OLD = "The {name} field must not be more than {most} seconds in the past."

# Of parameters.
NO_QUERY = "The query must be UTF-8, with at most {most} parameters."
UNKNOWN = "There is no such parameter; there are: {known}."
MORE_UNKNOWN = "Of the parameters {more} more are unknown."
REPEATED = "The {name} field must be given once."
NO_FLAG = "The {name} field must be 1 or 0."
NO_DAY = "The {name} field must be a UTC day such as 2026-02-19."
AFTER = "The {name} field must not be after {last}."
OF_HOURS = "The {name} field goes with bucket=hourly, and with neither from nor to."
NO_LABEL = "Entities of this type have no label."
NOTHING_BEFORE = "There is nothing before {what} to compare with."
TOO_MANY_POINTS_IN_ALL = "The series have at most {most} points in all; choose fewer ids or a larger bucket."
TOO_MANY_POINTS = "A series has at most {most} points; choose a larger bucket."


class Rejection(Struct, frozen=True, gc=False):
    """Why a request is refused: each wrong field or parameter, and what is wrong with it."""

    errors: dict[str, list[str]]

    @property
    def message(self) -> str:
        """The first text, and how many more there are."""
        texts = [text for field in self.errors.values() for text in field]
        more = len(texts) - 1
        return texts[0] + (f" (and {more} more error{'s' if more > 1 else ''})" if more else "")


def say(text: str, name: str = "", **values: object) -> str:
    """One of the texts above, filled in."""
    return text.format(name=name.replace("_", " "), **values)


def say_allowed(name: str, allowed: Iterable[str]) -> str:
    return say(NOT_SELECTED, name, allowed=_listed(sorted(allowed), ", "))


def say_ranges(name: str, ranges: Iterable[tuple[int, int]]) -> str:
    """`ranges`: the allowed stretches of integers, both ends included."""
    texts = [f"between {lowest} and {highest}" for lowest, highest in ranges]
    return say(OUT_OF_RANGE, name, ranges=_listed(texts, " or "))


def _listed(texts: Sequence[str], between: str) -> str:
    """All of them, or the first and how many others there are: a text of a 422 stays short."""
    more = len(texts) - LISTED_MAX
    return between.join(texts[:LISTED_MAX]) + (f" ({more} more)" if more > 0 else "")
