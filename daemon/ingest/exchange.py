"""Single events without a task: the way of nearly every request, under RSGI.

Granian runs a coroutine in a task for each request. But a single event waits for two things only, its body and its
call's outcome, and both can call back. So a good event needs no coroutine and no task: 1.13 of the throughput, a third
less of the worker's own time (bench/NOTES.md). Every other request goes the long way, `Rsgi.__rsgi__`, and gets the
same answers there.

It relies on how Granian 2.8 starts a request (its `_futures.py`), hence the bounds on its version.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import TYPE_CHECKING, Any

from granian._granian import CallbackScheduler, RSGIProtocolClosed, RSGIProtocolError

from daemon.buffer.outcome import Outcome
from daemon.ingest import response
from daemon.ingest.app import App
from daemon.ingest.requests import RequestHead
from daemon.response import Response

if TYPE_CHECKING:
    from granian._granian import RSGIHTTPProtocol

ReadHead = Callable[[Any], RequestHead]
LongWay = Callable[[Any], Coroutine[Any, Any, None]]


class Exchange:
    """One request, from its head to its answer. Each method is a callback of the loop; none raises."""

    __slots__ = (
        "_account", "_app", "_began", "_body", "_head", "_long_way", "_protocol", "_reading", "_visitor", "_watcher"
    )  # fmt: skip

    def __init__(self, app: App, watcher: Any, long_way: LongWay) -> None:
        """`watcher`: Granian's, of this request. `long_way`: the coroutine that can answer any request."""
        self._app = app
        self._watcher = watcher
        self._long_way = long_way
        self._reading: Any = None
        self._body = b""

    def start(self, read_head: ReadHead, context: contextvars.Context) -> None:
        """The head is there."""
        watcher, app = self._watcher, self._app
        self._began = monotonic()
        head = read_head(watcher.scope)
        account = app.takes(head)
        if account is None or not app.enter(self, account):
            watcher.taskref(asyncio.get_running_loop().create_task(self._long_way(watcher)))
            return
        self._account = account
        self._visitor = app.visitor and app.visitor(head, account)
        self._head = head
        self._protocol: RSGIHTTPProtocol | None = watcher.proto
        self._reading = watcher.proto()
        self._reading.add_done_callback(self._received, context)

    def cancel(self) -> None:
        """The body took too long."""
        self._app.has_read(self, self._account)
        self._answer(response.BODY_TIMEOUT)
        self._reading.cancel()  # or the server would keep the connection for it

    def _received(self, body: asyncio.Future[bytes]) -> None:
        self._reading = None  # it refers to this object, too: a circle
        if self._protocol is None:
            return  # it was given up
        app = self._app
        has_place = app.has_read(self, self._account)
        try:
            self._body = body.result()
            if not has_place:
                self._answer(app.crowded())
            elif not app.submit(self._body, self._account, self._settle, self._visitor):
                app.explain(self._head, self._body, self._account, self._visitor, self._answer)
        except (RSGIProtocolClosed, RSGIProtocolError):
            self._answer(response.BODY_CUT_OFF)
        except Exception:  # noqa: BLE001  (see `failed`)
            self._answer(app.failed(self._head))

    def _settle(self, outcome: Outcome) -> None:
        self._answer(self._app.conclude(self._account, outcome))

    def _answer(self, answer: Response) -> None:
        protocol, self._protocol = self._protocol, None
        assert protocol is not None, "a request has one answer"
        app = self._app
        app.leave(self._head, answer, self._account, "event", self._began)
        if app.origins is not None:
            answer = app.origins.dress(answer, self._head)
        protocol.response_bytes(answer.status, answer.closing_headers if app.closing else answer.headers, answer.body)
        self._watcher.done()


def scheduler(app: App, read_head: ReadHead, loop: asyncio.AbstractEventLoop, long_way: LongWay) -> CallbackScheduler:
    """Granian starts requests with it, in place of its own `_new_cbscheduler`."""
    made: Any = CallbackScheduler(loop, long_way, None, None, None)  # type: ignore[call-arg]  # its stub knows none
    context = made._ctx  # noqa: SLF001  (Granian's own scheduler does the same)

    arrived: deque[Any] = deque()
    woken = False

    def schedule(watcher: Any) -> None:
        """Called from a thread of Granian's."""
        nonlocal woken
        arrived.append(watcher)
        if not woken:
            woken = True
            loop.call_soon_threadsafe(start_all, context=context)

    def start_all() -> None:
        nonlocal woken
        woken = False  # first: who arrives from now on wakes the loop again
        try:
            while arrived:
                Exchange(app, arrived.popleft(), long_way).start(read_head, context)
        finally:
            if arrived:  # one raised what nobody planned for, and holds up no other
                loop.call_soon(start_all, context=context)

    made._schedule_fn = schedule  # noqa: SLF001
    return made  # type: ignore[no-any-return]
