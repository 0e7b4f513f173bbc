"""The ASGI application: routes, headers and bodies. What they mean is the handler's business.

Granian imports `create` in each worker. It has no limit on a body's size or on the time a half-sent one may take, so
both are enforced here.
"""

from __future__ import annotations

import asyncio
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
from daemon.ingest.batcher import Batcher
from daemon.ingest.decode import Decoder, build_catalogue
from daemon.ingest.handler import Handler
from daemon.ingest.response import Response
from daemon.metrics import PUBLISH_INTERVAL_S, IngestTally

EVENTS_PATH = "/api/v1/analytics/events"
BATCH_PATH = "/api/v1/analytics/events/batch"

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

    def __init__(self, config: Config) -> None:
        self._config = config
        self._http = config.http
        self._tally = IngestTally()
        self._producer_keys = frozenset(key.encode() for key in config.producers.keys.values())
        self._in_flight = 0
        self._overloaded = response.unavailable(config.ingest.retry_after_s)
        self._too_large = {
            False: response.too_large(config.http.event_bytes_max),
            True: response.too_large(config.http.batch_bytes_max),
        }
        self._unsupported = {
            False: response.unsupported("application/json or text/plain"),
            True: response.unsupported("application/json, text/plain or application/x-ndjson"),
        }
        self._post_only = response.method_not_allowed("POST")
        self._get_only = response.method_not_allowed("GET")
        self._runners: list[Connection] = []
        self._batchers: list[Batcher] = []
        self._handler: Handler | None = None
        self._publisher: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http_request(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _http_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._in_flight >= self._http.requests_in_flight_max:
            answer = self._overloaded
        else:
            self._in_flight += 1
            try:
                answer = await self._answer(scope, receive)
            except Exception:
                _log.exception("A request failed")
                answer = response.FAILED
            finally:
                self._in_flight -= 1
        self._tally.answered(answer.status)
        await send(answer.start_message)
        await send(answer.body_message)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        path = scope["path"]
        batch = path == BATCH_PATH
        if not batch and path != EVENTS_PATH:
            return await self._other(path, scope["method"])
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

    async def _other(self, path: str, method: str) -> Response:
        if path not in ("/healthz", "/readyz", "/metrics"):
            return response.NOT_FOUND
        if method not in ("GET", "HEAD"):
            return self._get_only
        if path == "/healthz":
            return health.healthz()
        if path == "/readyz":
            return await health.readyz(self._runners[0])
        return health.metrics_page()

    async def _read_body(self, receive: Receive, length: int, bytes_max: int) -> bytes | Response | None:
        """The whole body; None if it is larger than allowed; or the answer to a body that did not arrive."""
        task = asyncio.current_task()
        assert task is not None
        deadline = asyncio.get_running_loop().call_later(self._http.body_timeout_ms / 1000, task.cancel)
        try:
            message = await receive()
            body: bytes = message.get("body", b"")
            # With Content-Length reached, the `receive` that would only say "that was all" is saved.
            while message.get("more_body") and len(body) != length:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > bytes_max:
                    return None
        except asyncio.CancelledError:
            if deadline.cancelled() or deadline.when() > asyncio.get_running_loop().time():
                raise  # not our deadline: the worker is stopping
            task.uncancel()
            return response.BODY_TIMEOUT
        finally:
            deadline.cancel()
        return body if len(body) <= bytes_max else None

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._start()
                except Exception as error:
                    # Granian only logs an exception here and serves all the same; this makes it stop.
                    _log.error("Start-up failed: %s", error, exc_info=not isinstance(error, TallydError))
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _start(self) -> None:
        config = self._config
        layout = Layout(config)
        limits = Limits(config.rate_limit.per_minute, config.dedupe.window_s, config.dedupe.events_per_window)
        for shard in range(config.redis.shards):
            runner = Connection(config.redis, layout)
            self._runners.append(runner)
            self._batchers.append(
                Batcher(
                    Counters(runner, shard, limits),
                    self._tally,
                    queue_events_max=config.ingest.queue_events_max,
                    call_events_max=config.ingest.call_events_max,
                    calls_in_flight_max=config.ingest.calls_in_flight_max,
                )
            )
        try:
            await self._runners[0].connect()
        except LayoutError:
            raise
        except StoreError as error:
            _log.warning("%s. Events are answered 503 until it can.", error)
        decoder = Decoder(build_catalogue(config), batch_events_max=config.http.batch_events_max, clock=time.time)
        self._handler = Handler(config, decoder, self._batchers, self._tally, time.monotonic)
        self._publisher = asyncio.create_task(self._publish())

    async def _publish(self) -> None:
        while True:
            await asyncio.sleep(PUBLISH_INTERVAL_S)
            self._tally.publish(sum(batcher.waiting_events for batcher in self._batchers))

    async def _stop(self) -> None:
        for batcher in self._batchers:
            await batcher.drain()
        if self._publisher is not None:
            self._publisher.cancel()
        self._tally.publish(0)
        for runner in self._runners:
            await runner.close()


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
    """What Granian calls in each worker; the configuration comes from the environment the command left."""
    config = configuration.load()
    log.configure(config.log.level, config.log.format)
    return App(config)
