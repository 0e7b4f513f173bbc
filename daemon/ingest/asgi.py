"""The worker as an ASGI application (`http.interface = "asgi"`), for any server that speaks it.

granian --interface asgi --factory daemon.ingest.asgi:create
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from daemon.errors import unforeseen
from daemon.ingest import boot
from daemon.ingest.app import App
from daemon.ingest.boot import Boot
from daemon.ingest.requests import BodyParts, CutOffError, RequestHead

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_log = logging.getLogger(__name__)


class Asgi:
    """The application as the server calls it."""

    _app: App

    def __init__(self, worker: Boot) -> None:
        self._boot = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            answer = await self._app.answer(_AsgiRequest(scope, receive))
            for message in answer.closing_messages if self._app.closing else answer.messages:
                await send(message)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        try:
            self._app = await self._boot.start()
        except Exception as error:  # noqa: BLE001  (whatever it is, the worker must not serve)
            # Granian only logs an exception here and serves all the same; this makes it stop.
            _log.error("Start-up failed: %s", error, exc_info=unforeseen(error))
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        await self._boot.stop()
        await send({"type": "lifespan.shutdown.complete"})


def create() -> Asgi:
    """The server calls it in each worker."""
    return Asgi(boot.create())


class _AsgiHeaders:
    """The headers of a request, as `Headers` of `requests.py`."""

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self._pairs = pairs

    def get_all(self, key: str, /) -> list[str]:
        wanted = key.encode()
        return [value.decode() for name, value in self._pairs if name == wanted and value.isascii()]

    def __contains__(self, key: str, /) -> bool:
        wanted = key.encode()
        return any(name == wanted for name, _ in self._pairs)


class _AsgiRequest:
    """An `HttpRequest` under ASGI."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive

    @property
    def head(self) -> RequestHead:
        """Header names arrive in lower case. Of two with one name the first counts, as under RSGI. A length that is no
        number counts as absent; the body is measured then."""
        scope = self._scope
        length, kind, key = -1, "", ""
        for name, value in scope["headers"]:
            if name == b"content-length":
                length = int(value) if value.isdigit() else -1
            elif name == b"content-type" and not kind:
                kind = value.decode("latin-1")
            elif name == b"x-tallyd-key" and not key:
                key = value.decode("latin-1")
        client = scope.get("client")
        return RequestHead(
            scope["method"],
            scope["path"],
            length,
            kind,
            key,
            client[0] if client else "",
            _AsgiHeaders(scope["headers"]),
        )

    @property
    def query(self) -> str:
        return bytes(self._scope["query_string"]).decode(errors="replace")

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return list(self._scope["headers"])

    async def read(self, length: int, bytes_max: int) -> bytes | None:
        body = BodyParts(bytes_max)
        more = True
        # At Content-Length the body is complete. One more `receive` would only say so.
        while more and body.size != length:
            message = await self._receive()
            if message["type"] != "http.request":  # the client went away; what it sent may look whole
                raise CutOffError
            if not body.add(message.get("body", b"")):
                return None
            more = message.get("more_body", False)
        return body.whole()
