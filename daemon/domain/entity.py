"""What is counted: an entity, named by its domain, its type and its id.

The key `<domain>:<type>:<id>` is the entity's name in Redis and the `_id` of its MongoDB totals. Domain and type never
hold a colon, so the id, which may, is whatever follows the second one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

ENTITY_ID_CHARS_MAX = 255
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What an id must not hold."""


class Entity(NamedTuple):
    domain: str
    type: str
    id: str

    @property
    def key(self) -> str:
        return f"{self.domain}:{self.type}:{self.id}"


def parse_entity(key: str) -> Entity | None:
    """The entity a key names, or None if it is not the key of one (a foreign or malformed value in Redis)."""
    parts = key.split(":", 2)
    if len(parts) != 3 or not all(parts):
        return None
    return Entity(*parts)
