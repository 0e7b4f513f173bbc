"""The answers of ingest. The common ones are constants, built once."""

from __future__ import annotations

from http import HTTPStatus

from msgspec import UNSET, UnsetType

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

ACCEPTED = json_response(HTTPStatus.ACCEPTED, Accepted("accepted"))
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
NOT_FOUND = message(HTTPStatus.NOT_FOUND, "There is nothing here. Events go to POST /api/v1/analytics/events.")
BODY_TIMEOUT = message(HTTPStatus.REQUEST_TIMEOUT, "The body took too long to arrive.", CLOSE)
BODY_CUT_OFF = message(HTTPStatus.BAD_REQUEST, "The body ended before it was complete.", CLOSE)
BODY_IN_PARTS = message(HTTPStatus.BAD_REQUEST, "The body came in too many small pieces.", CLOSE)
TOO_MANY_BODIES = message(
    HTTPStatus.TOO_MANY_REQUESTS, "You are sending too many bodies at a time.", ("retry-after", "1"), CLOSE
)
FAILED = message(HTTPStatus.INTERNAL_SERVER_ERROR, "The server failed. The event may or may not have been counted.")


def method_not_allowed(allowed: str) -> Response:
    return message(HTTPStatus.METHOD_NOT_ALLOWED, f"Only {allowed} is allowed here.", ("allow", allowed))


def too_large(bytes_max: int) -> Response:
    text = f"The body must not be larger than {bytes_max} bytes."
    return message(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text, CLOSE)


def unsupported(accepted: str) -> Response:
    return message(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"The content type must be {accepted}.")


def too_many(left_ms: int, *headers: Header) -> Response:
    return message(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests.", _retry_after(left_ms), *headers)


def unavailable(retry_after_s: int) -> Response:
    text = "Events cannot be taken at the moment. Send them again, with the same ids."
    return message(HTTPStatus.SERVICE_UNAVAILABLE, text, ("retry-after", str(retry_after_s)))


def batch_accepted(accepted: int, duplicates: int, batch: Batch, *, limited: int = 0, left_ms: int = 0) -> Response:
    """202, with the refused events of the batch. `limited`: the good events at the end that were not taken, for want of
    room in their sender's limit. There is some in `left_ms`."""
    listed = [RejectedEvent(index, rejection.errors) for index, rejection in _listed(batch)]
    more = _more(batch, len(listed))
    body = BatchAccepted("accepted", accepted, duplicates, listed, more, limited or UNSET)
    return json_response(HTTPStatus.ACCEPTED, body, *([_retry_after(left_ms)] if limited else []))


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


def _retry_after(left_ms: int) -> Header:
    return "retry-after", str(max(1, -(-left_ms // 1000)))
