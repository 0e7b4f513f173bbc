"""Counters: what an action moves, and the Redis hash field that holds one counter's amount of one bucket.

The bucket is one of the finest rollup: `view:2026-02-19`.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from daemon.domain.rollup import BUCKETED, FINEST, OWN_FIELDS

NAME_PATTERN = r"\A[a-z][a-z0-9_]{0,31}\Z"
"""Domains, entity types, actions and counters are named like this: 1 to 32 characters, no colon, no dot, no dollar."""

INT64_MAX = 2**63 - 1

RESERVED = frozenset(OWN_FIELDS)
"""Field names a rollup document uses itself; no counter may have one."""

_FIELD = re.compile(r"([a-z][a-z0-9_]{0,31}):(.+)\Z", re.ASCII)
_AMOUNT = re.compile(r"-?\d{1,19}\Z", re.ASCII)
_FIELDS_CACHED = 8_192


class Field(NamedTuple):
    """A hash field. `at`: the first instant of its bucket. `buckets`: that instant's, in the order of KINDS."""

    counter: str
    at: dt.datetime
    buckets: tuple[str | None, ...]


def field_name(counter: str, bucket: str) -> str:
    return f"{counter}:{bucket}"


@lru_cache(maxsize=_FIELDS_CACHED)
def parse_field(name: str) -> Field | None:
    """What a hash field `<counter>:<bucket>` names, or None if it is not one."""
    match = _FIELD.match(name)
    if match is None or match[1] in RESERVED:
        return None
    at = FINEST.parse(match[2])
    return None if at is None else Field(match[1], at, (None, *(kind.bucket_of(at) for kind in BUCKETED)))


def parse_amount(text: str) -> int | None:
    """A signed 64-bit amount, or None if the text is not one."""
    if _AMOUNT.match(text) is None:
        return None
    amount = int(text)
    return amount if -INT64_MAX - 1 <= amount <= INT64_MAX else None


def add_up(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The amounts of all parts together, by counter."""
    sums: dict[str, int] = {}
    for part in parts:
        for counter, amount in part.items():
            sums[counter] = sums.get(counter, 0) + amount
    return sums
