"""What the read API answers: a status, a body and headers, free of any server's interface.

Errors have Laravel's shape, like those of ingest. No reply carries what a store said.
"""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from daemon.domain.event import Rejection

_encode = msgspec.json.Encoder().encode
Headers = tuple[tuple[bytes, bytes], ...]


class Reply(NamedTuple):
    """The body is JSON; 204 and 304 have none."""

    status: HTTPStatus
    body: bytes
    headers: Headers = ()
    etag: bytes = b""


def message(status: HTTPStatus, text: str, headers: Headers = ()) -> Reply:
    return Reply(status, _encode({"message": text}), headers)


NO_STORE: Headers = ((b"cache-control", b"no-store"),)
NOT_FOUND = message(HTTPStatus.NOT_FOUND, "There is nothing here. GET /openapi.json lists what there is.")
UNAUTHORIZED = message(
    HTTPStatus.UNAUTHORIZED,
    "Reading needs the key: X-Tallyd-Key, or Authorization: Bearer.",
    ((b"www-authenticate", b'Bearer realm="tallyd"'),),
)
_ALLOW = ((b"allow", b"GET, HEAD, OPTIONS"),)
OPTIONS = Reply(HTTPStatus.NO_CONTENT, b"", _ALLOW)
PREFLIGHT = Reply(
    HTTPStatus.NO_CONTENT,
    b"",
    (
        *_ALLOW,
        (b"access-control-allow-methods", b"GET, HEAD, OPTIONS"),
        (b"access-control-allow-headers", b"x-tallyd-key, authorization, if-none-match"),
        (b"access-control-max-age", b"600"),
    ),
)
"""To a page that may read."""
GET_ONLY = message(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET, HEAD and OPTIONS are allowed here.", _ALLOW)
_AWAY = "Counts cannot be read at the moment."


def unavailable(retry_after_s: int) -> Reply:
    headers = ((b"retry-after", str(retry_after_s).encode()), *NO_STORE)
    return message(HTTPStatus.SERVICE_UNAVAILABLE, _AWAY, headers)


def invalid(errors: dict[str, list[str]]) -> Reply:
    """422, every wrong parameter named."""
    return Reply(HTTPStatus.UNPROCESSABLE_ENTITY, _encode(Rejection(errors).as_laravel()))


def found(data: dict[str, Any], as_of: str, headers: Headers) -> Reply:
    """200. The tag is of the data alone: it stays while the counts do, whenever they are read."""
    encoded = _encode(data)
    etag = b'W/"%s"' % hashlib.blake2b(encoded, digest_size=12).hexdigest().encode()
    body = b'%s,"as_of":"%s"}' % (encoded[:-1], as_of.encode())
    return Reply(HTTPStatus.OK, body, (*headers, (b"etag", etag)), etag)


def not_modified(reply: Reply) -> Reply:
    """304, with the headers the 200 would have had."""
    return Reply(HTTPStatus.NOT_MODIFIED, b"", reply.headers, reply.etag)
