"""Imports all files of one `tallyd import`, one after the other, until a signal stops it. It prints nothing."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from daemon.config import Config
from daemon.errors import ConfigError, TallydError
from daemon.importer.classify import Classify, Format, classify_combined, classify_ndjson
from daemon.importer.mapping import Mapping
from daemon.importer.outcome import FileTally
from daemon.importer.rejects import Rejects
from daemon.importer.run import Importer, Watcher
from daemon.importer.source import Source
from daemon.importer.store import DryRun, Store, opened_store
from daemon.ingest.decode import Decoder, build_catalogue
from daemon.lifecycle import stopped_by_signals

_NO_ROUTES = """\
The configuration does not say which requests of an access log count, and as what. Add routes:

    [domains.web]
    entity_types = ["page"]

    [[import.routes]]
    pattern = '(/|\\.html)$'
    domain = "web"
    entity_type = "page"
    entity_id = "{0}"
    action = "view"

(ops/weblog.example.toml in the source tree is a complete example. If the file is NDJSON, say `--format ndjson`.)"""


class Outcome(NamedTuple):
    """`stopped_by`: the signal that ended the run, if any. `failure`: the error that ended it, if any."""

    files: list[FileTally]
    stopped_by: signal.Signals | None
    failure: TallydError | None


async def run(
    config: Config,
    sources: Sequence[Source],
    rejects: Rejects,
    watcher: Watcher,
    stopping: threading.Event,
    *,
    forced: Format | None,
    dry_run: bool,
) -> Outcome:
    """Imports the files in order. A file that cannot be read does not stop the others."""
    files: list[FileTally] = []
    failure: TallydError | None = None
    try:
        async with stopped_by_signals(stopping) as received, _store(config, stopping, dry_run=dry_run) as store:
            importer = Importer(config.import_, store, rejects, watcher, _classifiers(config), forced)
            for source in sources:
                if stopping.is_set():
                    break
                files.append(FileTally(source.name))
                await importer.run(source, files[-1])
    except TallydError as error:
        failure = error
    finally:
        stopping.set()  # ends a thread that still waits for a pipe
        rejects.close()
    return Outcome(files, received[0] if received else None, failure)


def _classifiers(config: Config) -> Callable[[Format], Classify]:
    decoder = Decoder(build_catalogue(config), batch_events_max=config.http.batch_events_max, clock=time.time)
    mapping = Mapping(config.import_)

    def classifier_of(chosen: Format) -> Classify:
        if chosen is Format.NDJSON:
            return classify_ndjson(decoder)
        if not config.import_.routes:
            raise ConfigError(_NO_ROUTES)
        return classify_combined(decoder, mapping)

    return classifier_of


@contextlib.asynccontextmanager
async def _store(config: Config, stopping: threading.Event, *, dry_run: bool) -> AsyncIterator[Store]:
    if dry_run:
        yield DryRun()
    else:
        async with opened_store(config, stopping) as store:
            yield store
