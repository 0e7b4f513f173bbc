"""The five rollups: totals and the four buckets, and what one claim adds to their documents. Pure values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import isfinite
from typing import Any, NamedTuple

from daemon.domain.entity import Entity


class Kind(NamedTuple):
    """One of the five rollups: its name, and the document field that holds the bucket (None: no bucket)."""

    name: str
    bucket_field: str | None

    @property
    def collection(self) -> str:
        return f"analytics_entity_{self.name}"

    @property
    def expired_collection(self) -> str:
        """Where the amounts of this rollup's deleted documents are kept, one document an entity. See `retention`."""
        return f"{self.collection}_expired"


TOTALS = Kind("totals", None)
DAILY = Kind("daily", "date")
WEEKLY = Kind("weekly", "week")
MONTHLY = Kind("monthly", "month")
YEARLY = Kind("yearly", "year")

KINDS = (TOTALS, DAILY, WEEKLY, MONTHLY, YEARLY)
EXPIRING = (DAILY, WEEKLY)
"""Those whose old documents may be deleted."""


class Document(NamedTuple):
    """What one claim adds to one document. `id` is the entity key, with the bucket where there is one."""

    id: str
    entity: Entity
    bucket: str | None
    deltas: dict[str, int]


class Malformed(NamedTuple):
    """An amount under a key or field that is not ours."""

    entity: str
    field: str
    amount: str


class Rollup(NamedTuple):
    """`documents`: per kind, in the order of KINDS."""

    documents: dict[Kind, list[Document]]
    malformed: list[Malformed]

    def sums(self, only: Collection[str] | None = None) -> dict[str, int]:
        """Amount per counter, of all totals documents or only of those with these ids."""
        sums: dict[str, int] = {}
        for document in self.documents[TOTALS]:
            if only is None or document.id in only:
                for counter, amount in document.deltas.items():
                    sums[counter] = sums.get(counter, 0) + amount
        return sums


def amount_of(value: object) -> int:
    """A stored amount. What is no number is 0, as in MongoDB's own sums: somebody may have edited the document, and the
    others are to be read all the same."""
    if isinstance(value, float):
        return int(value) if isfinite(value) else 0
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def total(document: Mapping[str, Any], counter: str) -> int:
    """What a stored document says of a counter: what was counted, plus its `base` (what was taken over from before
    tallyd counted; see `backfill`). Every reader, and the replica, goes through here."""
    return amount_of(document.get(counter)) + base_of(document, counter)


def base_of(document: Mapping[str, Any], counter: str) -> int:
    """The part of `total` that was taken over."""
    base = document.get("base")
    return amount_of(base.get(counter)) if isinstance(base, Mapping) else 0
