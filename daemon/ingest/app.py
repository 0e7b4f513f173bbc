"""The HTTP application of one worker: its routes, and the answer to each request.

`rsgi.py` and `asgi.py` hand it requests; `exchange.py` asks it about single events. `handler.py` decides what a body
means. Granian does not limit a body's size, so that limit is here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from daemon.config import Config
from daemon.ingest import health, response
from daemon.ingest.handler import Handler
from daemon.ingest.requests import HttpRequest, OpenRequests, RequestHead
from daemon.read.api import PREFIXES as READ_PREFIXES
from daemon.read.api import Api
from daemon.response import Response

EVENTS_PATH = "/api/v1/analytics/events"
HEALTH_PATH = "/healthz"

_JSON_TYPES = frozenset({"application/json", "text/plain"})
_NDJSON_TYPES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})

_log = logging.getLogger(__name__)


class Route(NamedTuple):
    """A path's methods, and what answers it."""

    methods: tuple[str, ...]
    answer: Callable[[RequestHead, HttpRequest], Awaitable[Response]]


class _BodyRules(NamedTuple):
    """What a body may be, and the answers to one that may not."""

    types: frozenset[str]
    bytes_max: int
    unsupported: Response
    too_large: Response


class App:
    """Answers every request. Whatever happens, a request gets an answer."""

    def __init__(
        self,
        config: Config,
        requests: OpenRequests,
        handler: Handler,
        reads: Api,
        ready: Callable[..., Awaitable[Response]],
    ) -> None:
        """`ready`: answers whether this worker can count. Call it in the running loop."""
        self._routes = {
            EVENTS_PATH: Route(("POST",), self._event),
            "/api/v1/analytics/events/batch": Route(("POST",), self._batch),
            HEALTH_PATH: Route(("GET", "HEAD"), health.healthz),
            "/readyz": Route(("GET", "HEAD"), ready),
            "/metrics": Route(("GET", "HEAD"), health.metrics),
        }
        """The other routes are the read API's: every path that begins with one of its PREFIXES."""
        self._requests = requests
        self._handler = handler
        self._reads = reads
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        # What an exchange asks for each event. Bound here, because a method in between would cost a call each.
        self.enter = requests.enter
        self.has_read = requests.has_read
        self.submit = handler.submit
        self.conclude = handler.conclude
        self.leave = requests.leave
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Another configuration from the next request on."""
        self._event_bytes_max = config.http.event_bytes_max
        self._event_rules = _rules(_JSON_TYPES, "application/json or text/plain", config.http.event_bytes_max)
        self._batch_rules = _rules(
            _JSON_TYPES | _NDJSON_TYPES,
            "application/json, text/plain or application/x-ndjson",
            config.http.batch_bytes_max,
        )
        self._producer_keys = frozenset(config.producers.keys.values())
        self._overloaded = response.unavailable(config.ingest.retry_after_s)

    @property
    def closing(self) -> bool:
        return self._requests.closing

    # For an exchange --------------------------------------------------------------------------------------------------

    def takes(self, head: RequestHead) -> bool:
        """Whether this is a single event in good form. `answer` answers all other requests."""
        return (
            head.path == EVENTS_PATH
            and head.method == "POST"
            and 0 <= head.length <= self._event_bytes_max
            and head.kind in _JSON_TYPES
            and (not head.key or head.key in self._producer_keys)
        )

    def explain(self, body: bytes, address: str, tell: Callable[[Response], None]) -> None:
        """Answers an event that `submit` returned False for, in a task: `tell` is told the answer."""
        task = self._loop.create_task(self._explain(body, address, tell))
        self._tasks.add(task)  # the loop itself holds it only weakly
        task.add_done_callback(self._tasks.discard)

    async def _explain(self, body: bytes, address: str, tell: Callable[[Response], None]) -> None:
        try:
            answer = await self._handler.event(body, address)
        except Exception:  # noqa: BLE001  (see `failed`)
            answer = self.failed()
        tell(answer)

    def failed(self) -> Response:
        """The answer to a request that raised an exception nobody planned for. Call it in the `except` clause.

        The exception is logged. The client gets nothing of its text.
        """
        _log.exception("A request failed")
        return response.FAILED

    # For all other requests -------------------------------------------------------------------------------------------

    async def answer(self, request: HttpRequest) -> Response:
        """The answer to any request."""
        head = request.head
        within_limit = self._requests.begin()
        try:
            # A supervisor's question is not refused: a busy worker is a live one.
            answer = await self._answer(head, request) if within_limit or head.path == HEALTH_PATH else self._overloaded
        except Exception:  # noqa: BLE001  (see `failed`)
            answer = self.failed()
        except BaseException:
            self._requests.abandon()
            raise
        self._requests.leave(answer)
        return answer

    async def _answer(self, head: RequestHead, request: HttpRequest) -> Response:
        route = self._routes.get(head.path)
        if route is None:
            if head.path.startswith(READ_PREFIXES):
                return await self._reads.answer(head.method, head.path, request.query, request.headers)
            return response.NOT_FOUND
        if head.method not in route.methods:
            return response.method_not_allowed(", ".join(route.methods))
        return await route.answer(head, request)

    async def _event(self, head: RequestHead, request: HttpRequest) -> Response:
        body = await self._body(head, request, self._event_rules)
        if isinstance(body, Response):
            return body
        return await self._handler.event(body, _limited_address(head))

    async def _batch(self, head: RequestHead, request: HttpRequest) -> Response:
        body = await self._body(head, request, self._batch_rules)
        if isinstance(body, Response):
            return body
        ndjson = _media_type(head.kind) in _NDJSON_TYPES
        return await self._handler.batch(body, _limited_address(head), ndjson=ndjson)

    async def _body(self, head: RequestHead, request: HttpRequest, rules: _BodyRules) -> bytes | Response:
        """The whole body, or the answer to one that may not be."""
        if head.kind and _media_type(head.kind) not in rules.types:
            return rules.unsupported
        if head.key and head.key not in self._producer_keys:
            return response.UNKNOWN_KEY
        if head.length > rules.bytes_max:
            return rules.too_large
        body = await self._requests.read(request, head.length, rules.bytes_max)
        return rules.too_large if body is None else body


def _rules(types: frozenset[str], accepted: str, bytes_max: int) -> _BodyRules:
    return _BodyRules(types, bytes_max, response.unsupported(accepted), response.too_large(bytes_max))


def _media_type(kind: str) -> str:
    """The content type without its parameters."""
    return kind.partition(";")[0].strip().lower()


def _limited_address(head: RequestHead) -> str:
    """The address the request counts against. A producer with a key is not limited."""
    return "" if head.key else head.client
