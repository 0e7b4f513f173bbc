"""Liveness and readiness: the answers for a supervisor and a load balancer. `app.py` calls it."""

from __future__ import annotations

import os
from http import HTTPStatus

from daemon import __version__
from daemon.buffer.connection import Connection
from daemon.errors import LayoutError, StoreError
from daemon.response import Health, Ready, Response, json_response

RUN_ID = os.environ.get("TALLYD_RUN_ID", "")
"""The main process sets it. It tells two servers on one port (SO_REUSEPORT) apart."""


async def healthz(*_: object) -> Response:
    """This worker runs."""
    return json_response(HTTPStatus.OK, Health("ok", __version__, RUN_ID, os.getpid()))


async def readyz(connection: Connection, *, spooling: bool) -> Response:
    """Whether this worker can count: Redis answers and is laid out as configured, or events go to the spool."""
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
