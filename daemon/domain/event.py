"""The event: what a client sends (`EventIn`), and what is counted of it (`Event`)."""

from __future__ import annotations

from typing import Annotated

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
