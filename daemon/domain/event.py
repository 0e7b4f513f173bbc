"""The event: what a client sends (`EventIn`), what is counted (`Event`), and why one was turned away (`Rejection`)."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from daemon.domain.action import Effect
from daemon.domain.entity import ENTITY_ID_CHARS_MAX

EVENT_ID_CHARS_MAX = 255


class EventIn(Struct, gc=False):
    """The event on the wire. Types and lengths only; what the catalogue allows is checked by `Catalogue.admit`."""

    event_id: Annotated[str, Meta(min_length=1, max_length=EVENT_ID_CHARS_MAX)]
    domain: str
    entity_type: str
    entity_id: Annotated[str, Meta(min_length=1, max_length=ENTITY_ID_CHARS_MAX)]
    action: str
    occurred_at: str
    value: int | None = 1


class Event(Struct, frozen=True, gc=False):
    """An admitted event: its idempotency key, the key of its entity, and what it adds."""

    event_id: str
    entity: str
    effect: Effect


class Rejection(Struct, frozen=True, gc=False):
    """Why an event was not admitted: for every wrong field, what is wrong with it."""

    errors: dict[str, list[str]]

    def as_laravel(self) -> dict[str, Any]:
        """The body of a 422: `{"message": …, "errors": {field: […]}}`, which existing producers parse."""
        texts = [text for field in self.errors.values() for text in field]
        more = len(texts) - 1
        tail = f" (and {more} more error{'s' if more > 1 else ''})" if more else ""
        return {"message": texts[0] + tail, "errors": self.errors}
