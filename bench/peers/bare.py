"""The bare peer: a Granian ASGI application that reads the body, answers 202, and does nothing else.

Same server settings as `tallyd ingest`, same answer, byte for byte. It reads the body as ASGI says, until `more_body`
is false. Under the path /eager it stops as soon as it has Content-Length bytes, which saves a turn of the event loop:
the least that anything on this server can do.

    python -m bench.peers.bare [--short-slices] PORT

With `--short-slices` it runs in the same short slices as tallyd's workers do by default (`ingest.slice_us`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings

from daemon.config import Config
from daemon.scheduling import shorten_slice

SHORT_SLICES = "--short-slices"
EAGER_PATH = "/eager"
START = {
    "type": "http.response.start",
    "status": 202,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"21")],
}
BODY = {"type": "http.response.body", "body": b'{"status":"accepted"}', "more_body": False}
HEALTH_START = {**START, "status": 200, "headers": [(b"content-type", b"application/json")]}
HEALTH_BODY = {**BODY, "body": b'{"run_id":"%s"}' % os.environ.get("TALLYD_RUN_ID", "").encode()}


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """The application."""
    if scope["method"] != "POST":
        await send(HEALTH_START)
        await send(HEALTH_BODY)
        return
    length = -1
    if scope["path"] == EAGER_PATH:
        length = next((int(value) for name, value in scope["headers"] if name == b"content-length"), -1)
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False) and len(body) != length
    await send(START)
    await send(BODY)


def main(port: int) -> None:
    """Serves until SIGTERM."""
    Granian(
        "bench.peers.bare:app",
        interface=Interfaces.ASGINL,
        address="127.0.0.1",
        port=port,
        workers=1,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(max_buffer_size=16_384),
        websockets=False,
        backlog=4_096,
        backpressure=65_536,
        log_access=False,
    ).serve()


if __name__ == "__main__":
    if SHORT_SLICES in sys.argv:
        shorten_slice(Config().ingest.slice_us)
    main(int(sys.argv[-1]))
