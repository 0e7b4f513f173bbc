"""Imports one file: finds where to start, reads it from there, and tallies the result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from daemon.config import Import
from daemon.importer.classify import Classify, Format, recognise
from daemon.importer.gunzip import UnreadableError
from daemon.importer.outcome import FileTally
from daemon.importer.reading import Reading
from daemon.importer.rejects import Rejects
from daemon.importer.resume import find_start
from daemon.importer.sender import Sender
from daemon.importer.source import Source, StoppedError
from daemon.importer.store import Store

WATCH_INTERVAL_S = 0.1


class Watcher(Protocol):
    """Is told how far the reading has come: the progress bar."""

    def begin(self, source: Source) -> None: ...

    def advance(self, source: Source) -> None: ...


class Importer(NamedTuple):
    """What all files of a command share."""

    section: Import
    store: Store
    rejects: Rejects
    watcher: Watcher
    classifier_of: Callable[[Format], Classify]
    """Raises ConfigError if the configuration lacks what the format needs."""
    forced: Format | None = None

    async def run(self, source: Source, tally: FileTally) -> None:
        """Imports one file. `tally` gets the result, and the reason if the file was not read to its end.

        Raises StoreError, ConfigError, and TallydError if rejected lines cannot be written.
        """
        started = time.monotonic()
        self.watcher.begin(source)
        watching = asyncio.create_task(self._watch(source))
        try:
            await self._run(source, tally)
        except UnreadableError as error:
            tally.error = str(error)
        except StoppedError:
            tally.error = "stopped before its end"
        finally:
            watching.cancel()
            self.watcher.advance(source)
            # Unless the run was stopped, every event was answered, and this is 0.
            tally.unsent = tally.events - tally.counted - tally.duplicates
            tally.seconds = time.monotonic() - started
            source.close()

    async def _run(self, source: Source, tally: FileTally) -> None:
        start = await find_start(source, self.store)
        tally.from_line = start.position.lines + 1
        tally.format = (self.forced or recognise(start.opening)).value
        calls_max = self.section.calls_in_flight_max
        sender = Sender(self.store, tally, self.rejects, start.first_line, start.position, calls_max)
        try:
            await Reading(self.section, start, sender, self.rejects, tally, self.classifier_of).run(source)
        finally:
            await sender.abandon()

    async def _watch(self, source: Source) -> None:
        while True:
            self.watcher.advance(source)
            await asyncio.sleep(WATCH_INTERVAL_S)
