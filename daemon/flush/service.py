"""The flush daemon as a process: signals, reloads, metrics and messages to systemd. The flusher does the work."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from prometheus_client.registry import Collector

from daemon import lifecycle, log, metrics, notify
from daemon.config import NOTHING_MAPPED, Config, read_at_start, replica_tables, unmapped_types
from daemon.errors import unforeseen
from daemon.exposition import expose
from daemon.flush.flusher import Flusher
from daemon.flush.gauges import StoreGauges
from daemon.response import Ready
from daemon.scheduling import give_way

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

CLOSE_TIMEOUT_S = 2.0
STATUS_INTERVAL_S = 5.0
TURN_TIMEOUT_S = 5.0
"""An event loop that does not turn for so long hangs. The rollups of a large claim keep it for a tenth of that."""

_log = logging.getLogger(__name__)


async def serve(config: Config, load: Callable[[], Config]) -> None:
    """Flushes until SIGTERM or SIGINT. `load` reads the configuration anew on SIGHUP. Raises LayoutError."""
    give_way(config.flush.niceness)
    service = Service(config, load)
    lifecycle.on_signals(stop=service.stop, reload=service.reload)
    if config.flush.metrics_port:
        service.expose(config.flush.metrics_port)
    await service.run()
    _log.info("Stopped. What is still in Redis is flushed at the next start.")


class Service:
    """Runs one flusher after another. A reload prepares the next one, and exchanges the two between two claims."""

    def __init__(self, config: Config, load: Callable[[], Config]) -> None:
        """`load` raises TallydError. Create it in the running loop."""
        self._started_with = self._config = config
        self._load = load
        self._flusher = Flusher(config)
        self._status = "Waiting for Redis and MongoDB"
        self._reload_wanted = asyncio.Event()
        self.generation = 0
        """How often the configuration was reloaded."""
        self.reload_ok = True
        """Whether the last reload was. Before the first one it was."""
        self._is_ready = False
        """Whether the flusher's loops run."""
        self._stopping = False
        self._loop = asyncio.get_running_loop()

    @property
    def held(self) -> int:
        """How many shards wait for an operator."""
        return sum(shard.drain.is_held for shard in self._flusher.shards)

    def stop(self) -> None:
        notify.notify("STOPPING=1", "STATUS=Finishing the claim under way")
        self._stopping = True
        self._flusher.stop()

    def reload(self) -> None:
        self._reload_wanted.set()

    def expose(self, port: int) -> None:
        """Serves the metrics, and whether the daemon lives and is ready."""
        stores = StoreGauges(lambda: self._config, lambda: self._flusher.emptied_at)
        stores.start()
        own = (metrics.FLUSH, stores, _ServiceGauges(self))
        expose(port, "flush.metrics_port", own, self._hanging, self._readiness)

    def _hanging(self) -> str | None:
        """The step that hangs, or the event loop itself; None if neither does. Called in the metrics' threads."""
        turned = threading.Event()
        self._loop.call_soon_threadsafe(turned.set)
        return self._flusher.stuck() or (None if turned.wait(TURN_TIMEOUT_S) else "The event loop")

    def _readiness(self) -> Ready:
        if (what := self._hanging()) is not None:
            return Ready("unavailable", stuck=what)
        return Ready("ready" if self._is_ready and not self._stopping else "unavailable")

    async def run(self) -> None:
        reports = asyncio.create_task(self._report())
        try:
            while (successor := await self._run_flusher()) is not None:
                await _close(self._flusher)
                successor.emptied_at |= self._flusher.emptied_at
                self._flusher = successor
                if self._stopping:  # the stop came during the exchange
                    successor.stop()
        finally:
            reports.cancel()
            await _close(self._flusher)

    async def _run_flusher(self) -> Flusher | None:
        """Runs the flusher until it stops (None), or until its successor is ready (the successor)."""
        running = asyncio.create_task(self._flusher.run(self._ready))
        exchange = asyncio.create_task(self._prepare_successor())
        try:
            await asyncio.wait({running, exchange}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
                return None
            self._flusher.stop()
            await running
            return exchange.result()
        finally:
            for task in (running, exchange):
                task.cancel()
            await asyncio.wait({running, exchange})

    def _ready(self) -> None:
        self._is_ready = True
        flush = self._config.flush
        self._status = (
            f"Flushing every {flush.interval_s:g} s or at {flush.threshold} dirty entities; MySQL replica"
            f" {_replica(self._config)}"
        )
        _log.info("%s.", self._status)
        if self._config.mysql.url and not replica_tables(self._config):
            _log.warning("%s.", NOTHING_MAPPED)
        notify.ready(self._status)

    async def _prepare_successor(self) -> Flusher:
        """Waits for a reload that succeeds. One that fails changes nothing."""
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            notify.reloading()
            try:
                config = self._load()
                successor = await _prepared(config)
            except Exception as error:  # noqa: BLE001 # whatever is wrong with the new configuration, the old one works
                self.reload_ok = False
                _log.error("Not reloaded. The old configuration stays. %s", error, exc_info=unforeseen(error))
                notify.ready(f"{self._status}; the new configuration cannot be used, and the old one stays")
                continue
            keys = [key for key in lifecycle.changed(self._config, config) if not read_at_start("flush", key)]
            late = [key for key in lifecycle.changed(self._started_with, config) if read_at_start("flush", key)]
            log.configure(config.log.level, config.log.format, counts=config.log.counts)
            _log.info("Reloaded; changed: %s.", ", ".join(keys) or "nothing")
            if late:
                _log.warning("Changed, but used only after the next start: %s.", ", ".join(late))
            self._config, self.reload_ok = config, True
            self.generation += 1
            return successor

    async def _report(self) -> None:
        """Tells systemd that the loops run, and what they wait for. A store that is away is no reason to be killed."""
        interval_s = notify.watchdog_interval_s()
        told = ""
        while True:
            await asyncio.sleep(interval_s or STATUS_INTERVAL_S)
            if step := self._flusher.stuck():
                _log.error("This step hangs, although each of its calls has a time-out: %s.", step)
            elif interval_s:
                notify.notify("WATCHDOG=1")
            status = self._flusher.trouble.partition("\n")[0] or self._status
            if status != told and not self._stopping:
                notify.notify(f"STATUS={status}")
                told = status


class _ServiceGauges(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterable[Metric]:
        yield metrics.SHARDS_HELD.at(self._service.held)
        yield metrics.CONFIG_GENERATION.at(self._service.generation)
        yield metrics.CONFIG_RELOAD_OK.at(self._service.reload_ok)


def _replica(config: Config) -> str:
    """Whether columns are written, and of which entity types."""
    tables = replica_tables(config)
    if not config.mysql.url:
        return "off (mysql.url is not set)"
    if not config.enabled:
        return "off (enabled = false): the columns are the application's"
    if not tables:
        return "off (no entity type is mapped)"
    without = unmapped_types(config)
    mapped = ", ".join(f"{domain}.{kind}" for domain, kind in tables)
    return f"on for {mapped}" + (f", but not for {', '.join(without)}" if without else "")


async def _prepared(config: Config) -> Flusher:
    flusher = Flusher(config)
    try:
        await flusher.prepare()
    except BaseException:
        await _close(flusher)
        raise
    return flusher


async def _close(flusher: Flusher) -> None:
    """Closes the flusher. A store that does not answer does not stop the daemon from ending."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await flusher.close()
    except TimeoutError:
        _log.warning("A store did not answer while its connections were closed.")
