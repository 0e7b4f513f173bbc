"""How much of what was counted a row's columns hold, kept in the totals document: `synced: {view: 3}`.

A column is base + synced + whatever the application itself has added to it. So what the application added can be told
from what tallyd has not written yet, also while the row is due (`tallyd backfill --reconcile`). `sync.STEPS` says what
is known of a row if the flusher dies.

Counted amounts only grow, and so do these (`$max`): a note of a dead process that arrives late changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from daemon.domain.rollup import TOTALS
from daemon.errors import MongoStoreError
from daemon.rollups.errors import UNAPPLICABLE
from daemon.rollups.mongo import COMMAND_DOCUMENTS_MAX, Json, MongoSink


def synced(document: Mapping[str, Any], counters: Iterable[str]) -> dict[str, int] | None:
    """Counter → how much of what was counted its column holds. None if the document does not say."""
    amounts = document.get("synced")
    if not isinstance(amounts, Mapping):
        return None
    wanted = list(counters)
    held = {counter: amounts[counter] for counter in wanted if isinstance(amounts.get(counter), int)}
    return held if len(held) == len(wanted) else None


async def note_synced(mongo: MongoSink, documents: Iterable[Mapping[str, Any]], counters: Collection[str]) -> None:
    """The rows of these totals documents hold what the documents say. Raises StoreError."""
    operations: list[Json] = [
        {
            "q": {"_id": document["_id"]},
            "u": {"$max": {f"synced.{counter}": document.get(counter, 0) for counter in counters}},
        }
        for document in documents
    ]
    for start in range(0, len(operations), COMMAND_DOCUMENTS_MAX):
        reply = await mongo.update(TOTALS, operations[start : start + COMMAND_DOCUMENTS_MAX])
        for failed in reply.get("writeErrors", ()):
            if failed["code"] in UNAPPLICABLE:
                continue  # an edited document: it does not say, and the others go on
            raise MongoStoreError(f"MongoDB at {mongo.address}: {failed.get('errmsg', failed['code'])}")
