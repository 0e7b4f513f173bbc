"""MongoDB's errors, sorted: this document never, already done, or wait. And each as one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pymongo.errors import ConnectionFailure, PyMongoError

from daemon.errors import MongoAwayError, MongoStoreError

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
"""Codes that say this one document can't take its amounts, however often it is tried. Any other code means: wait."""

SENTENCE_CHARACTERS_MAX = 300
_DETAILS = re.compile(r" \(configured timeouts: [^)]*\)|, Timeout: .*|, full error: .*", re.DOTALL)
"""The additions of pymongo: time-outs, its view of the servers, the server's reply with cluster time and key ids."""


def sentence(error: PyMongoError) -> str:
    """The error in one sentence, without pymongo's additions and without a full stop."""
    details = getattr(error, "details", None)
    if isinstance(details, Mapping) and (text := details.get("errmsg")):
        text = f"{str(text).rstrip('.')} ({name})" if (name := details.get("codeName")) else str(text)
    else:
        text = _DETAILS.sub("", str(error))
    return text.partition("\n")[0][:SENTENCE_CHARACTERS_MAX].rstrip(".")


def is_already_applied(error: Mapping[str, Any]) -> bool:
    """Whether a failed upsert met its own document: the guard in the filter said no, and the insert hit `_id`."""
    return error.get("code") == DUPLICATE_KEY and list(error.get("keyPattern", ())) == ["_id"]


def write_failed(address: str, error: Mapping[str, Any]) -> MongoStoreError:
    """One failed write of a reply, as an error to wait out."""
    return MongoStoreError(f"MongoDB at {address}: {error.get('errmsg', error.get('code'))}")


def keeps_vanishing(address: str, id_: str, attempts: int) -> MongoStoreError:
    """A document was there for the insert and gone for the update, in every attempt."""
    return MongoStoreError(
        f"MongoDB at {address}: {id_} was inserted and deleted by others in {attempts} attempts; giving up."
    )


@contextmanager
def store_error(address: str) -> Iterator[None]:
    """Raises whatever MongoDB raises as MongoStoreError, naming the address."""
    try:
        yield
    except ConnectionFailure as error:
        raise MongoAwayError(f"MongoDB at {address}: {sentence(error)}") from None
    except PyMongoError as error:
        raise MongoStoreError(f"MongoDB at {address}: {sentence(error)}") from None
