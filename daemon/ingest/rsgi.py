"""The worker under Granian's own protocol, RSGI: a request costs fewer objects and turns of the loop than under ASGI.

https://github.com/emmett-framework/granian/blob/master/docs/spec/RSGI.md
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from granian._granian import CallbackScheduler, RSGIProtocolClosed, RSGIProtocolError
from granian.server import mp

from daemon.ingest import boot, exchange
from daemon.ingest.app import App
from daemon.ingest.boot import Boot
from daemon.ingest.exchange import LongWay
from daemon.ingest.process import descriptors
from daemon.ingest.requests import BodyParts, CutOffError, RequestHead

if TYPE_CHECKING:
    from granian._granian import RSGIHeaders, RSGIHTTPProtocol
    from granian.rsgi import Scope


class Rsgi:
    """The application as Granian calls it."""

    _app: App

    def __init__(self, worker: Boot) -> None:
        self._boot = worker

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises what keeps the worker from starting; Granian then ends it."""
        self._app = loop.run_until_complete(self._boot.start())
        vars(mp)["_new_cbscheduler"] = self._scheduler  # Granian looks it up next, in this process only

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        descriptors.allow_all()  # the loop itself needs two to run: see `handover.leave`
        loop.run_until_complete(self._boot.stop())

    def _scheduler(
        self, loop: asyncio.AbstractEventLoop, long_way: LongWay, *, impl_asyncio: bool
    ) -> CallbackScheduler:
        assert impl_asyncio
        return exchange.scheduler(self._app, _head, loop, long_way)

    async def __rsgi__(self, scope: Scope, protocol: RSGIHTTPProtocol) -> None:
        """Answers any request that an exchange does not take."""
        answer = await self._app.answer(_RsgiRequest(scope, protocol))
        protocol.response_bytes(
            answer.status, answer.closing_headers if self._app.closing else answer.headers, answer.body
        )


def create() -> Rsgi:
    """Granian calls it in each worker."""
    return Rsgi(boot.create())


def _head(scope: Scope) -> RequestHead:
    headers = scope.headers
    length = headers.get("content-length", "")
    return RequestHead(
        scope.method,
        scope.path,
        int(length) if length.isdigit() else -1,
        headers.get("content-type") or _text(headers, "content-type"),
        _text(headers, "x-tallyd-key") if "x-tallyd-key" in headers else "",
        scope.client.rpartition(":")[0],
        headers,  # type: ignore[arg-type]  # its stub does not know get_all
    )


def _text(headers: RSGIHeaders, name: str) -> str:
    """A header, "" if it is missing. Granian finds a non-ASCII one but does not return it: it is U+FFFD here, which
    matches no key or content type."""
    return (headers.get(name, "\ufffd") or "") if name in headers else ""


class _RsgiRequest:
    """An `HttpRequest` under RSGI."""

    def __init__(self, scope: Scope, protocol: RSGIHTTPProtocol) -> None:
        self._scope = scope
        self._protocol = protocol

    @property
    def head(self) -> RequestHead:
        return _head(self._scope)

    @property
    def query(self) -> str:
        return self._scope.query_string

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self._scope.headers.items()]

    async def read(self, length: int, bytes_max: int) -> bytes | None:
        try:
            if length >= 0:
                return await self._protocol()  # the server hands out no more than Content-Length says
        except (RSGIProtocolClosed, RSGIProtocolError):
            raise CutOffError from None
        body, empty_parts = BodyParts(bytes_max), 0
        async for part in self._protocol:
            empty_parts += not part
            if not body.add(part):
                return None
        # Granian ends every stream with an empty part, and sends one more in place of an error (and of trailers).
        if empty_parts > 1:
            raise CutOffError
        return body.whole()
