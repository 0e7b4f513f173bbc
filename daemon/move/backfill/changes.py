"""How a row of MySQL changes its entity's totals document. Pure.

no base for the counter   The base becomes the column's value: tallyd never wrote that column.
a base                    Unchanged. When it is reconciled, the base becomes the column's value minus what tallyd
                          wrote to the column. So it takes in what the application added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from daemon.domain.entity import Entity
from daemon.replica.adopt import Row, lacking


class Change(Struct, frozen=True):
    """A change of one counter's base. `before` None: there was none."""

    entity: str
    counter: str
    before: int | None
    after: int

    def __str__(self) -> str:
        return f"{self.entity} {self.counter} base {'none' if self.before is None else self.before} → {self.after}"


def adopted(entity: Entity, row: Row, document: Mapping[str, Any] | None) -> list[Change]:
    """The bases that the document lacks."""
    return [Change(entity.key, counter, None, row[counter]) for counter in lacking(document, row)]


def reconciled(entity: Entity, row: Row, document: Mapping[str, Any], held: Row) -> list[Change]:
    """The bases that differ from the column minus what tallyd wrote to it (`held`).

    A negative `after` means that the column lost counts.
    """
    base = document.get("base") or {}
    changes = []
    for counter, amount in held.items():
        after = row[counter] - amount
        if after != base[counter]:
            changes.append(Change(entity.key, counter, int(base[counter]), after))
    return changes


def has_counted(document: Mapping[str, Any] | None, row: Row) -> bool:
    """Whether the document has counts. A row that was never written lacks them."""
    return document is not None and any(document.get(counter) for counter in row)
