"""Imports all files of one `tallyd import`, one after the other, until a signal stops it. It prints nothing."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from rich.progress import Progress, TaskID

from daemon.buffer.imports import as_recorded
from daemon.config import Config, Import
from daemon.errors import TallydError
from daemon.importer.classify import Classifier, recognise
from daemon.importer.outcome import FileTally, Format
from daemon.importer.reading import Reading
from daemon.importer.rejects import Rejects
from daemon.importer.resume import find_start
from daemon.importer.sender import Sender
from daemon.importer.source import Source, StoppedError, UnreadableError
from daemon.importer.store import Store, opened_store
from daemon.lifecycle import stopped_by_signals

WATCH_INTERVAL_S = 0.1
CLOCK_MARGIN_S = 60
"""Clocks of two hosts that import may differ so much."""


class Outcome(NamedTuple):
    """`stopped_by`: the signal that ended the run, if any. `failure`: the error that ended it, if any."""

    files: list[FileTally]
    stopped_by: signal.Signals | None
    failure: TallydError | None


async def run(
    config: Config,
    sources: Sequence[Source],
    rejects: Rejects,
    bar: Progress,
    stopping: threading.Event,
    *,
    chosen: Format,
    producer: str,
    again: bool,
    dry_run: bool,
) -> Outcome:
    """Imports the files in order. A file that cannot be read does not stop the others.

    `bar` shows for each file the bytes that were read: of a gzipped file, of its compressed size. `producer`: whose
    event ids the NDJSON files hold; "": those of senders without a key. `again`: lines that were imported are read
    again, as far back as Redis knows their ids.
    """
    files: list[FileTally] = []
    failure: TallydError | None = None
    try:
        async with stopped_by_signals(stopping) as received, opened_store(config, stopping, dry_run=dry_run) as store:
            classifier = Classifier(config, producer)
            importer = _Importer(config.import_, store, rejects, bar, classifier, chosen, _window(config, again=again))
            for source in sources:
                if stopping.is_set():
                    break
                files.append(FileTally(source.name))
                await importer.run(source, files[-1])
            await store.settle()
    except TallydError as error:
        failure = error
    finally:
        stopping.set()  # ends a thread that still waits for a pipe
        rejects.close()
        for source in sources:
            source.close()
    return Outcome(files, received[0] if received else None, failure)


def _window(config: Config, *, again: bool) -> timedelta | None:
    """How long Redis knows an id at least."""
    return timedelta(seconds=max(0, config.dedupe.window_s - CLOCK_MARGIN_S)) if again else None


class _Importer(NamedTuple):
    """What all files of a command share."""

    section: Import
    store: Store
    rejects: Rejects
    bar: Progress
    classifier: Classifier
    chosen: Format
    again: timedelta | None
    """Lines that were imported in this time are read again."""

    async def run(self, source: Source, tally: FileTally) -> None:
        """Imports one file. `tally` gets the result, and the reason if the file was not read to its end.

        Raises StoreError, ConfigError, and TallydError if rejected lines cannot be written.
        """
        started = time.monotonic()
        shown = self.bar.add_task(Path(source.name).name, total=source.size_bytes)
        watching = asyncio.create_task(self._watch(source, shown))
        try:
            await self._run(source, tally)
        except UnreadableError as error:
            tally.error = str(error)
        except StoppedError:
            tally.error = "stopped before its end"
        finally:
            watching.cancel()
            self.bar.update(shown, completed=source.done_bytes)
            # Unless the run was stopped, every event was answered, and this is 0.
            tally.unsent = tally.events - tally.counted - tally.duplicates
            tally.seconds = time.monotonic() - started

    async def _run(self, source: Source, tally: FileTally) -> None:
        now = datetime.now(UTC)
        start = await find_start(source, self.store, None if self.again is None else as_recorded(now - self.again))
        tally.from_line = start.position.lines + 1
        chosen = recognise(start.opening) if self.chosen is Format.AUTO else self.chosen
        tally.format = chosen.value
        calls_max = self.section.calls_in_flight_max
        began = start.began or as_recorded(now)
        sender = Sender(self.store, tally, self.rejects, start.first_line, start.position.bytes, began, calls_max)
        try:
            await Reading(self.section, start, sender, self.rejects, tally, self.classifier).run(source)
        finally:
            await sender.abandon()

    async def _watch(self, source: Source, shown: TaskID) -> None:
        while True:
            self.bar.update(shown, completed=source.done_bytes)
            await asyncio.sleep(WATCH_INTERVAL_S)
