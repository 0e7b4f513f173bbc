"""Every text of a 422, for events and for the parameters of reads: Laravel's words, which existing producers parse.

`domain/admission.py` and `ingest/decode.py` say what is wrong with events, `read/parameters.py` and the reads what is
wrong with parameters. The same fault has the same text in both. Which field is wrong is decided there, never here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct


class Rejection(Struct, frozen=True, gc=False):
    """Why a request is refused: each wrong field or parameter, and what is wrong with it."""

    errors: dict[str, list[str]]

    @property
    def message(self) -> str:
        """The first text, and how many more there are."""
        texts = [text for field in self.errors.values() for text in field]
        more = len(texts) - 1
        return texts[0] + (f" (and {more} more error{'s' if more > 1 else ''})" if more else "")


# Events and parameters ----------------------------------------------------------------------------------------------


def required(name: str) -> str:
    return f"The {_label(name)} field is required."


def too_long(name: str, chars_max: int) -> str:
    return f"The {_label(name)} field must not be greater than {chars_max} characters."


def control_characters(name: str) -> str:
    return f"The {_label(name)} field must not contain control characters."


def not_selected(name: str, allowed: Iterable[str]) -> str:
    return f"The selected {_label(name)} is invalid. It must be one of: {', '.join(sorted(allowed))}."


def no_integer(name: str) -> str:
    return f"The {_label(name)} field must be an integer."


def not_between(name: str, ranges: Sequence[tuple[int, int]]) -> str:
    """`ranges`: each allowed stretch of integers, both ends included."""
    allowed = " or ".join(f"between {lowest} and {highest}" for lowest, highest in ranges)
    return f"The {_label(name)} field must be {allowed}."


def too_many_items(name: str, items_max: int) -> str:
    return f"The {_label(name)} field must not have more than {items_max} items."


# Events -------------------------------------------------------------------------------------------------------------

NO_OBJECT = "The event must be a JSON object."
NO_JSON_LINE = "The line is not valid JSON."


def no_string(name: str) -> str:
    return f"The {_label(name)} field must be a string."


def no_list(name: str) -> str:
    return f"The {_label(name)} field must be a list."


def no_instant(name: str) -> str:
    return f"The {_label(name)} field must be an RFC 3339 date and time with an offset, such as 2026-02-19T10:00:00Z."


def too_old(name: str, age_max_s: int) -> str:
    return f"The {_label(name)} field must not be more than {age_max_s} seconds in the past."


# Parameters ---------------------------------------------------------------------------------------------------------


def unreadable_query(parameters_max: int) -> str:
    return f"The query must be UTF-8, with at most {parameters_max} parameters."


def unknown_parameter(known: Iterable[str]) -> str:
    return f"There is no such parameter; there are: {', '.join(known) or 'none'}."


def repeated(name: str) -> str:
    return f"The {_label(name)} field must be given once."


def no_flag(name: str) -> str:
    return f"The {_label(name)} field must be 1 or 0."


def no_day(name: str) -> str:
    return f"The {_label(name)} field must be a UTC day such as 2026-02-19."


def after(name: str, last: str) -> str:
    return f"The {_label(name)} field must not be after {last}."


def too_many_points(points_max: int) -> str:
    return f"A series has at most {points_max} points; choose a larger bucket."


def _label(name: str) -> str:
    return name.replace("_", " ")
