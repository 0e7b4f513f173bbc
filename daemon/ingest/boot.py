"""What one worker builds from its configuration: at its start, on a reload, and what it closes at its stop.

`rsgi.py` and `asgi.py` call it when the server does. It ties the application (`app.py`) to the daemon's main process
(`process/worker.py`), so that neither knows the other. It answers no request.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from daemon import config as configuration
from daemon import log, traces
from daemon.buffer.connection import Connection
from daemon.buffer.counters import Counters, Limits
from daemon.buffer.layout import Layout
from daemon.buffer.outcome import Counted, Limited
from daemon.buffer.wire import Request
from daemon.config import Config, has_windows
from daemon.errors import LayoutError, StoreError
from daemon.ingest import health
from daemon.ingest.app import App
from daemon.ingest.batcher import Batcher, Call
from daemon.ingest.decode import Decoder, build_catalogue
from daemon.ingest.durable import Durable
from daemon.ingest.handler import Handler
from daemon.ingest.process import descriptors
from daemon.ingest.process.rundir import ConfigSnapshot, of_this_process
from daemon.ingest.process.worker import Worker
from daemon.ingest.requests import OpenRequests
from daemon.ingest.told import ToldCounters
from daemon.ingest.unconfirmed import Unconfirmed
from daemon.ingest.visitors import Visitors
from daemon.metrics import PUBLISH_INTERVAL_S, IngestTally
from daemon.read.api import Api
from daemon.spool.register import Reporter
from daemon.web.assets import Assets

GC_THRESHOLD_OBJECTS = 20_000
"""New objects between two collections. At Python's 700 the collector ran every 20 requests, for 3 % of the time."""

_log = logging.getLogger(__name__)


class Boot:
    """Starts, reconfigures and stops one worker."""

    def __init__(self, config: Config, worker: Worker | None = None) -> None:
        """`worker`: the tie to the daemon's main process, if there is one."""
        self._config = config
        self._worker = worker

    async def start(self) -> App:
        """Call it once, before the first request. Raises LayoutError if Redis is laid out differently."""
        config, tally = self._config, IngestTally()
        self._exported = contextlib.ExitStack()
        self._exported.enter_context(traces.exported(config.traces, "ingest"))
        layout, limits = Layout(config), Limits.of(config)
        self._tally = tally
        self._probe = Connection(config.redis, layout)
        self._connections = [Connection(config.redis, layout, shard) for shard in range(config.redis.shards)]
        kind = _TracedCounters if config.traces.endpoint else ToldCounters if config.log.counts else Counters
        self._counters = [kind(each, shard, limits) for shard, each in enumerate(self._connections)]
        self._unconfirmed = Unconfirmed.of_all(config, layout, self._counters, self._connections)
        for each in self._unconfirmed:
            each.start()
        self._durable = Durable(self._counters, self._probe, config) if config.spool.dir else None
        calls: list[Call] = [each.ingest for each in self._counters]
        if self._durable is not None:
            calls = [partial(self._durable.ingest, shard) for shard in range(config.redis.shards)]
        self._batchers = [Batcher(call, tally, config.ingest) for call in calls]
        try:
            await self._probe.connect()
        except LayoutError:
            raise
        except StoreError as error:
            _log.warning("%s. Until it can, events go to the spool, or are answered 503 without one.", error)
        self._handler = Handler(config, _decoder(config), _robot_decoder(config), self._batchers, tally)
        self._visitors = Visitors(self._probe)
        self._visits: asyncio.Task[None] | None = None
        if has_windows(config):
            await self._visitors.refresh()
        self._keep_visitors(config)
        self._reads = Api(config)
        self._requests = OpenRequests(config.http, config.budget, tally)
        self._condition = health.Condition(self._probe, self._durable, self._batchers)
        self._app = App(
            config, self._requests, self._handler, self._reads, self._visitors, Assets(), self._condition.readyz
        )
        self._key_note: asyncio.Future[None] = asyncio.create_task(self._note_keys([]))
        self._publisher = asyncio.create_task(self._publish())
        self._reporter = Reporter(self._probe, Path(config.spool.dir)) if config.spool.dir else None
        if self._worker is not None:
            condition = self._condition
            self._worker.start(
                self._requests.was_busy,
                condition.stuck,
                lambda: condition.ready().status != "unavailable",
                self._requests.close,
                self.reconfigure,
            )
        return self._app

    def reconfigure(self, config: Config) -> None:
        """Another configuration from the next request on. Everything about the stores stays as it was."""
        decoder, robot_decoder = _decoder(config), _robot_decoder(config)  # first: if this fails, nothing has changed
        for batcher in self._batchers:
            batcher.resize(config.ingest)
        self._handler.reconfigure(config, decoder, robot_decoder)
        self._requests.reconfigure(config.http, config.budget)
        self._app.reconfigure(config)
        self._keep_visitors(config)
        self._reads.reconfigure(config)

    async def stop(self) -> None:
        """Granian calls it once every connection is closed. It is never called in a worker that was killed.

        So no event that was answered may depend on it. What is sealed here, the next daemon would find unsealed.
        """
        descriptors.allow_all()  # see `handover.leave`
        for batcher in self._batchers:
            await batcher.drain()
        self._publisher.cancel()
        if self._visits is not None:
            self._visits.cancel()
        self._key_note.cancel()
        self._condition.close()
        self._requests.stop()
        self._tally.publish(0, 0)
        if self._durable is not None:
            await self._durable.close()
        for each in self._unconfirmed:
            await each.close()
        if self._reporter is not None:
            await self._reporter.close()
        await self._reads.close()
        for connection in (self._probe, *self._connections):
            await connection.close()
        self._exported.close()

    def _keep_visitors(self, config: Config) -> None:
        if self._visits is None and has_windows(config):
            self._visits = asyncio.create_task(self._visitors.keep())

    async def _publish(self) -> None:
        while True:
            await asyncio.sleep(PUBLISH_INTERVAL_S)
            self._condition.look()
            if (used := self._app.used_keys()) and self._key_note.done():
                self._key_note = asyncio.create_task(self._note_keys(used))
            self._tally.publish(sum(batcher.waiting_events for batcher in self._batchers), self._requests.in_flight)
            self._reads.tally.publish()

    async def _note_keys(self, used: list[str]) -> None:
        """Notes when these keys were last used, for `tallyd key list`. A note that is lost is no harm."""
        if used:
            at = str(int(time.time()))
            with contextlib.suppress(StoreError):
                await self._probe.command("HSET", self._probe.keys.used, *(each for id_ in used for each in (id_, at)))


class _TracedCounters(Counters):
    """Without spans, a call does not even ask whether there are any."""

    async def ingest(self, requests: Sequence[Request]) -> list[Counted | Limited]:
        called: dict[str, str | int] = {
            "db.system.name": "redis",
            "tallyd.shard": self.shard,
            "tallyd.requests": len(requests),
        }
        with traces.span("ingest.lua", called):
            return await super().ingest(requests)


def create() -> Boot:
    """Of a worker process, with the configuration that the main process published; without one, loaded."""
    gc.freeze()  # the imported modules stay; the collector need not look at them
    gc.set_threshold(GC_THRESHOLD_OBJECTS)
    run_dir = of_this_process()
    snapshot = run_dir.snapshot() if run_dir else ConfigSnapshot(0, configuration.load())
    logged = snapshot.config.log
    log.configure(logged.level, logged.format, counts=logged.counts)
    return Boot(snapshot.config, Worker(run_dir, snapshot.generation) if run_dir else None)


def _decoder(config: Config, *, apart: bool = False) -> Decoder:
    catalogue = build_catalogue(config, apart=apart)
    return Decoder(catalogue, batch_events_max=config.http.batch_events_max, clock=time.time)


def _robot_decoder(config: Config) -> Decoder | None:
    """Of robots' events, which move counters of their own. None: they are counted as others, or not at all."""
    return _decoder(config, apart=True) if config.browser.robots == "apart" else None
