"""What a row of MySQL changes in its entity's totals document. Pure.

the document has no base for a counter   the base becomes what the column says: tallyd never wrote that column
it has one                               unchanged; `reconciled`: the base becomes what the column says without what
                                         tallyd wrote to it, which takes in what the application added itself
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from daemon.domain.entity import Entity
from daemon.replica.adopt import Row, lacking


class Change(Struct, frozen=True):
    """One counter's base. `before` None: there was none."""

    entity: str
    counter: str
    before: int | None
    after: int

    def __str__(self) -> str:
        return f"{self.entity} {self.counter} base {'none' if self.before is None else self.before} → {self.after}"


def adopted(entity: Entity, row: Row, document: Mapping[str, Any] | None) -> list[Change]:
    """The bases that are set for the first time."""
    return [Change(entity.key, counter, None, row[counter]) for counter in lacking(document, row)]


def reconciled(entity: Entity, row: Row, document: Mapping[str, Any], held: Row) -> list[Change]:
    """The bases that no longer make up the difference between the column and what it holds of the counted amount
    (`held`). A negative `after` means that the column lost counts."""
    base = document.get("base") or {}
    changes = []
    for counter, amount in held.items():
        after = row[counter] - amount
        if after != base[counter]:
            changes.append(Change(entity.key, counter, int(base[counter]), after))
    return changes


def has_counted(document: Mapping[str, Any] | None, row: Row) -> bool:
    """Whether anything was counted that the row can't have yet if it was never written."""
    return document is not None and any(document.get(counter) for counter in row)
