"""Reads one file from its first new line: classifies each line, sends what counts, and records how far it came."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

from daemon.config import Import
from daemon.domain.event import Event
from daemon.importer.classify import Classify, Format
from daemon.importer.gunzip import UnreadableError
from daemon.importer.lines import Lines, Position
from daemon.importer.outcome import FileTally, LeftOut, Reason, Refusal
from daemon.importer.readahead import read_ahead
from daemon.importer.rejects import Rejects
from daemon.importer.resume import Start
from daemon.importer.sender import Sender
from daemon.importer.source import Source, StoppedError

_TOO_LONG = Refusal(Reason.LINE_TOO_LONG)


class Reading:
    """The lines of one file on their way into the sender, the rejects and the tally."""

    def __init__(
        self,
        section: Import,
        start: Start,
        sender: Sender,
        rejects: Rejects,
        tally: FileTally,
        classifier_of: Callable[[Format], Classify],
    ) -> None:
        self._line_bytes_max = section.line_bytes_max
        self._call_events_max = section.call_events_max
        self._lines = Lines(section.line_bytes_max, start.position, start.digest, inside_line=start.inside_line)
        self._sender = sender
        self._rejects = rejects
        self._tally = tally
        self._classifier_of = classifier_of
        self._classify: Classify | None = None
        self._batch: list[Event] = []

    async def run(self, source: Source) -> None:
        """Raises UnreadableError and StoppedError after all that was read before is counted and recorded.

        Raises at once: StoreError, ConfigError, and TallydError if rejected lines cannot be written.
        """
        try:
            async with aclosing(read_ahead(source.chunks(self._lines.position().bytes))) as chunks:
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
        """Classifys the lines that end in a chunk. An empty one says that nothing came for a while."""
        if not chunk and self._batch:  # the events of a silent pipe do not wait for more
            await self._send(self._lines.boundary())
            await self._sender.drain()
        for line in self._lines.feed(chunk):
            if self._is_event(line) and len(self._batch) >= self._call_events_max:
                await self._send(self._lines.position())

    async def _finish(self, reached: Position) -> None:
        if self._batch:
            await self._send(reached)
        await self._sender.drain()
        await self._sender.save(reached)

    async def _send(self, reached: Position) -> None:
        batch, self._batch = self._batch, []
        await self._sender.send(batch, reached)

    def _is_event(self, line: bytes) -> bool:
        """Adds a line to the next call, or to one of the tallies."""
        self._tally.lines += 1
        if len(line) > self._line_bytes_max:
            outcome: Event | LeftOut | Refusal = _TOO_LONG
        else:
            if self._classify is None:  # made for the first line: a file with nothing new needs no routes
                self._classify = self._classifier_of(Format(self._tally.format))
            outcome = self._classify(line, self._lines.line_id)
        if isinstance(outcome, Event):
            self._batch.append(outcome)
            return True
        if isinstance(outcome, LeftOut):
            self._tally.left_out[outcome.value] += 1
        else:
            self._tally.rejected[outcome.reason.value] += 1
            self._rejects.add(self._tally.name, self._lines.number, outcome, line)
        return False
