"""A daemon's own listener: /metrics for Prometheus, and /livez, /readyz and /version for supervisors.

Both daemons start it. It listens on loopback only, on a port of its own, and answers in threads: no stranger asks, and
no question costs an event loop anything.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import CollectorRegistry, disable_created_metrics, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from daemon import __version__, log
from daemon.metrics import BUILD_INFO
from daemon.response import Health, Message, Ready, Response, Version, json_response, readiness

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    from prometheus_client.metrics_core import Metric

ADDRESS = "127.0.0.1"
RETRY_S = 1.0
CLIENT_TIMEOUT_S = 10.0
CONNECTIONS_MAX = 16
"""More are closed unanswered."""

NOT_FOUND = json_response(HTTPStatus.NOT_FOUND, Message("There are /metrics, /livez, /readyz and /version."))

FAILED = json_response(HTTPStatus.INTERNAL_SERVER_ERROR, Message("This could not be answered; the log says why."))
PATH_CHARACTERS_MAX = 200

_log = logging.getLogger(__name__)

Answer = Callable[[], Response]


class BuildInfo(Collector):
    """What runs."""

    def collect(self) -> Iterable[Metric]:
        yield BUILD_INFO.of([((__version__, platform.python_version()), 1)])


def expose(
    port: int, key: str, collectors: Iterable[Collector], hanging: Callable[[], str | None], ready: Callable[[], Ready]
) -> None:
    """Begins to serve, as soon as the port is free: during a restart the daemon before has it.

    `key`: the configuration's, for the log. `hanging`: what hangs, None if nothing does. All of them are called in
    threads.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, and Prometheus does without
    registry = CollectorRegistry()
    for collector in (*collectors, BuildInfo()):
        registry.register(collector)
    answers = {
        "/livez": lambda: _alive(hanging()),
        "/readyz": lambda: readiness(ready()),
        "/version": lambda: json_response(HTTPStatus.OK, Version(__version__, platform.python_version())),
    }
    threading.Thread(target=_serve, args=(port, key, registry, answers), name="metrics", daemon=True).start()


def _alive(hangs: str | None) -> Response:
    if hangs is not None:
        return json_response(HTTPStatus.SERVICE_UNAVAILABLE, Ready("unavailable", stuck=hangs))
    return json_response(HTTPStatus.OK, Health("ok", __version__, log.run_id(), os.getpid()))


def _serve(port: int, key: str, registry: CollectorRegistry, answers: Mapping[str, Answer]) -> None:
    metrics, told = make_wsgi_app(registry), False

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        try:
            if path == "/metrics":
                page: Iterable[bytes] = metrics(environ, start_response)
                return page
            answer = answers.get(path, lambda: NOT_FOUND)()
        except Exception:  # noqa: BLE001  (the server would write it to the log in a form of its own)
            _log.exception("%s could not be answered", path[:PATH_CHARACTERS_MAX])
            answer = FAILED
        start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", answer.headers)
        return [answer.body]

    while True:
        try:
            server = _Server((ADDRESS, port), _Handler)
        except OSError as error:
            if not told:
                _log.warning("Metrics wait for port %d of %s (%s): %s.", port, ADDRESS, key, error.strerror)
                told = True
            time.sleep(RETRY_S)
        else:
            server.set_app(application)
            server.serve_forever()


class _Server(ThreadingWSGIServer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._places = threading.BoundedSemaphore(CONNECTIONS_MAX)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except BaseException:  # no thread could be started, so none gives the place back
                self._places.release()
                raise
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""
        _log.debug("A client of the metrics' port failed", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (its name there)
        """Says nothing."""
