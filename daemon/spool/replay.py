"""The reading end of the spool: sends segments to Redis through `ingest.lua`, like the events that Redis took.

It is often unknown whether an event reached Redis before it was spooled. Its id decides. So a replay is safe within
the dedupe window (`STEPS`). A segment is deleted after Redis has answered for all its events. Damaged bytes are set
aside in `damaged/`, counted and logged. The records after them are replayed.

In a cluster some shards may be away. The events of the others are counted. A segment that holds some of a shard that is
away stays, and is looked at again once one of its shards takes events. What the others took is not sent again, as long
as this process lives.

A file that is no segment, that cannot be read, or that is for another Redis (`origin.py`) is left as it is, and logged
once. The others are replayed. Files are read and decoded in a thread: the event loop waits for none of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

from daemon import metrics
from daemon.buffer.connection import RefusedError
from daemon.buffer.keys import by_shard
from daemon.domain.event import Event
from daemon.errors import StoreError
from daemon.spool.origin import Origin
from daemon.spool.record import Damage, encode, scan
from daemon.spool.segment import OPEN, Contents, Stray, StrayError, Taken, list_contents, sync_directory

Ingest = Callable[[list[Event]], Awaitable[int]]
"""Counts events and returns how many were new. Raises StoreError. A RefusedError means: Redis will never take them."""

STEPS = {
    "send": "Redis has counted some events of the segment. The next replay sends all of them: these are duplicates.",
    "set_aside": "The damaged bytes are in `damaged/` and in the segment. The next replay writes the same file again.",
    "delete": "The segment is done.",
}
"""Each step of a segment in order, and what holds if the process dies after it or its reply is lost."""

STRAY_RETRY_S = 10.0
"""How long a file that could not be replayed is left alone. A file that cannot be deleted would be sent again and
again."""

_log = logging.getLogger(__name__)


@dataclass
class Replayed:
    """The result of a replay. `counted` of the `events` were new. The others had reached Redis before."""

    segments: int = 0
    events: int = 0
    counted: int = 0
    damaged_bytes: int = 0
    busy: int = 0
    """Segments that a running daemon is writing or replaying."""
    strays: list[Stray] = field(default_factory=list)
    """Files that were left as they are: see `segment.py`."""


class Replayer:
    """Replays a directory's segments, oldest first."""

    def __init__(
        self,
        directory: Path,
        ingest: Ingest,
        here: Callable[[], Origin],
        *,
        call_events_max: int,
        foreign_too: bool = False,
        shards: int = 1,
    ) -> None:
        """`here`: the Redis that `ingest` counts in; it must have been connected to before a replay. `foreign_too`:
        segments for another Redis are replayed, too. `shards`: of a cluster, each may be away by itself; 1: all are on
        one Redis."""
        self._shards = shards
        self.away: dict[int, StoreError] = {}
        """Shards that took no events in the last replay."""
        self._left: dict[str, set[int]] = {}
        """Segment → the shards that have not taken all its events yet. Unknown: all of them."""
        self._here = here
        self._foreign_too = foreign_too
        self._directory = directory
        self._ingest = ingest
        self._call_events_max = call_events_max
        self.strays: dict[str, Stray] = {}
        """Files that are left as they are, by name. Each is logged once."""
        self._retry_at_s: dict[str, float] = {}

    async def contents(self) -> Contents:
        """What the directory holds. Logs its strays. Raises OSError if it cannot be read."""
        contents = await asyncio.to_thread(list_contents, self._directory)
        for stray in contents.strays:
            self._note(stray)
        return contents

    async def replay(self, done: Replayed, progress: Callable[[Replayed], None] = lambda _: None) -> None:
        """Replays every segment that no process holds. Adds to `done`. `progress`: is called after each step.

        Raises StoreError when Redis takes no more, or, in the end, if some shards of a cluster did not. Raises OSError
        if the directory cannot be read.
        """
        self.away = {}
        contents = await self.contents()
        names = {path.name for path in contents.segments} | {stray.name for stray in contents.strays}
        self.strays = {name: stray for name, stray in self.strays.items() if name in names}
        self._left = {name: left for name, left in self._left.items() if name in names}
        for path in contents.segments:
            if time.monotonic() < self._retry_at_s.get(path.name, 0.0):
                continue
            if self._is_away(path):
                continue
            try:
                await self._replay_file(path, done, progress)
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001  (one bad file must not hold up the others)
                if not isinstance(error, OSError):
                    metrics.FAULTS.labels("replay").inc()
                    _log.exception("Replaying %s failed", path.name)
                self._retry_at_s[path.name] = time.monotonic() + STRAY_RETRY_S
                self._note(Stray(path.name, _reason(error)))
            else:
                self._retry_at_s.pop(path.name, None)
                self.strays.pop(path.name, None)
            progress(done)
        done.strays = list(self.strays.values())
        if self.away:
            raise next(iter(self.away.values()))

    def _is_away(self, path: Path) -> bool:
        """Whether nobody is there who takes what is left of a segment."""
        left = self._left.get(path.name)
        return left is not None and left <= self.away.keys()

    def _note(self, stray: Stray) -> None:
        if self.strays.get(stray.name) != stray:
            self.strays[stray.name] = stray
            _log.error("%s in the spool %s is left as it is: %s.", stray.name, self._directory, stray.why)

    async def _replay_file(self, path: Path, done: Replayed, progress: Callable[[Replayed], None]) -> None:
        try:
            segment = await asyncio.to_thread(Taken, path, any_head=self._foreign_too)
        except BlockingIOError:
            done.busy += 1
            return
        except FileNotFoundError:  # replayed meanwhile
            return
        with segment:
            if segment.gone:
                return
            if segment.origin and not self._foreign_too and not segment.origin.is_for(self._here()):
                raise StrayError(segment.origin.foreign_to(self._here()))
            if segment.start == len(segment.data):
                _log.info("%s: its writer was killed before the first event. It is deleted.", path.name)
            parts, left = self._parts(segment), set[int]()
            while (part := await asyncio.to_thread(next, parts, None)) is not None:
                if isinstance(part, Damage):
                    await self._damaged(path, segment.data, part, done)
                elif self._shards == 1:
                    await self._send(path, part, done)
                else:
                    left |= await self._send_by_shard(path, part, done)
                progress(done)
                if self._is_away(path):
                    return
            if left:
                self._left[path.name] = left
                return
            await asyncio.to_thread(segment.delete)
        done.segments += 1

    async def _send_by_shard(self, path: Path, events: list[Event], done: Replayed) -> set[int]:
        """Sends what is not known to be counted. Returns the shards that did not take theirs."""
        wanted, left = self._left.get(path.name), set[int]()
        for shard, part in by_shard(events, self._shards, attrgetter("entity")).items():
            if wanted is not None and shard not in wanted:
                continue
            try:
                if shard in self.away:
                    raise self.away[shard]
                await self._send(path, part, done)
            except StoreError as error:
                self.away[shard] = error
                left.add(shard)
        return left

    def _parts(self, segment: Taken) -> Iterator[list[Event] | Damage]:
        """The events of a segment, as many together as go into one call, and the damaged stretches between them."""
        pending: list[Event] = []
        for part in scan(segment.data, segment.start):
            if isinstance(part, Damage):
                yield part
                continue
            if pending and len(pending) + len(part.events) > self._call_events_max:
                yield pending
                pending = []
            pending += part.events
        if pending:
            yield pending

    async def _send(self, path: Path, events: list[Event], done: Replayed) -> None:
        try:
            counted = await self._ingest(events)
        except RefusedError as error:
            if error.passing:
                raise
            await self._refused(path, events, error, done)
            return
        done.events += len(events)
        done.counted += counted
        metrics.SPOOL_REPLAYED.inc(len(events))

    async def _refused(self, path: Path, events: list[Event], error: RefusedError, done: Replayed) -> None:
        """Sets aside events that Redis will never take, so that they do not block the others."""
        data = encode(events)
        done.damaged_bytes += len(data)
        metrics.SPOOL_DAMAGED.inc()
        aside = self._directory / "damaged" / f"{path.stem}-refused-{done.events}"
        await asyncio.to_thread(_set_aside, aside, data)
        _log.error("%s. %d events of %s are set aside in %s.", error, len(events), path.name, aside)

    async def _damaged(self, path: Path, data: bytes, damage: Damage, done: Replayed) -> None:
        if damage.torn and path.suffix == OPEN:
            # A killed writer left this. Its client was never answered 202.
            _log.warning(
                "%s: the last record is incomplete. Its %d bytes are dropped.", path.name, damage.end - damage.start
            )
            return
        done.damaged_bytes += damage.end - damage.start
        metrics.SPOOL_DAMAGED.inc()
        aside = self._directory / "damaged" / f"{path.stem}-{damage.start}"
        await asyncio.to_thread(_set_aside, aside, data[damage.start : damage.end])
        _log.error(
            "%s: %d bytes from %d on are no record. They are set aside in %s.",
            path.name, damage.end - damage.start, damage.start, aside,
        )  # fmt: skip


def _set_aside(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    sync_directory(path.parent)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or repr(error)
