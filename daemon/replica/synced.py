"""How much of what was counted a row's columns hold, kept in the totals document: `synced: {view: 3}`.

A column is base + synced + what the application itself has added. So `tallyd backfill --reconcile` can compute what the
application added, even for a row that is due. `sync.STEPS` says what is known of a row if the flusher dies.

Counted amounts only grow, and so do these (`$max`): a late note of a dead process changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from daemon.domain.rollup import TOTALS
from daemon.rollups.errors import UNAPPLICABLE, write_failed
from daemon.rollups.mongo import Json, MongoSink


def synced(document: Mapping[str, Any], counters: Iterable[str]) -> dict[str, int] | None:
    """Counter → how much of what was counted its column holds. None if the document lacks one."""
    amounts = document.get("synced")
    if not isinstance(amounts, Mapping):
        return None
    wanted = list(counters)
    held = {counter: amounts[counter] for counter in wanted if isinstance(amounts.get(counter), int)}
    return held if len(held) == len(wanted) else None


async def note_synced(mongo: MongoSink, documents: Iterable[Mapping[str, Any]], counters: Collection[str]) -> None:
    """Notes that the rows of these totals documents hold the documents' amounts. Raises StoreError."""
    operations: list[Json] = [
        {
            "q": {"_id": document["_id"]},
            "u": {"$max": {f"synced.{counter}": document.get(counter, 0) for counter in counters}},
        }
        for document in documents
    ]
    for _, error in await mongo.update(TOTALS, operations):
        if error["code"] not in UNAPPLICABLE:  # those are of edited documents, which get no note
            raise write_failed(mongo.address, error)
