"""Reads that decide something: of what a majority has, whatever happens to the primary meanwhile.

A primary that was cut off answers reads until it notices, for up to `electionTimeoutMillis`. Meanwhile the others may
have elected another one, which takes writes. So a plain read can miss what a majority has had for seconds, and it can
see what is rolled back later. Called by the flusher and the MySQL sync, where a write would follow from that.
"""

from __future__ import annotations

from typing import Any

from pymongo import ReadPreference
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern

NOT_A_REPLICA_SET = 123
"""The code of a server that runs alone. Its own copy is all there is."""

Json = dict[str, Any]


async def find_confirmed(
    collection: AsyncCollection[Json], wanted: Json, fields: Json | None = None, *, most: int = 0
) -> list[Json]:
    """The documents, once a majority has confirmed that the server was the primary when it had found them.

    All that a majority had before is in them, and nothing in them is rolled back. This costs as much as a small write.
    `most`: how many there can be, if that is known; 0: it is not. Raises pymongo's errors.
    """
    confirmed = collection.with_options(
        read_preference=ReadPreference.PRIMARY, read_concern=ReadConcern("linearizable")
    )
    try:
        return await confirmed.find(wanted, fields, batch_size=most).to_list()  # each batch is confirmed by itself
    except OperationFailure as error:
        if error.code != NOT_A_REPLICA_SET:
            raise
    alone = collection.with_options(read_preference=ReadPreference.PRIMARY)
    return await alone.find(wanted, fields, batch_size=most).to_list()
