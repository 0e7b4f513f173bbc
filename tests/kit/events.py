"""A good event, and the paths events are sent to. Imports nothing of `daemon`: the load test's producers use it."""

from __future__ import annotations

import secrets
from typing import Any

EVENTS = "/api/v1/analytics/events"
BATCH = "/api/v1/analytics/events/batch"


def event(**fields: Any) -> dict[str, Any]:
    """A good event with an id of its own; `fields` replace or add."""
    return {
        "event_id": secrets.token_hex(8),
        "domain": "jav",
        "entity_type": "movie",
        "entity_id": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "action": "view",
        "value": 1,
        "occurred_at": "2026-02-19T10:00:00Z",
        **fields,
    }
