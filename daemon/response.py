"""The answer to an HTTP request, of ingest and of reads alike.

`ingest/response.py` and `read/response.py` build the answers; `ingest/rsgi.py`, `ingest/exchange.py` and
`ingest/asgi.py` send them. An answer that is given often is built once, and its list of headers is sent as it is.
Errors have Laravel's shape, `{"message": …, "errors": {field: […]}}`, because existing producers parse it. No answer
carries a stack trace or a store's own message.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from daemon.domain.rejection import Rejection

Header = tuple[str, str]
"""The name is in lower case."""
Messages = tuple[dict[str, Any], dict[str, Any]]

encode = msgspec.json.Encoder().encode
JSON: Header = ("content-type", "application/json")
CLOSE: Header = ("connection", "close")


class Response:
    """A status, a body and headers; the server in front adds the body's length. An answer is never changed."""

    __slots__ = ("_messages", "body", "etag", "headers", "status")

    def __init__(self, status: int, body: bytes, headers: list[Header], etag: str = "") -> None:
        """`etag`: the tag of a body that a client may have already; it is among the headers, too."""
        self.status = int(status)  # an HTTPStatus costs more wherever it is sent or counted
        self.body = body
        self.headers = headers
        self.etag = etag
        self._messages: Messages | None = None

    def plus(self, headers: Sequence[Header]) -> Response:
        """The same answer with more headers."""
        return Response(self.status, self.body, [*self.headers, *headers], self.etag)

    @property
    def closing_headers(self) -> list[Header]:
        """The headers of a daemon that is stopping: they ask the client to connect anew for its next request."""
        return [header for header in self.headers if header != CLOSE] + [CLOSE]

    @property
    def messages(self) -> Messages:
        """The two ASGI messages that send the answer. They are built once, but for an answer with a tag: such answers
        fill the cache of reads, where the messages would take more memory than the answer."""
        if self.etag:
            return self._build(self.headers)
        if self._messages is None:
            self._messages = self._build(self.headers)
        return self._messages

    @property
    def closing_messages(self) -> Messages:
        """The same with `closing_headers`."""
        return self._build(self.closing_headers)

    def _build(self, headers: list[Header]) -> Messages:
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        if self.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            encoded.append((b"content-length", str(len(self.body)).encode()))
        return (
            {"type": "http.response.start", "status": self.status, "headers": encoded},
            {"type": "http.response.body", "body": self.body, "more_body": False},
        )


def json_response(status: HTTPStatus, body: Body, *headers: Header) -> Response:
    return Response(status, encode(body), [JSON, *headers])


def readiness(ready: Ready) -> Response:
    """200, or 503 to a load balancer that should ask another daemon."""
    unavailable = ready.status == "unavailable"
    return json_response(HTTPStatus.SERVICE_UNAVAILABLE if unavailable else HTTPStatus.OK, ready)


def message(status: HTTPStatus, text: str, *headers: Header) -> Response:
    return json_response(status, Message(text), *headers)


def invalid(rejection: Rejection, rejected_more: int | UnsetType = UNSET) -> Response:
    """422: every wrong field or parameter is named. `rejected_more`: events of a batch whose errors are not."""
    return json_response(HTTPStatus.UNPROCESSABLE_ENTITY, Invalid(rejection.message, rejection.errors, rejected_more))


# Bodies, from whose types OpenAPI is made --------------------------------------------------------------------------


class Body(Struct, forbid_unknown_fields=True):
    """An answer as JSON; its fields are sent in their order. The bodies of reads are in `read/endpoints/`."""


Amount = Annotated[int, Meta(extra_json_schema={"format": "int64"})]
Day = Annotated[str, Meta(extra_json_schema={"format": "date"})]


class Message(Body):
    message: str


class RejectedEvent(Body):
    index: int
    errors: dict[str, list[str]]


class Invalid(Body):
    message: str
    errors: dict[str, list[str]]
    rejected_more: int | UnsetType = UNSET


class Accepted(Body):
    status: Literal["accepted"]


class BatchAccepted(Body, omit_defaults=True):
    status: Literal["accepted"]
    accepted: int
    duplicates: int
    rejected: list[RejectedEvent]
    """The first refused events."""
    rejected_more: int | UnsetType = UNSET
    """Refused events that are not listed; absent: none."""
    limited: (
        Annotated[int, Meta(description="So many good events at the end were not taken. Send them again.")] | UnsetType
    ) = UNSET


class Health(Body):
    status: Literal["ok"]
    version: str
    run_id: str
    pid: int


class Version(Body):
    version: str
    python: str


class Ready(Body):
    status: Literal["ready", "spooling", "unavailable"]
    redis: str | UnsetType = UNSET
    stuck: str | UnsetType = UNSET
    spool: str | UnsetType = UNSET
