"""The journal: the content of each shard's last claims, so that a Redis that forgot them can be put right.

A claim is in the journal once the floor names it (`floors.py`), and each names the one before it. So the claims of a
shard are a chain, and the floor is its end. The content is written first. Without the floor's word it means nothing: it
is of a flusher that died in between, or of a history of Redis that was lost.

The flusher calls it. Only the last claims are kept: a Redis falls back by seconds.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections import deque

import msgspec
from bson import Binary
from msgspec import Struct
from pymongo import ReadPreference, WriteConcern
from pymongo.errors import DuplicateKeyError

from daemon.domain.claim import ClaimName
from daemon.rollups.collections import JOURNAL
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import Json, MongoSink


class Entry(Struct, frozen=True):
    """A claim in the journal."""

    shard: int
    seq: int
    nonce: str
    before: ClaimName
    epoch: int
    parts: list[bytes]
    history: str
    """Of the Redis whose replicas all held it before it was written here; "" if that is not known."""

    @property
    def name(self) -> ClaimName:
        return ClaimName(self.seq, self.nonce)


class Journal:
    """One shard's journal, for one flusher. Methods raise StoreError."""

    def __init__(self, mongo: MongoSink, shard: int, kept: int) -> None:
        """`kept`: claims whose content is kept."""
        self._mongo = mongo
        self._shard = shard
        self._kept = kept
        self._seqs: deque[int] = deque(maxlen=kept)
        """Of the claims whose content is kept, as far as this flusher knows."""

    async def write(self, entry: Entry) -> None:
        """Writes the content of a claim. It may be repeated: a name has one content."""
        document = msgspec.structs.asdict(entry) | {
            "_id": _id(entry.shard, entry.name),
            "before": entry.before._asdict(),
            "parts": [Binary(part) for part in entry.parts],
            "at": dt.datetime.now(dt.UTC),
        }
        with store_error(self._mongo.address), contextlib.suppress(DuplicateKeyError):
            await self._mongo.database[JOURNAL].insert_one(document)

    async def since(self, acked: int, end: ClaimName, epoch: int) -> tuple[ClaimName, list[Entry]] | None:
        """The claims after `acked` up to the `end`, the floor, the oldest first, and the name of the one before them.

        `epoch`: of the Redis that has accounted for `acked`. If that is 0, it begins behind the last claim of an epoch
        before. None: the chain is cut in between, or it is of a later epoch."""
        found: list[Entry] = []
        name = end
        while name.seq > acked:
            entry = await self.read(name)
            began_behind = not acked and (name.seq < epoch if entry is None else entry.epoch < epoch)
            if began_behind:
                return name, found[::-1]
            if entry is None or entry.epoch > epoch:
                return None
            found.append(entry)
            name = entry.before
        return (name, found[::-1]) if name.seq == acked else None

    async def read(self, name: ClaimName) -> Entry | None:
        """The claim of this name; None if its content is not kept. Of the primary: it may have come just now."""
        with store_error(self._mongo.address):
            journal = self._mongo.database.get_collection(JOURNAL, read_preference=ReadPreference.PRIMARY)
            document = await journal.find_one({"_id": _id(self._shard, name)})
        return None if document is None else _entry(document)

    async def forget(self, done: int) -> None:
        """`done`: a claim that is acknowledged. Deletes contents that are no longer kept. Nothing waits for that."""
        if self._seqs:
            self._seqs.append(done)
        else:  # a flusher that runs for one claim, by a timer, has to know those of others
            self._seqs.extend(await self._newest())
        if len(self._seqs) == self._kept:
            unheard = self._mongo.database.get_collection(JOURNAL, write_concern=WriteConcern(w=0))
            with store_error(self._mongo.address):
                await unheard.delete_many({"shard": self._shard, "seq": {"$lt": self._seqs[0]}})

    async def _newest(self) -> list[int]:
        """The seqs of the newest contents, the oldest first."""
        with store_error(self._mongo.address):
            found = self._mongo.database[JOURNAL].find({"shard": self._shard}, {"seq": 1}).sort("seq", -1)
            return [entry["seq"] async for entry in found.limit(self._kept)][::-1]


def _id(shard: int, name: ClaimName) -> str:
    return f"{shard}:{name.seq}:{name.nonce}"


def _entry(document: Json) -> Entry:
    before = document["before"]
    return Entry(  # with int: numbers of BSON are of a class of their own, which Redis' client does not pack
        int(document["shard"]), int(document["seq"]), document["nonce"],
        ClaimName(int(before["seq"]), before["nonce"]),
        int(document["epoch"]), [bytes(part) for part in document["parts"]],
        document.get("history", ""),  # 0.7.0 had none
    )  # fmt: skip
