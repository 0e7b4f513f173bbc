"""Sends the events of one file to the store, a few calls at a time, and then moves the checkpoint.

While Redis works on one call, the next is parsed. Calls may end in any order. The checkpoint moves only over calls that
are answered, and whose predecessors are (`STEPS`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from daemon.buffer.imports import Checkpoint, as_recorded
from daemon.domain.event import Event
from daemon.errors import StoreError
from daemon.importer.lines import Position
from daemon.importer.outcome import FileTally
from daemon.importer.rejects import Rejects
from daemon.importer.store import Store, Taken

STEPS = {
    "count": "Redis has counted at most `calls_in_flight_max` calls beyond the checkpoint. The next import sends them"
    " again. They are duplicates if it comes within `dedupe.window_s`.",
    "save": "The checkpoint is behind all that was answered. The next import goes on there.",
}
"""Each step of a batch in order, and what holds if the process dies after it or its reply is lost."""


class _Call(NamedTuple):
    task: asyncio.Task[Taken]
    events: int
    reached: Position
    """The place in the file after the events."""


@dataclass
class Sender:
    store: Store
    tally: FileTally
    rejects: Rejects
    first_line: str
    saved_bytes: int
    """Where the file's checkpoint is."""
    began: str
    """When the first line behind that place may have been counted: now, or by an import that is read again."""
    calls_max: int
    _calls: deque[_Call] = field(default_factory=deque)
    _checkpoint: Checkpoint | None = None

    async def send(self, events: Sequence[Event], reached: Position) -> None:
        """Sends events when there is room for a call. Raises the StoreError of an earlier call."""
        while len(self._calls) >= self.calls_max:
            await self._settle()
        self._calls.append(_Call(asyncio.create_task(self.store.count(events)), len(events), reached))
        await asyncio.sleep(0)  # the call leaves now, not after the next one is parsed

    async def drain(self) -> None:
        """Waits for the answers to everything sent. Raises StoreError."""
        while self._calls:
            await self._settle()

    async def abandon(self) -> None:
        """After a failure: waits for the calls under way, without moving the checkpoint."""
        while self._calls:
            try:
                await self._answer()
            except StoreError:
                continue

    async def save(self, reached: Position) -> None:
        """Records a place: everything before it is counted, and nothing after it."""
        if reached.bytes == self.saved_bytes:
            return
        self.rejects.flush()
        checkpoint = Checkpoint(
            reached.bytes, reached.lines, reached.digest, self.tally.name, as_recorded(datetime.now(UTC)), self.began
        )
        await self.store.save(self.first_line, checkpoint, self._checkpoint)
        self._checkpoint, self.saved_bytes = checkpoint, reached.bytes

    async def _settle(self) -> None:
        await self.save(await self._answer())

    async def _answer(self) -> Position:
        """Waits for the oldest call, and tallies it."""
        call = self._calls.popleft()
        counted = await call.task
        self.tally.counted += counted.events
        self.tally.duplicates += call.events - counted.events
        self.tally.resent += call.events if counted.repeats else 0
        return call.reached
