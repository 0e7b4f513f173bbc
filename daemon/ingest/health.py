"""Liveness, readiness and metrics: the answers a supervisor, a load balancer and Prometheus ask for."""

from __future__ import annotations

import os
from http import HTTPStatus

from daemon import __version__, metrics
from daemon.buffer.connection import Connection
from daemon.errors import LayoutError, StoreError
from daemon.response import Health, Ready, Response, json_response

RUN_ID = os.environ.get("TALLYD_RUN_ID", "")
"""Set by whoever starts the daemon; two servers on one port (SO_REUSEPORT) can be told apart by it."""


def healthz() -> Response:
    """This worker runs."""
    return json_response(HTTPStatus.OK, Health("ok", __version__, RUN_ID, os.getpid()))


async def readyz(connection: Connection, *, spooling: bool) -> Response:
    """This worker can count: Redis answers and is laid out as configured; or the spool takes its place."""
    if spooling:
        return json_response(HTTPStatus.OK, Ready("spooling"))
    try:
        await connection.ping()
    except LayoutError:
        return _unavailable("is laid out differently")
    except StoreError:
        return _unavailable("does not answer")
    return json_response(HTTPStatus.OK, Ready("ready"))


def _unavailable(redis: str) -> Response:
    return json_response(HTTPStatus.SERVICE_UNAVAILABLE, Ready("unavailable", redis))


def metrics_page() -> Response:
    content_type = ("content-type", "text/plain; version=0.0.4; charset=utf-8")
    return Response(HTTPStatus.OK, metrics.render_workers(), [content_type])
