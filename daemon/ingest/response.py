"""The answers of ingest. The common ones are constants, built once."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from daemon.domain.rejection import Rejection
from daemon.ingest.decode import Batch
from daemon.response import CLOSE, JSON, Response, json_response, message

ACCEPTED = Response(HTTPStatus.ACCEPTED, b'{"status":"accepted"}', [JSON])
NOT_JSON = message(HTTPStatus.BAD_REQUEST, "The body is not valid JSON.")
UNKNOWN_KEY = message(HTTPStatus.UNAUTHORIZED, "The key in X-Tallyd-Key is not a configured producer's.")
NOT_FOUND = message(HTTPStatus.NOT_FOUND, "There is nothing here. Events go to POST /api/v1/analytics/events.")
BODY_TIMEOUT = message(HTTPStatus.REQUEST_TIMEOUT, "The body took too long to arrive.", CLOSE)
BODY_CUT_OFF = message(HTTPStatus.BAD_REQUEST, "The body ended before it was complete.", CLOSE)
FAILED = message(HTTPStatus.INTERNAL_SERVER_ERROR, "The server failed. The event may or may not have been counted.")


def method_not_allowed(allowed: str) -> Response:
    return message(HTTPStatus.METHOD_NOT_ALLOWED, f"Only {allowed} is allowed here.", ("allow", allowed))


def too_large(bytes_max: int) -> Response:
    text = f"The body must not be larger than {bytes_max} bytes."
    return message(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text, CLOSE)


def unsupported(accepted: str) -> Response:
    return message(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"The content type must be {accepted}.")


def too_many(left_ms: int) -> Response:
    seconds = max(1, -(-left_ms // 1000))
    return message(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests.", ("retry-after", str(seconds)))


def unavailable(retry_after_s: int) -> Response:
    text = "Events cannot be taken at the moment. Send them again, with the same ids."
    return message(HTTPStatus.SERVICE_UNAVAILABLE, text, ("retry-after", str(retry_after_s)))


def batch_accepted(accepted: int, duplicates: int, rejected: list[tuple[int, Rejection]]) -> Response:
    counts = {"status": "accepted", "accepted": accepted, "duplicates": duplicates, "rejected": _indexed(rejected)}
    return json_response(HTTPStatus.ACCEPTED, counts)


def batch_invalid(batch: Batch) -> Response:
    """422 for a batch without a good event: Laravel's names for list items, and the same list a 202 would carry."""
    errors = {
        f"events.{index}.{field}": texts
        for index, rejection in batch.rejected
        for field, texts in rejection.errors.items()
    }
    body = {**Rejection(errors).as_laravel(), "rejected": _indexed(batch.rejected)}
    return json_response(HTTPStatus.UNPROCESSABLE_ENTITY, body)


def _indexed(rejected: list[tuple[int, Rejection]]) -> list[dict[str, Any]]:
    return [{"index": index, "errors": rejection.errors} for index, rejection in rejected]
