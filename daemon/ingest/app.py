"""One worker of the ingest daemon: its routes and limits, and what it holds from start to stop.

The servers' protocols are in `rsgi.py` and `asgi.py`; what a request means is the handler's business. Granian limits
neither a body's size nor the time a half-sent one may take, so both limits are enforced here. What the daemon's main
process wants of the worker comes by way of `worker.py`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Coroutine
from typing import Any, NamedTuple, Protocol

from daemon import config as configuration
from daemon import log
from daemon.buffer.connection import Connection
from daemon.buffer.counters import Counters, Limits
from daemon.buffer.layout import Layout
from daemon.config import Config
from daemon.errors import LayoutError, StoreError
from daemon.ingest import health, response
from daemon.ingest.batcher import Batcher, Store
from daemon.ingest.decode import Decoder, build_catalogue
from daemon.ingest.durable import Durable
from daemon.ingest.handler import Handler
from daemon.ingest.process.rundir import Snapshot, of_this_process
from daemon.ingest.process.worker import Worker
from daemon.metrics import PUBLISH_INTERVAL_S, IngestTally
from daemon.read.api import PREFIXES as READ_PREFIXES
from daemon.read.api import Api
from daemon.response import Response

EVENTS_PATH = "/api/v1/analytics/events"
BATCH_PATH = "/api/v1/analytics/events/batch"
LOOKS_PER_BODY_TIMEOUT = 4
GC_THRESHOLD_OBJECTS = 20_000
"""New objects between two collections. At Python's 700 the collector ran every 20 requests, for 3 % of the time."""

_JSON_TYPES = frozenset({"application/json", "text/plain"})
_NDJSON_TYPES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})

_log = logging.getLogger(__name__)


class Head(NamedTuple):
    """What matters of a request's head. `length` is -1 without one; `kind` (the content type) and `key` are "" without
    one; `client` is the peer's address."""

    method: str
    path: str
    length: int
    kind: str
    key: str
    client: str


class Request(Protocol):
    """A request as the server in front hands it out."""

    @property
    def head(self) -> Head: ...

    @property
    def query(self) -> str: ...

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """All of them, names in lower case."""

    async def read(self, length: int, bytes_max: int) -> bytes | None:
        """The whole body, None if it is larger than allowed. Raises CutOffError if it ends early."""


class Reading(Protocol):
    """Whoever waits for a body, and can be told to wait no longer."""

    def cancel(self) -> Any: ...


class CutOffError(Exception):
    """The client went away before its body was complete."""


class App:
    """One worker."""

    def __init__(self, config: Config, worker: Worker | None = None) -> None:
        """`worker`: the tie to the daemon's main process, when there is one."""
        self._worker = worker
        self._tally = IngestTally()
        self._unsupported = {
            False: response.unsupported("application/json or text/plain"),
            True: response.unsupported("application/json, text/plain or application/x-ndjson"),
        }
        self._post_only = response.method_not_allowed("POST")
        self._get_only = response.method_not_allowed("GET, HEAD")
        self._in_flight = 0
        self._reading: dict[Reading, int] = {}
        """Requests whose body is being read → the look at which that began."""
        self._late: set[Reading] = set()
        """Those of them that were given up."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._looks = 0
        self._looker: asyncio.TimerHandle | None = None
        self._closing = False
        self._farewells = 0
        self._connections: list[Connection] = []
        self._counters: list[Counters] = []
        self._durable: Durable | None = None
        self._batchers: list[Batcher] = []
        self._handler: Handler | None = None
        self._reads: Api | None = None
        self._publisher: asyncio.Task[None] | None = None
        self._configure(config)

    def _configure(self, config: Config) -> None:
        self._config = config
        self._http = config.http
        self._body_timeout_s = config.http.body_timeout_ms / 1000
        self._producer_keys = frozenset(config.producers.keys.values())
        self._overloaded = response.unavailable(config.ingest.retry_after_s)
        self._too_large = {
            False: response.too_large(config.http.event_bytes_max),
            True: response.too_large(config.http.batch_bytes_max),
        }

    def reconfigure(self, config: Config) -> None:
        """Works with another configuration from the next request on. What belongs to the stores stays as it was."""
        handler = self._build_handler(config)  # first: nothing is changed yet should it fail
        self._configure(config)
        for counters in self._counters:
            counters.limit_rate(config.rate_limit.per_minute)
        for batcher in self._batchers:
            batcher.resize(
                queue_events_max=config.ingest.queue_events_max,
                call_events_max=config.ingest.call_events_max,
                calls_in_flight_max=config.ingest.calls_in_flight_max,
            )
        self._handler = handler
        if self._reads is not None:
            self._reads.reconfigure(config)

    @property
    def closing(self) -> bool:
        return self._closing

    @property
    def closing_s(self) -> float:
        return self._http.closing_ms / 1000

    def close_gently(self) -> None:
        """From now on every answer asks its client to connect anew, elsewhere.

        Half-sent bodies get half the time there is to stop, so that the other half is left for the rest.
        """
        if self._closing:
            return
        self._closing = True
        grace_s = self._http.drain_timeout_s / 2
        self._body_timeout_s = min(self._body_timeout_s, grace_s)
        self._loop.call_later(grace_s, self._give_up_bodies, 0)

    def _look_for_late_bodies(self) -> None:
        """One timer for all requests: a timer each cost 4 % of the throughput. A body gets its time and up to a quarter
        more."""
        self._looks += 1
        self._give_up_bodies(LOOKS_PER_BODY_TIMEOUT + 1)
        self._looker = self._loop.call_later(self._body_timeout_s / LOOKS_PER_BODY_TIMEOUT, self._look_for_late_bodies)

    def _give_up_bodies(self, looks: int) -> None:
        """Those that are being read for so many looks."""
        for reading, since in list(self._reading.items()):
            if self._looks - since >= looks and reading not in self._late:
                self._late.add(reading)
                reading.cancel()

    def take_farewells(self) -> int:
        """How many requests were answered with `connection: close` since the last time, or are being answered."""
        farewells, self._farewells = self._farewells, 0
        return farewells + self._in_flight

    @property
    def handler(self) -> Handler:
        assert self._handler is not None
        return self._handler

    def takes(self, head: Head) -> bool:
        """Whether this is a single event in good form, and now is the time for it. `answer` knows what else to say."""
        return (
            head.path == EVENTS_PATH
            and head.method == "POST"
            and 0 <= head.length <= self._http.event_bytes_max
            and head.kind in _JSON_TYPES
            and (not head.key or head.key in self._producer_keys)
            and self._in_flight < self._http.requests_in_flight_max
        )

    def enter(self, reading: Reading) -> None:
        """A request begins, and with it the time its body may take; then `cancel` is called."""
        self._in_flight += 1
        self._reading[reading] = self._looks

    def has_read(self, reading: Reading) -> None:
        """The body is there, or will never be."""
        del self._reading[reading]
        if self._late:
            self._late.discard(reading)

    def leave(self, answer: Response) -> None:
        """A request that entered is answered."""
        self._in_flight -= 1
        self._note(answer)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs it in a task of its own."""
        task = self._loop.create_task(work)
        self._tasks.add(task)  # the loop itself holds it only weakly
        task.add_done_callback(self._tasks.discard)

    def _note(self, answer: Response) -> None:
        self._tally.answered(answer.status)
        self._farewells += self._closing

    async def answer(self, request: Request) -> Response:
        """What a request gets, whatever happens."""
        head = request.head
        if self._in_flight >= self._http.requests_in_flight_max and head.path != "/healthz":
            answer = self._overloaded  # a supervisor's question is not refused: a busy worker is a live one
        else:
            self._in_flight += 1
            try:
                answer = await self._answer(head, request)
            except Exception:  # noqa: BLE001  (whatever it is, the client gets an answer without its text)
                _log.exception("A request failed")
                answer = response.FAILED
            finally:
                self._in_flight -= 1
        self._note(answer)
        return answer

    async def _answer(self, head: Head, request: Request) -> Response:
        method, path, length, kind, key, client = head
        batch = path == BATCH_PATH
        if not batch and path != EVENTS_PATH:
            return await self._other(head, request)
        if method != "POST":
            return self._post_only
        if kind and kind not in _JSON_TYPES:
            kind = kind.partition(";")[0].strip().lower()
            if kind not in _JSON_TYPES and not (batch and kind in _NDJSON_TYPES):
                return self._unsupported[batch]
        if key and key not in self._producer_keys:
            return response.UNKNOWN_KEY
        bytes_max = self._http.batch_bytes_max if batch else self._http.event_bytes_max
        if length > bytes_max:
            return self._too_large[batch]
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._reading[task] = self._looks
        try:
            body = await request.read(length, bytes_max)
        except asyncio.CancelledError:
            if task not in self._late:
                raise  # not our deadline: the worker is stopping
            task.uncancel()
            return response.BODY_TIMEOUT
        except CutOffError:
            return response.BODY_CUT_OFF
        finally:
            self.has_read(task)
        if body is None or len(body) > bytes_max:
            return self._too_large[batch]
        address = "" if key else client
        if batch:
            return await self.handler.batch(body, address, ndjson=kind in _NDJSON_TYPES)
        return await self.handler.event(body, address)

    async def _other(self, head: Head, request: Request) -> Response:
        path, method = head.path, head.method
        if path.startswith(READ_PREFIXES) and self._reads is not None:
            return await self._reads.answer(method, path, request.query, request.headers)
        if path not in ("/healthz", "/readyz", "/metrics"):
            return response.NOT_FOUND
        if method not in ("GET", "HEAD"):
            return self._get_only
        if path == "/healthz":
            return health.healthz()
        if path == "/readyz":
            spooling = self._durable is not None and self._durable.spooling
            return await health.readyz(self._connections[0], spooling=spooling)
        return health.metrics_page()

    async def start(self) -> None:
        """Call in the running loop, before the first request. Raises LayoutError if Redis is laid out differently."""
        self._loop = asyncio.get_running_loop()  # asked for once: on Python 3.11 each time is a system call
        self._look_for_late_bodies()
        config = self._config
        layout = Layout(config)
        limits = Limits(config.rate_limit.per_minute, config.dedupe.window_s, config.dedupe.events_per_window)
        probe = Connection(config.redis, layout)
        self._connections = [probe, *(Connection(config.redis, layout) for _ in range(config.redis.shards))]
        stores: list[Store] = []
        counters = [Counters(self._connections[1 + shard], shard, limits) for shard in range(config.redis.shards)]
        self._counters = counters
        if config.spool.dir:
            self._durable = Durable(counters, probe, config.spool)
            self._durable.start()
            stores = [self._durable.shard(shard) for shard in range(config.redis.shards)]
        for store in stores or counters:
            self._batchers.append(
                Batcher(
                    store,
                    self._tally,
                    queue_events_max=config.ingest.queue_events_max,
                    call_events_max=config.ingest.call_events_max,
                    calls_in_flight_max=config.ingest.calls_in_flight_max,
                )
            )
        try:
            await probe.connect()
        except LayoutError:
            raise
        except StoreError as error:
            _log.warning("%s. Until it can, events go to the spool, or are answered 503 without one.", error)
        self._handler = self._build_handler(config)
        self._reads = Api(config)
        self._publisher = asyncio.create_task(self._publish())
        if self._worker is not None:
            self._worker.start(self)

    def _build_handler(self, config: Config) -> Handler:
        decoder = Decoder(build_catalogue(config), batch_events_max=config.http.batch_events_max, clock=time.time)
        return Handler(config, decoder, self._batchers, self._tally, time.monotonic)

    async def _publish(self) -> None:
        while True:
            await asyncio.sleep(PUBLISH_INTERVAL_S)
            self._tally.publish(sum(batcher.waiting_events for batcher in self._batchers))

    async def stop(self) -> None:
        """Granian asks for it once every connection is closed; a worker killed before that never comes here. So nothing
        that was answered may depend on it: what is sealed here, the next daemon would find unsealed."""
        for batcher in self._batchers:
            await batcher.drain()
        if self._publisher is not None:
            self._publisher.cancel()
        if self._looker is not None:
            self._looker.cancel()
        self._tally.publish(0)
        if self._durable is not None:
            await self._durable.close()
        if self._reads is not None:
            await self._reads.close()
        for connection in self._connections:
            await connection.close()


def create() -> App:
    """A worker's, with the configuration the main process published; without one, loaded."""
    gc.freeze()  # what was imported stays; the collector need not look at it
    gc.set_threshold(GC_THRESHOLD_OBJECTS)
    run_dir = of_this_process()
    snapshot = run_dir.snapshot() if run_dir else Snapshot(0, configuration.load())
    log.configure(snapshot.config.log.level, snapshot.config.log.format)
    return App(snapshot.config, Worker(run_dir, snapshot.generation) if run_dir else None)
