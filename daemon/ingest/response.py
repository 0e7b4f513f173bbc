"""Every answer the ingest daemon gives. The common ones are constants, built once.

Errors have Laravel's shape, `{"message": …, "errors": {field: […]}}`, because existing producers parse it. No answer
carries a stack trace or what a store said.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec

from daemon.domain.event import Rejection
from daemon.ingest.decode import Batch
from daemon.read.reply import Reply

_encode = msgspec.json.Encoder().encode
Headers = tuple[tuple[str, str], ...]
_CLOSE = ("connection", "close")


class Response:
    """A status, a body and headers; the server in front adds the body's length."""

    __slots__ = ("_messages", "body", "has_content", "headers", "status")

    def __init__(
        self, status: HTTPStatus, body: bytes, headers: Headers = (), content_type: str = "application/json"
    ) -> None:
        self.status = int(status)
        self.body = body
        self.has_content = status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        content = [("content-type", content_type)] if self.has_content else []
        self.headers: list[tuple[str, str]] = [*content, *headers]
        self._messages: tuple[dict[str, Any], dict[str, Any]] | None = None

    @property
    def farewell_headers(self) -> list[tuple[str, str]]:
        """Those of a daemon that is stopping: the client is asked to send what is next elsewhere."""
        return [header for header in self.headers if header != _CLOSE] + [_CLOSE]

    @property
    def messages(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The two ASGI messages that send it; built once."""
        if self._messages is None:
            self._messages = self._build(self.headers)
        return self._messages

    @property
    def farewell_messages(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._build(self.farewell_headers)

    def _build(self, headers: list[tuple[str, str]]) -> tuple[dict[str, Any], dict[str, Any]]:
        encoded = [(name.encode(), value.encode()) for name, value in headers]
        if self.has_content:
            encoded.append((b"content-length", str(len(self.body)).encode()))
        return (
            {"type": "http.response.start", "status": self.status, "headers": encoded},
            {"type": "http.response.body", "body": self.body, "more_body": False},
        )


def _message(status: HTTPStatus, message: str, headers: Headers = ()) -> Response:
    return Response(status, _encode({"message": message}), headers)


ACCEPTED = Response(HTTPStatus.ACCEPTED, b'{"status":"accepted"}')
NOT_JSON = _message(HTTPStatus.BAD_REQUEST, "The body is not valid JSON.")
UNKNOWN_KEY = _message(HTTPStatus.UNAUTHORIZED, "The key in X-Tallyd-Key is not a configured producer's.")
NOT_FOUND = _message(HTTPStatus.NOT_FOUND, "There is nothing here. Events go to POST /api/v1/analytics/events.")
BODY_TIMEOUT = _message(HTTPStatus.REQUEST_TIMEOUT, "The body took too long to arrive.", (_CLOSE,))
BODY_CUT_OFF = _message(HTTPStatus.BAD_REQUEST, "The body ended before it was complete.", (_CLOSE,))
FAILED = _message(HTTPStatus.INTERNAL_SERVER_ERROR, "The server failed. The event may or may not have been counted.")


def method_not_allowed(allowed: str) -> Response:
    return _message(HTTPStatus.METHOD_NOT_ALLOWED, f"Only {allowed} is allowed here.", (("allow", allowed),))


def too_large(bytes_max: int) -> Response:
    return _message(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The body must not be larger than {bytes_max} bytes.",
        (_CLOSE,),
    )


def unsupported(accepted: str) -> Response:
    return _message(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"The content type must be {accepted}.")


def too_many(left_ms: int) -> Response:
    seconds = max(1, -(-left_ms // 1000))
    return _message(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests.", (("retry-after", str(seconds)),))


def unavailable(retry_after_s: int) -> Response:
    return _message(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Events cannot be taken at the moment. Send them again, with the same ids.",
        (("retry-after", str(retry_after_s)),),
    )


def invalid(rejection: Rejection) -> Response:
    """422, every wrong field named."""
    return Response(HTTPStatus.UNPROCESSABLE_ENTITY, _encode(rejection.as_laravel()))


def batch_accepted(accepted: int, duplicates: int, rejected: list[tuple[int, Rejection]]) -> Response:
    return Response(
        HTTPStatus.ACCEPTED,
        _encode({"status": "accepted", "accepted": accepted, "duplicates": duplicates, "rejected": _indexed(rejected)}),
    )


def batch_invalid(batch: Batch) -> Response:
    """422 for a batch without a good event: Laravel's names for list items, and the same list a 202 would carry."""
    errors = {
        f"events.{index}.{field}": texts
        for index, rejection in batch.rejected
        for field, texts in rejection.errors.items()
    }
    return Response(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        _encode({**Rejection(errors).as_laravel(), "rejected": _indexed(batch.rejected)}),
    )


def of_read(found: Reply) -> Response:
    """An answer of the read API."""
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in found.headers)
    return Response(found.status, found.body, headers)


def json_response(status: HTTPStatus, value: object) -> Response:
    return Response(status, _encode(value))


def _indexed(rejected: list[tuple[int, Rejection]]) -> list[dict[str, Any]]:
    return [{"index": index, "errors": rejection.errors} for index, rejection in rejected]
