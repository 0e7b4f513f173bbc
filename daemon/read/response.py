"""The answers of the read API, apart from what was counted. The common ones are constants, built once."""

from __future__ import annotations

import hashlib
from http import HTTPStatus

from daemon.response import JSON, Body, Header, Response, encode, message

UNAVAILABLE = "Counts cannot be read at the moment."
NO_STORE: Header = ("cache-control", "no-store")
NOT_FOUND = message(HTTPStatus.NOT_FOUND, "There is nothing here. GET /openapi.json lists what there is.")
UNAUTHORIZED = message(
    HTTPStatus.UNAUTHORIZED,
    "Reading needs the key: X-Tallyd-Key, Authorization: Bearer, or Basic with it as the password.",
    ("www-authenticate", 'Bearer realm="tallyd"'),
)
OPERATORS_ONLY = message(
    HTTPStatus.UNAUTHORIZED,
    "Only operators see this: send the key that `tallyd key new --operator` made, as for reads.",
    ("www-authenticate", 'Bearer realm="tallyd"'),
    NO_STORE,
)
OWN_PAGE: Header = ("cross-origin-resource-policy", "same-origin")
"""No page of another origin may load it."""
_METHODS = "GET, HEAD, OPTIONS"
_ALLOW: Header = ("allow", _METHODS)
OPTIONS = Response(HTTPStatus.NO_CONTENT, b"", [_ALLOW])
PREFLIGHT = Response(
    HTTPStatus.NO_CONTENT,
    b"",
    [
        _ALLOW,
        ("access-control-allow-methods", _METHODS),
        ("access-control-allow-headers", "x-tallyd-key, authorization, if-none-match"),
        ("access-control-max-age", "600"),
    ],
)
"""To a page that may read."""
GET_ONLY = message(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET, HEAD and OPTIONS are allowed here.", _ALLOW)


def unavailable(retry_after_s: int) -> Response:
    return refused(UNAVAILABLE, retry_after_s)


def refused(text: str, retry_after_s: int) -> Response:
    return message(HTTPStatus.SERVICE_UNAVAILABLE, text, ("retry-after", str(retry_after_s)), NO_STORE)


def found(body: Body, as_of: str, keep: Header) -> Response:
    """200. The tag is of the body without `as_of`: it stays while the counts do, whenever they are read."""
    encoded = encode(body)
    etag = f'W/"{hashlib.blake2b(encoded, digest_size=12).hexdigest()}"'
    dated = b'%s,"as_of":"%s"}' % (encoded[:-1], as_of.encode())
    return Response(HTTPStatus.OK, dated, [JSON, keep, ("etag", etag)], etag)


def not_modified(answer: Response) -> Response:
    """304, with the headers the 200 would have had."""
    return Response(HTTPStatus.NOT_MODIFIED, b"", [header for header in answer.headers if header != JSON], answer.etag)
