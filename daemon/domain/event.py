"""The event: what a client sends (`EventIn`), and what is counted of it (`Event`)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from daemon.domain.action import Effect
from daemon.domain.counter import INT64_MAX
from daemon.domain.entity import ENTITY_ID_CHARS_MAX

EVENT_ID_CHARS_MAX = 255


EntityId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=ENTITY_ID_CHARS_MAX,
        extra_json_schema={"pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$"},
    ),
]
"""The pattern is for OpenAPI; control characters are refused by `Catalogue.admit`."""
EntityNumber = Annotated[int, Meta(ge=-INT64_MAX - 1, le=INT64_MAX)]
"""An id that is a number in the application: 7 is taken as "7"."""


class EventIn(Struct, gc=False):
    """The event on the wire. Types and lengths only; what the catalogue allows is checked by `Catalogue.admit`."""

    event_id: Annotated[str, Meta(min_length=1, max_length=EVENT_ID_CHARS_MAX)]
    domain: str
    entity_type: str
    entity_id: EntityId | EntityNumber
    action: str
    occurred_at: Annotated[
        Annotated[str, Meta(extra_json_schema={"format": "date-time"})] | None,
        Meta(description="RFC 3339 with an offset; its UTC date decides the bucket. Absent or null: now."),
    ] = None
    value: int | None = 1


class Event(Struct, frozen=True, gc=False):
    """An admitted event: its idempotency key (`own_id`), the key of its entity, and what it adds."""

    event_id: str
    entity: str
    effect: Effect


def own_id(event_id: str, producer: str) -> str:
    """The idempotency key: a producer's ids and those sent without a key never meet, so nobody can use up another's.

    `producer`: "" without a key. Such an id stays as it is, unless it begins as a key of a producer's event does.
    """
    if producer:
        return f"\0{producer}\0{event_id}"
    return "\0" + event_id if event_id.startswith("\0") else event_id
