"""Counters: what an action moves, and the Redis hash field that holds one counter's amount of one UTC day."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from daemon.domain.bucket import Buckets, buckets_of

NAME_PATTERN = r"\A[a-z][a-z0-9_]{0,31}\Z"
"""Domains, entity types, actions and counters are named like this: 1 to 32 characters, no colon, no dot, no dollar."""

INT64_MAX = 2**63 - 1

RESERVED = frozenset(
    {"domain", "entity_type", "entity_id", "date", "week", "month", "year", "updated_at", "flush_seq", "base", "source"}
    | {"expiring", "expired_batch", "synced"}
)
"""Field names a rollup document uses itself; no counter may have one."""

_FIELD = re.compile(r"([a-z][a-z0-9_]{0,31}):(\d{4}-\d\d-\d\d)\Z", re.ASCII)
_AMOUNT = re.compile(r"-?\d{1,19}\Z", re.ASCII)
_FIELDS_CACHED = 8_192


class Field(NamedTuple):
    counter: str
    buckets: Buckets


def field_name(counter: str, date: str) -> str:
    return f"{counter}:{date}"


@lru_cache(maxsize=_FIELDS_CACHED)
def parse_field(name: str) -> Field | None:
    """The counter and buckets of a hash field `<counter>:<YYYY-MM-DD>`, or None if it is not one."""
    match = _FIELD.match(name)
    if match is None or match[1] in RESERVED:
        return None
    buckets = buckets_of(match[2])
    return None if buckets is None else Field(match[1], buckets)


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
