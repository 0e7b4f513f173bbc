"""The reading end of the spool: sends segments to Redis through `ingest.lua`, like the events that Redis took.

It is often unknown whether an event reached Redis before it was spooled. Its id decides. So a replay is safe within
the dedupe window (`STEPS`). A segment is deleted after Redis has answered for all its events. Damaged bytes are set
aside in `damaged/`, counted and logged. The records after them are replayed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from daemon import metrics
from daemon.buffer.connection import RefusedError
from daemon.domain.event import Event
from daemon.spool.record import Damage, encode, scan
from daemon.spool.segment import OPEN, list_segments, locked, sync_directory

Ingest = Callable[[list[Event]], Awaitable[int]]
"""Counts events and returns how many were new. Raises StoreError. A RefusedError means: Redis will never take them."""

STEPS = {
    "send": "Redis has counted some events of the segment. The next replay sends all of them: these are duplicates.",
    "set_aside": "The damaged bytes are in `damaged/` and in the segment. The next replay writes the same file again.",
    "delete": "The segment is done.",
}
"""Each step of a segment in order, and what holds if the process dies after it or its reply is lost."""

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


class Replayer:
    """Replays a directory's segments, oldest first."""

    def __init__(self, directory: Path, ingest: Ingest, *, call_events_max: int) -> None:
        self._directory = directory
        self._ingest = ingest
        self._call_events_max = call_events_max

    async def replay(self, done: Replayed, progress: Callable[[Replayed], None] = lambda _: None) -> None:
        """Replays every segment that no process holds. Adds to `done`. Raises StoreError when Redis takes no more."""
        for path in list_segments(self._directory):
            with locked(path) as data:
                if data is None:
                    done.busy += 1
                    continue
                await self._replay_segment(path, data, done, progress)
                await asyncio.to_thread(_delete, path)
                done.segments += 1
                progress(done)

    async def _replay_segment(
        self, path: Path, data: bytes, done: Replayed, progress: Callable[[Replayed], None]
    ) -> None:
        pending: list[Event] = []
        start = data.find(b"\n") + 1
        for part in scan(data, start):
            if isinstance(part, Damage):
                await self._damaged(path, data, part, done)
                continue
            if pending and len(pending) + len(part.events) > self._call_events_max:
                await self._send(path, pending, done)
                pending = []
                progress(done)
            pending += part.events
        if pending:
            await self._send(path, pending, done)

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
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    sync_directory(path.parent)


def _delete(path: Path) -> None:
    path.unlink(missing_ok=True)
    sync_directory(path.parent)
