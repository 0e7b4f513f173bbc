"""Reads one file from its first new line: classifies each line, sends what counts, and records how far it came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

from daemon.config import Import
from daemon.domain.event import Event
from daemon.importer.classify import Classifier, Classify
from daemon.importer.lines import Lines, Position
from daemon.importer.outcome import FileTally, Format, LeftOut, Reason, Refusal
from daemon.importer.rejects import Rejects
from daemon.importer.resume import Start
from daemon.importer.sender import Sender
from daemon.importer.source import Source, StoppedError, UnreadableError

IDLE_S = 1.0
"""So long, events of a silent pipe wait for more."""
_TOO_LONG = Refusal(Reason.LINE_TOO_LONG)


@dataclass
class Reading:
    """The lines of one file on their way into the sender, the rejects and the tally."""

    section: Import
    start: Start
    sender: Sender
    rejects: Rejects
    tally: FileTally
    classifier: Classifier
    _classify: Classify | None = None
    _batch: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        start = self.start
        self._lines = Lines(self.section.line_bytes_max, start.position, start.digest, inside_line=start.inside_line)

    async def run(self, source: Source) -> None:
        """Raises UnreadableError and StoppedError after all that was read before is counted and recorded.

        Raises at once: StoreError, ConfigError, and TallydError if rejected lines cannot be written.
        """
        try:
            async with aclosing(_read_ahead(source.chunks(self._lines.position().bytes))) as chunks:
                async for chunk in chunks:
                    await self._take(chunk)
        except (UnreadableError, StoppedError):
            # What stands after the last newline may be half a line. The next run reads it again.
            await self._finish(self._lines.boundary())
            raise
        reached = self._lines.boundary()
        last = self._lines.rest()
        # A last line without a newline counts: many files end so. But the server may still be writing it. If it became
        # an event, the recorded place is after it, inside the line: the next run skips the rest of the line. If not,
        # the next run classifies the whole line.
        if last and self._is_event(last):
            reached = self._lines.position()
        await self._finish(reached)

    async def _take(self, chunk: bytes) -> None:
        """Classifies the lines that end in a chunk. An empty one says that nothing came for a while."""
        if not chunk and self._batch:  # the events of a silent pipe do not wait for more
            await self._send(self._lines.boundary())
            await self.sender.drain()
        for line in self._lines.feed(chunk):
            if self._is_event(line) and len(self._batch) >= self.section.call_events_max:
                await self._send(self._lines.position())

    async def _finish(self, reached: Position) -> None:
        if self._batch:
            await self._send(reached)
        await self.sender.drain()
        # A file of which nothing ever counted is not imported: its routes or its format may be wrong.
        if self.tally.events or self.start.position.bytes:
            await self.sender.save(reached)

    async def _send(self, reached: Position) -> None:
        batch, self._batch = self._batch, []
        await self.sender.send(batch, reached)

    def _is_event(self, line: bytes) -> bool:
        """Adds a line to the next call, or to one of the tallies."""
        self.tally.lines += 1
        if len(line) > self.section.line_bytes_max:
            outcome: Event | LeftOut | Refusal = _TOO_LONG
        else:
            if self._classify is None:  # made for the first line: a file with nothing new needs no routes
                self._classify = self.classifier.of(Format(self.tally.format))
            outcome = self._classify(line, self._lines.line_id)
        if isinstance(outcome, Event):
            self._batch.append(outcome)
            return True
        if isinstance(outcome, LeftOut):
            self.tally.left_out[outcome.value] += 1
        else:
            self.tally.rejected[outcome.reason.value] += 1
            self.rejects.add(self.tally.name, self._lines.number, outcome, line)
        return False


async def _read_ahead(chunks: Iterator[bytes]) -> AsyncGenerator[bytes]:
    """The chunks, and b"" for every `IDLE_S` in which none came. Raises what fetching them raises.

    A worker thread fetches the next chunk while the event loop uses the current one.
    """
    loop = asyncio.get_running_loop()
    ahead = loop.run_in_executor(None, next, chunks, b"")
    try:
        while True:
            done, _ = await asyncio.wait({ahead}, timeout=IDLE_S)
            if not done:
                yield b""
                continue
            chunk = ahead.result()
            if not chunk:
                return
            ahead = loop.run_in_executor(None, next, chunks, b"")
            yield chunk
    finally:
        # After an error: a read that waits for a pipe ends when the command sets `stopping`.
        if not ahead.cancel():
            ahead.exception()
