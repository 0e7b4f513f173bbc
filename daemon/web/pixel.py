"""The pixel: a GET that counts, for pages without scripts. Here is what its request means and its image.

`ingest/app.py` counts it as an event of its sender (`browser.pixel`). A GET that counts is a weak tool: it has no event
id, so a repeated one counts again, and programs fetch images beforehand.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Sequence
from http import HTTPStatus

from daemon.response import Response
from daemon.web.query import parameters_of

PARAMETERS = {"d": "domain", "t": "entity_type", "id": "entity_id", "a": "action"}
"""Parameter → the event's field. Others mean nothing: pages add one to be served anew."""

PIXEL = Response(
    HTTPStatus.OK,
    b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"),
    [
        ("content-type", "image/gif"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("cross-origin-resource-policy", "cross-origin"),
    ],
)
"""1 x 1, transparent."""

_PREFETCH_HEADERS = ("sec-purpose", "purpose", "x-purpose", "x-moz")
"""https://developer.mozilla.org/docs/Web/HTTP/Reference/Headers/Sec-Purpose, and those of older browsers."""


def fields_of(query: str) -> dict[str, str]:
    """The fields of the event that a query asks for."""
    return {PARAMETERS[name]: value for name, value in parameters_of(query).items() if name in PARAMETERS}


def is_prefetch(get_all: Callable[[str], Sequence[str]]) -> bool:
    """Whether a browser asks beforehand, for a page that nobody may ever see. `get_all`: the values of a header."""
    return any(
        word in value.lower()
        for name in _PREFETCH_HEADERS
        for value in get_all(name)
        for word in ("prefetch", "preview")
    )
