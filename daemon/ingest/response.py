"""The answers of ingest. The common ones are constants, built once."""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus
from time import time

from msgspec import UNSET, UnsetType

from daemon.buffer.outcome import Counted
from daemon.buffer.wire import Limit
from daemon.domain.rejection import Rejection
from daemon.ingest.decode import Batch
from daemon.response import (
    CLOSE,
    Accepted,
    BatchAccepted,
    Header,
    RejectedEvent,
    Response,
    encode,
    invalid,
    json_response,
    message,
)

REFUSAL_BYTES_MAX = 4_096
"""Of the body of an answer that lists what was refused."""
_REST_BYTES = 1_024
"""Of it, for the message, which repeats the first text, and for the rest around the list."""
_EACH_BYTES = 24
"""For what stands around each error, such as `"events.1999.`."""

ANSWERS_KEPT = 4_096
"""Answers to single events of senders with a limit that are made once."""
ROOM_TOLD_MAX = 1_000
"""Events. A sender with more room is not told so in the answer to a single event: two headers are 3 % of a bare answer
(bench/NOTES.md). Such a sender is far from its limit. One that is told cannot send fast for long."""

ACCEPTED = json_response(HTTPStatus.ACCEPTED, Accepted("accepted"))
DUPLICATE = ACCEPTED.plus([("x-tallyd-duplicate", "1")])
NOT_JSON = message(HTTPStatus.BAD_REQUEST, "The body is not valid JSON.")
UNKNOWN_KEY = message(HTTPStatus.UNAUTHORIZED, "The key in X-Tallyd-Key is not a configured producer's.")
PREFLIGHT_MAX_AGE_S = 7_200
"""How long a browser remembers a preflight. Chrome remembers none for longer."""
NO_PREFLIGHT = Response(HTTPStatus.NO_CONTENT, b"", [])
PREFLIGHT = NO_PREFLIGHT.plus(
    [
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-headers", "content-type, x-tallyd-key"),
        ("access-control-max-age", str(PREFLIGHT_MAX_AGE_S)),
    ]
)
FOREIGN_ORIGIN = message(HTTPStatus.FORBIDDEN, "Pages of this origin may not send events here.")
FOREIGN_HOST = message(HTTPStatus.MISDIRECTED_REQUEST, "Nothing is served under this host name.")
KEY_REQUIRED = message(HTTPStatus.UNAUTHORIZED, "Events need a producer's key: send it as X-Tallyd-Key.")
BAD_SIGNATURE = message(
    HTTPStatus.UNAUTHORIZED,
    "X-Tallyd-Signature is of no key, of another path or body, or too far from the server's time.",
)
BODY_TIMEOUT = message(HTTPStatus.REQUEST_TIMEOUT, "The body took too long to arrive.", CLOSE)
BODY_CUT_OFF = message(HTTPStatus.BAD_REQUEST, "The body ended before it was complete.", CLOSE)
BODY_IN_PARTS = message(HTTPStatus.BAD_REQUEST, "The body came in too many small pieces.", CLOSE)
TOO_MANY_BODIES = message(
    HTTPStatus.TOO_MANY_REQUESTS, "You are sending too many bodies at a time.", ("retry-after", "1"), CLOSE
)
FAILED = message(HTTPStatus.INTERNAL_SERVER_ERROR, "The server failed. The event may or may not have been counted.")


def not_found(*, dashboard: bool) -> Response:
    """404, to a path that is none. `dashboard`: there is one."""
    there_is = f"{'/dashboard, ' if dashboard else ''}/openapi.json and /healthz"
    text = f"There is nothing here. Events go to POST /api/v1/analytics/events. See {there_is}."
    return message(HTTPStatus.NOT_FOUND, text)


def method_not_allowed(allowed: str) -> Response:
    return message(HTTPStatus.METHOD_NOT_ALLOWED, f"Only {allowed} is allowed here.", ("allow", allowed))


def too_large(bytes_max: int) -> Response:
    text = f"The body must not be larger than {bytes_max} bytes."
    return message(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text, CLOSE)


def unsupported(accepted: str) -> Response:
    return message(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"The content type must be {accepted}.")


@lru_cache(ANSWERS_KEPT)
def accepted(new: int, limit: Limit, room: int) -> Response:
    """202 to a single event of a sender with a limit. `new`: 1, or 0 to a duplicate. `room`: as of an outcome."""
    return (ACCEPTED if new else DUPLICATE).plus(_rate_limit(limit, room))


def too_many(left_ms: int, limit: Limit | None = None, room: int = 0) -> Response:
    """429. `limit`, `room`: of the sender's events, if it sent some. The headers are those of Laravel's throttle:
    X-RateLimit-Reset is the time at which Retry-After ends, in seconds since the epoch."""
    wait_s = _wait_s(left_ms)
    headers = [("retry-after", str(wait_s)), *_rate_limit(limit, room)]
    if len(headers) > 1:
        headers.append(("x-ratelimit-reset", str(int(time()) + wait_s)))
    return message(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests.", *headers)


def unavailable(retry_after_s: int) -> Response:
    text = "Events cannot be taken at the moment. Send them again, with the same ids."
    return message(HTTPStatus.SERVICE_UNAVAILABLE, text, ("retry-after", str(retry_after_s)))


def batch_accepted(counted: Counted, duplicates: int, batch: Batch, limit: Limit | None = None) -> Response:
    """202, with the refused events of the batch. `limit`: of its sender. For want of room in it the last good events
    may not have been taken."""
    listed = [RejectedEvent(index, rejection.errors) for index, rejection in _listed(batch)]
    more = _more(batch, len(listed))
    body = BatchAccepted("accepted", counted.new, duplicates, listed, more, counted.limited or UNSET)
    wait = [("retry-after", str(_wait_s(counted.left_ms)))] if counted.limited else []
    return json_response(HTTPStatus.ACCEPTED, body, *wait, *_rate_limit(limit, counted.room))


def batch_invalid(batch: Batch) -> Response:
    """422 for a batch without a good event: Laravel's names for list items."""
    listed = _listed(batch)
    errors = {
        f"events.{index}.{field}": texts for index, rejection in listed for field, texts in rejection.errors.items()
    }
    return invalid(Rejection(errors), _more(batch, len(listed)))


def _listed(batch: Batch) -> list[tuple[int, Rejection]]:
    """The first refused events, as many as an answer has room for, and one in any case."""
    room = REFUSAL_BYTES_MAX - _REST_BYTES
    for listed, (_, rejection) in enumerate(batch.rejected):
        room -= sum(len(encode(each)) + _EACH_BYTES for each in rejection.errors.items())
        if room < 0 < listed:
            return batch.rejected[:listed]
    return batch.rejected


def _more(batch: Batch, listed: int) -> int | UnsetType:
    return batch.refused - listed or UNSET


def _rate_limit(limit: Limit | None, room: int) -> list[Header]:
    if limit is None or not limit.events_per_minute:
        return []
    return [("x-ratelimit-limit", str(limit.events_per_minute)), ("x-ratelimit-remaining", str(room))]


def _wait_s(left_ms: int) -> int:
    return max(1, -(-left_ms // 1000))
