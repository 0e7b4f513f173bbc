"""The ASGI application: routes, headers and bodies. What they mean is the handler's business.

Granian imports `create` in each worker. It has no limit on a body's size or on the time a half-sent one may take, so
both are enforced here. What the daemon's main process wants of the worker comes by way of `worker.py`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from daemon import config as configuration
from daemon import log
from daemon.buffer.connection import Connection
from daemon.buffer.counters import Counters, Limits
from daemon.buffer.layout import Layout
from daemon.config import Config
from daemon.errors import LayoutError, StoreError, TallydError
from daemon.ingest import health, response
from daemon.ingest.batcher import Batcher, Store
from daemon.ingest.decode import Decoder, build_catalogue
from daemon.ingest.durable import Durable
from daemon.ingest.handler import Handler
from daemon.ingest.response import Response
from daemon.ingest.rundir import Snapshot, of_this_process
from daemon.ingest.worker import Worker
from daemon.metrics import PUBLISH_INTERVAL_S, IngestTally
from daemon.read.api import PREFIXES as READ_PREFIXES
from daemon.read.api import Api

EVENTS_PATH = "/api/v1/analytics/events"
BATCH_PATH = "/api/v1/analytics/events/batch"
LOOKS_PER_BODY_TIMEOUT = 4
GC_THRESHOLD_OBJECTS = 20_000
"""New objects between two collections. At Python's 700 the collector ran every 20 requests, for 3 % of the time."""

_JSON_TYPES = frozenset({b"application/json", b"text/plain"})
_NDJSON_TYPES = frozenset({b"application/x-ndjson", b"application/ndjson", b"application/jsonl"})

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_log = logging.getLogger(__name__)


class Head(NamedTuple):
    """The request headers that matter here. `length` is -1 without one, `kind` is "" likewise."""

    length: int
    kind: bytes
    key: bytes


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
        self._reading: dict[asyncio.Task[Any] | None, int] = {}
        """Requests whose body is being read → the look at which that began."""
        self._late: set[asyncio.Task[Any] | None] = set()
        """Those of them that were given up."""
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
        self._producer_keys = frozenset(key.encode() for key in config.producers.keys.values())
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
        for task, since in self._reading.items():
            if self._looks - since >= looks and task is not None and task not in self._late:
                self._late.add(task)
                task.cancel()

    def take_farewells(self) -> int:
        """How many requests were answered with `connection: close` since the last time, or are being answered."""
        farewells, self._farewells = self._farewells, 0
        return farewells + self._in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http_request(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _http_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._in_flight >= self._http.requests_in_flight_max and scope["path"] != "/healthz":
            answer = self._overloaded  # a supervisor's question is not refused: a busy worker is a live one
        else:
            self._in_flight += 1
            try:
                answer = await self._answer(scope, receive)
            except Exception:  # noqa: BLE001  (whatever it is, the client gets an answer without its text)
                _log.exception("A request failed")
                answer = response.FAILED
            finally:
                self._in_flight -= 1
        self._tally.answered(answer.status)
        if self._closing:
            self._farewells += 1
            await send(answer.farewell_message)
        else:
            await send(answer.start_message)
        await send(answer.body_message)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        path = scope["path"]
        batch = path == BATCH_PATH
        if not batch and path != EVENTS_PATH:
            return await self._other(scope)
        if scope["method"] != "POST":
            return self._post_only
        head = _read_head(scope["headers"])
        if head.kind and head.kind not in _JSON_TYPES and not (batch and head.kind in _NDJSON_TYPES):
            return self._unsupported[batch]
        if head.key and head.key not in self._producer_keys:
            return response.UNKNOWN_KEY
        bytes_max = self._http.batch_bytes_max if batch else self._http.event_bytes_max
        if head.length > bytes_max:
            return self._too_large[batch]
        body = await self._read_body(receive, head.length, bytes_max)
        if body is None:
            return self._too_large[batch]
        if isinstance(body, Response):
            return body
        assert self._handler is not None
        address = "" if head.key else scope["client"][0]
        if batch:
            return await self._handler.batch(body, address, ndjson=head.kind in _NDJSON_TYPES)
        return await self._handler.event(body, address)

    async def _other(self, scope: Scope) -> Response:
        path, method = scope["path"], scope["method"]
        if path.startswith(READ_PREFIXES) and self._reads is not None:
            query = scope["query_string"].decode(errors="replace")
            return response.of_read(await self._reads.answer(method, path, query, scope["headers"]))
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

    async def _read_body(self, receive: Receive, length: int, bytes_max: int) -> bytes | Response | None:
        """The whole body; None if it is larger than allowed; or the answer to a body that did not arrive."""
        task = asyncio.current_task(self._loop)
        self._reading[task] = self._looks
        try:
            message = await receive()
            body: bytes = message.get("body", b"")
            # With Content-Length reached, the `receive` that would only say "that was all" is saved.
            while message.get("more_body") and len(body) != length:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > bytes_max:
                    return None
            if message["type"] != "http.request":  # the client went away; what it sent may look whole
                return response.BODY_CUT_OFF
        except asyncio.CancelledError:
            if task is None or task not in self._late:
                raise  # not our deadline: the worker is stopping
            task.uncancel()
            return response.BODY_TIMEOUT
        finally:
            del self._reading[task]
            if self._late:
                self._late.discard(task)
        return body if len(body) <= bytes_max else None

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._start()
                except Exception as error:  # noqa: BLE001  (whatever it is, the worker must not serve)
                    # Granian only logs an exception here and serves all the same; this makes it stop.
                    _log.error("Start-up failed: %s", error, exc_info=not isinstance(error, TallydError))
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                if self._worker is not None:
                    self._worker.start(self)
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _start(self) -> None:
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

    def _build_handler(self, config: Config) -> Handler:
        decoder = Decoder(build_catalogue(config), batch_events_max=config.http.batch_events_max, clock=time.time)
        return Handler(config, decoder, self._batchers, self._tally, time.monotonic)

    async def _publish(self) -> None:
        while True:
            await asyncio.sleep(PUBLISH_INTERVAL_S)
            self._tally.publish(sum(batcher.waiting_events for batcher in self._batchers))

    async def _stop(self) -> None:
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


def _read_head(headers: list[tuple[bytes, bytes]]) -> Head:
    """Header names arrive in lower case. A length that is no number counts as absent: the body is then measured."""
    length, kind, key = -1, b"", b""
    for name, value in headers:
        if name == b"content-length":
            length = int(value) if value.isdigit() else -1
        elif name == b"content-type":
            kind = value if value in _JSON_TYPES else value.partition(b";")[0].strip().lower()
        elif name == b"x-tallyd-key":
            key = value
    return Head(length, kind, key)


def create() -> App:
    """What Granian calls in each worker. The configuration is what the main process published; without one, loaded."""
    gc.freeze()  # what was imported stays; the collector need not look at it
    gc.set_threshold(GC_THRESHOLD_OBJECTS)
    run_dir = of_this_process()
    snapshot = run_dir.snapshot() if run_dir else Snapshot(0, configuration.load())
    log.configure(snapshot.config.log.level, snapshot.config.log.format)
    return App(snapshot.config, Worker(run_dir, snapshot.generation) if run_dir else None)
