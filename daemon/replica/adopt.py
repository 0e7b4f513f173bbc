"""The base: what a row's column said before tallyd first wrote it, kept beside what tallyd counted.

A column is set to base + counted, so its base must be known before it is written. The replica sync adopts the bases of
due rows, a backfill those of all rows. Two rules keep that safe, however often it is repeated and wherever it dies:

- A base is set only where there is none: the update asks for that.
- A column is written only if the document in MongoDB has a base for it, and with that base.

So a column is read before it is written, and no base is ever read from a written column. The application may still add
to the column, so two processes may read different amounts. The first update wins. `columns.py` checks that a base
belongs to the column that is written.
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
from daemon.replica.mysql import MysqlSink
from daemon.rollups.build import first_fields
from daemon.rollups.errors import UNAPPLICABLE, is_already_applied, keeps_vanishing, write_failed
from daemon.rollups.mongo import INSERTS_MET_MAX, Json, MongoSink

SOURCE = "migration"
"""`source` of documents whose base a backfill has set."""
NO_NUMBER = "its document holds no number where a counter should be"
TOO_LARGE = "its columns say more than 64 bits hold"

Row = Mapping[str, int]
"""Counter → what the column says."""
Zeros = Mapping[str, Collection[str]]
"""Per domain, the counters a new document starts with at 0."""


def lacking(document: Mapping[str, Any] | None, counters: Iterable[str]) -> list[str]:
    """The counters for which the totals document has no base."""
    base = (document or {}).get("base") or {}
    return [counter for counter in counters if counter not in base]


def holds_numbers(document: Mapping[str, Any], counters: Iterable[str]) -> bool:
    """Whether the counted amounts and the bases are numbers: an operator may have edited the document."""
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
    """Gives the totals document of each row's entity a base for every counter that has none.

    Returns the documents after that, by entity key, and the entities that can't have a base.

    `documents`: the known ones. `zeros`: if given, entities without a document get one. Raises StoreError.
    """
    adopted = {entity.key: documents[entity.key] for entity in rows if entity.key in documents}
    failures: dict[str, Failure] = {}
    for _ in range(INSERTS_MET_MAX):
        operations = [
            _operation(entity, {counter: row[counter] for counter in names}, zeros)
            for entity, row in rows.items()
            if entity.key not in failures and (names := lacking(adopted.get(entity.key), row))
        ]
        if not operations:
            return {key: document for key, document in adopted.items() if key not in failures}, [*failures.values()]
        for operation, error in await mongo.update(TOTALS, operations):
            key = operation["q"]["_id"]
            if is_already_applied(error):
                continue  # it is there: inserted beside us, or with a base already
            if error["code"] not in UNAPPLICABLE:
                raise write_failed(mongo.address, error)
            failures[key] = Failure(TOTALS.collection, key, UNAPPLICABLE[error["code"]])
        adopted |= await mongo.totals([operation["q"]["_id"] for operation in operations])
    raise keeps_vanishing(mongo.address, operations[0]["q"]["_id"], INSERTS_MET_MAX)


async def adopt_due(
    mongo: MongoSink, mysql: MysqlSink, table: ReplicaTable, documents: Mapping[str, Json]
) -> tuple[dict[str, Json], dict[str, str]]:
    """The totals documents among these whose columns may be written, by entity key: each has a base. Also returns, by
    entity key, why others can't have a base. All others have no row."""
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
