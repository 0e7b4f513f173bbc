"""MongoDB's errors, sorted: this document never, already done, or wait."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pymongo.errors import PyMongoError

from daemon.errors import MongoStoreError

DUPLICATE_KEY = 11000
UNAPPLICABLE = {
    2: "the result leaves the range of a 64-bit integer",
    14: "the counter's field holds no number",
    28: "a field of it that should hold counters does not",
    121: "the collection's validation rule refuses it",
    10334: "the document is too large",
    17419: "the document is too large",
    17420: "the document is too large",
    DUPLICATE_KEY: "another document has its natural key",
}
"""Codes that say this one document can't take its deltas, however often it is tried. Any other code means: wait."""


def is_already_applied(error: Mapping[str, Any]) -> bool:
    """Whether a failed upsert met its own document: the guard in the filter said no, and the insert hit `_id`."""
    return error.get("code") == DUPLICATE_KEY and list(error.get("keyPattern", ())) == ["_id"]


@contextmanager
def store_error(address: str) -> Iterator[None]:
    """Raises whatever MongoDB raises as StoreError, naming the address."""
    try:
        yield
    except PyMongoError as error:
        raise MongoStoreError(f"MongoDB at {address}: {error}") from None
