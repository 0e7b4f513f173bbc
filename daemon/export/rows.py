"""The documents of a rollup as rows, in the order of their ids, a chunk at a time: memory stays flat.

A row is domain, entity_type, entity_id, the bucket if there is one, and the total of each counter. Then follows, as
`base.<counter>`, the part of each total that was taken over.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator

from msgspec import Struct

from daemon.domain.rollup import Bucketed, Kind, base_of, end_of_day, start_of_day, total
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import Json, MongoSink

CHUNK_ROWS = 5_000

Row = tuple[str | int, ...]


class Selection(Struct, frozen=True):
    """Which documents of which rollup. `entity_type`: domain and type (None: all). `first`, `last`: UTC days. A bucket
    is selected if it holds one of the days from the first to the last."""

    kind: Kind
    counters: tuple[str, ...]
    entity_type: tuple[str, str] | None = None
    first: dt.date | None = None
    last: dt.date | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that hold text. They come first."""
        return self.kind.key_fields

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.texts, *self.counters, *(f"base.{counter}" for counter in self.counters))

    def filter(self) -> Json:
        wanted: Json = {}
        if self.entity_type is not None:
            prefix = ":".join(self.entity_type)
            wanted["_id"] = {"$gte": f"{prefix}:", "$lt": f"{prefix};"}  # the character after the colon
        if isinstance(self.kind, Bucketed):
            bounds: Json = {}
            if self.first is not None:
                bounds["$gte"] = self.kind.bucket_of(start_of_day(self.first))
            if self.last is not None:
                bounds["$lte"] = self.kind.bucket_of(end_of_day(self.last))
            wanted |= {self.kind.bucket_field: bounds} if bounds else {}
        return wanted


async def count(mongo: MongoSink, selection: Selection) -> int:
    """How many rows there will be. Exact only if nothing is counted meanwhile."""
    wanted = selection.filter()
    with store_error(mongo.address):
        if not wanted:
            return await mongo.collection(selection.kind).estimated_document_count()
        return await mongo.collection(selection.kind).count_documents(wanted)


async def rows(mongo: MongoSink, selection: Selection) -> AsyncIterator[list[Row]]:
    """Raises StoreError."""
    texts, counters = selection.texts, selection.counters
    with store_error(mongo.address):
        cursor = mongo.collection(selection.kind).find(selection.filter()).sort("_id", 1)
        while documents := await cursor.to_list(CHUNK_ROWS):
            yield [
                (
                    *(document[name] for name in texts),
                    *(total(document, counter) for counter in counters),
                    *(base_of(document, counter) for counter in counters),
                )
                for document in documents
            ]
