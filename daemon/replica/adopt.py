"""The base: what a row's column said before tallyd first wrote it, kept beside what tallyd counted.

A column is set to base + counted, so it may be written only once its base is known. Two rules make that safe whoever
does it (the replica sync for rows that are due, a backfill for all), how often, and wherever it dies:

- A base is set only where there is none: the update asks for that.
- A column is written only if the document in MongoDB has a base for it, and with that base.

So no column is written before its base was read from it, and nobody can set a base from a column that was written. Two
who read different amounts, because the application still adds to the column, end with the one whose update came first.
That the column is still the same one is looked after by `columns.py`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from daemon.config import ReplicaTable
from daemon.domain.counter import INT64_MAX
from daemon.domain.entity import Entity
from daemon.domain.outcome import Failure
from daemon.domain.rollup import TOTALS, Document
from daemon.errors import MongoStoreError
from daemon.replica.mysql import MysqlSink
from daemon.rollups.dead_letters import first_fields
from daemon.rollups.errors import UNAPPLICABLE, is_already_applied
from daemon.rollups.mongo import COMMAND_DOCUMENTS_MAX, Json, MongoSink

SOURCE = "migration"
"""`source` of documents whose base a backfill has set."""
NO_NUMBER = "its document holds no number where a counter should be"
TOO_LARGE = "its columns say more than 64 bits hold"
ADOPT_TRIES = 10
"""The second attempt already finds what others inserted beside the first."""

Row = Mapping[str, int]
"""Counter → what the column says."""
Zeros = Mapping[str, Collection[str]]
"""Per domain, the counters a new document starts with at 0."""


def lacking(document: Mapping[str, Any] | None, counters: Iterable[str]) -> list[str]:
    """Those of the counters that the totals document has no base for."""
    base = (document or {}).get("base") or {}
    return [counter for counter in counters if counter not in base]


def holds_numbers(document: Mapping[str, Any], counters: Iterable[str]) -> bool:
    """Whether what was counted and what was taken over are numbers: somebody may have edited the document."""
    base = document.get("base") or {}
    return isinstance(base, Mapping) and all(
        isinstance(amounts.get(counter, 0), int) for amounts in (document, base) for counter in counters
    )


def fits(row: Row) -> bool:
    """Whether MongoDB can hold what the row says."""
    return all(-INT64_MAX - 1 <= amount <= INT64_MAX for amount in row.values())


async def adopt(
    mongo: MongoSink, rows: Mapping[Entity, Row], documents: Mapping[str, Json], zeros: Zeros | None = None
) -> tuple[dict[str, Json], list[Failure]]:
    """Gives the totals document of each row's entity a base for every counter it has none for. Returns the documents
    as they are then, by entity key, and the entities that can't have one.

    `documents`: those of them that are known. `zeros`: given, entities without a document get one. Raises StoreError.
    """
    adopted = {entity.key: documents[entity.key] for entity in rows if entity.key in documents}
    failures: dict[str, Failure] = {}
    for _ in range(ADOPT_TRIES):
        operations = [
            _operation(entity, {counter: row[counter] for counter in names}, zeros)
            for entity, row in rows.items()
            if entity.key not in failures and (names := lacking(adopted.get(entity.key), row))
        ]
        if not operations:
            return {key: document for key, document in adopted.items() if key not in failures}, [*failures.values()]
        for start in range(0, len(operations), COMMAND_DOCUMENTS_MAX):
            part = operations[start : start + COMMAND_DOCUMENTS_MAX]
            for failed in (await mongo.update(TOTALS, part)).get("writeErrors", ()):
                key = part[failed["index"]]["q"]["_id"]
                if is_already_applied(failed):
                    continue  # it is there: inserted beside us, or with a base already
                if failed["code"] not in UNAPPLICABLE:
                    raise MongoStoreError(f"MongoDB at {mongo.address}: {failed.get('errmsg', failed['code'])}")
                failures[key] = Failure(TOTALS.collection, key, UNAPPLICABLE[failed["code"]])
        adopted |= await mongo.totals([operation["q"]["_id"] for operation in operations])
    raise MongoStoreError(
        f"MongoDB at {mongo.address}: {operations[0]['q']['_id']} is there, and is not, time and again."
    )


async def adopt_due(
    mongo: MongoSink, mysql: MysqlSink, table: ReplicaTable, documents: Mapping[str, Json]
) -> tuple[dict[str, Json], dict[str, str]]:
    """Of these totals documents those whose columns may be written, by entity key: each has a base. And, by entity key,
    why others can't be given one. The rest have no row."""
    unfit = {key: NO_NUMBER for key, document in documents.items() if not holds_numbers(document, table.columns)}
    documents = {key: document for key, document in documents.items() if key not in unfit}
    ready = {key: document for key, document in documents.items() if not lacking(document, table.columns)}
    rest = {document["entity_id"]: document for key, document in documents.items() if key not in ready}
    if not rest:
        return ready, unfit
    entities = {
        Entity(rest[id_]["domain"], rest[id_]["entity_type"], id_): row
        for id_, row in (await mysql.read(table, list(rest))).items()
    }
    unfit |= {entity.key: TOO_LARGE for entity, row in entities.items() if not fits(row)}
    adopted, failures = await adopt(
        mongo, {entity: row for entity, row in entities.items() if entity.key not in unfit}, documents
    )
    return ready | adopted, unfit | {failure.id: failure.reason for failure in failures}


def _operation(entity: Entity, base: Row, zeros: Zeros | None) -> Json:
    # A column that becomes a base was never written, so it holds nothing of what was counted.
    changes: Json = {
        "$set": {f"base.{counter}": amount for counter, amount in base.items()}
        | {f"synced.{counter}": 0 for counter in base}
    }
    if zeros is not None:
        changes["$set"] |= {"source": SOURCE, "updated_at": dt.datetime.now(dt.UTC)}
        changes["$setOnInsert"] = first_fields(TOTALS, Document(entity.key, entity, None, {}), zeros)
    return {
        "q": {"_id": entity.key} | {f"base.{counter}": {"$exists": False} for counter in base},
        "u": changes,
        "upsert": zeros is not None,
    }
