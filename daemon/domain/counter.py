"""Counters: what an action moves, and the Redis hash field that holds one counter's amount of one bucket.

The bucket is a day, `view:2026-02-19`; or an hour, `view:2026-02-19T05`, if the event's domain counts by hours.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from daemon.domain.rollup import COMPLETE, DAILY, HOURLY, KINDS, OWN_FIELDS, Bucketed

NAME_PATTERN = r"\A[a-z][a-z0-9_]{0,31}\Z"
"""Domains, entity types, actions and counters are named like this: 1 to 32 characters, no colon, no dot, no dollar."""

INT64_MAX = 2**63 - 1

RESERVED = frozenset(OWN_FIELDS)
"""Field names a rollup document uses itself; no counter may have one."""

_FIELD = re.compile(r"([a-z][a-z0-9_]{0,31}):(.+)\Z", re.ASCII)
_AMOUNT = re.compile(r"-?\d{1,19}\Z", re.ASCII)
_FIELDS_CACHED = 8_192


class Field(NamedTuple):
    """A hash field. `at`: the first instant of its bucket. `buckets`: (a rollup's place in KINDS, that instant's bucket
    of it) for each rollup that its amount is added to. An amount of a day is in no hour."""

    counter: str
    at: dt.datetime
    buckets: tuple[tuple[int, str | None], ...]


def field_name(counter: str, bucket: str) -> str:
    return f"{counter}:{bucket}"


@lru_cache(maxsize=_FIELDS_CACHED)
def parse_field(name: str) -> Field | None:
    """What a hash field `<counter>:<bucket>` names, or None if it is not one."""
    match = _FIELD.match(name)
    if match is None or match[1] in RESERVED:
        return None
    kinds, at = COMPLETE, DAILY.parse(match[2])
    if at is None:
        kinds, at = KINDS, HOURLY.parse(match[2])
    if at is None:
        return None
    buckets = ((KINDS.index(kind), kind.bucket_of(at) if isinstance(kind, Bucketed) else None) for kind in kinds)
    return Field(match[1], at, tuple(buckets))


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
