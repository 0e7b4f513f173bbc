"""The schemas of what is sent and answered, for `openapi.py`."""

from __future__ import annotations

from typing import Any

from daemon.config import Config, domain_actions, effective_actions
from daemon.domain.entity import ENTITY_ID_CHARS_MAX
from daemon.domain.event import EVENT_ID_CHARS_MAX

Json = dict[str, Any]

ENTITY_ID: Json = {
    "type": "string",
    "minLength": 1,
    "maxLength": ENTITY_ID_CHARS_MAX,
    "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$",
}
DAY: Json = {"type": "string", "format": "date"}
_AMOUNT: Json = {"type": "integer", "format": "int64"}


def ref(name: str) -> Json:
    """A schema by name."""
    return {"$ref": f"#/components/schemas/{name}"}


def schemas(config: Config) -> Json:
    """By name, as `#/components/schemas` holds them."""
    texts = {"type": "array", "items": {"type": "string"}}
    errors = {"type": "object", "additionalProperties": texts}
    counters = {"type": "object", "additionalProperties": _AMOUNT}
    as_of = {"type": "string", "format": "date-time"}
    name = {"type": "string"}
    of_type = {"domain": name, "entity_type": name}
    of_entity = {**of_type, "entity_id": name}
    ranked = _object({"entity_id": name, "amount": _AMOUNT, "row": {"type": ["object", "null"]}}, optional=("row",))
    point = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
    sums = {"type": "object", "additionalProperties": {"type": "array", "items": _AMOUNT}}
    lists = {"type": "object", "additionalProperties": {"type": "array", "items": ranked}}
    rejected = {"type": "array", "items": _object({"index": {"type": "integer"}, "errors": errors})}
    return {
        "Event": _event(config),
        "Batch": _batch(config.http.batch_events_max),
        "Accepted": _object({"status": {"const": "accepted"}}),
        "BatchAccepted": _object(
            {
                "status": {"const": "accepted"},
                "accepted": {"type": "integer"},
                "duplicates": {"type": "integer"},
                "rejected": rejected,
            }
        ),
        "Message": _object({"message": name}),
        "Invalid": _object({"message": name, "errors": errors, "rejected": rejected}, optional=("rejected",)),
        "Health": _object({"status": {"const": "ok"}, "version": name, "run_id": name, "pid": {"type": "integer"}}),
        "Ready": _object(
            {"status": {"enum": ["ready", "spooling", "unavailable"]}, "redis": name}, optional=("redis",)
        ),
        "Total": _object({**of_entity, "fresh": {"type": "boolean"}, "counters": counters, "as_of": as_of}),
        "Totals": _object(
            {
                **of_type,
                "totals": {"type": "array", "items": _object({"entity_id": name, "counters": counters})},
                "as_of": as_of,
            }
        ),
        "Top": _object(
            {
                **of_type,
                "counter": name,
                "window": name,
                "enriched": {"type": "boolean", "description": "Whether MySQL was asked and answered."},
                "rows": {"type": "array", "items": ranked},
                "as_of": as_of,
            },
            optional=("enriched",),
        ),
        "Series": _object(
            {
                **of_entity,
                "bucket": name,
                "from": DAY,
                "to": DAY,
                "points": {"type": "array", "items": point},
                "as_of": as_of,
            }
        ),
        "Summary": _object(
            {
                "domain": name,
                "days": {"type": "integer"},
                "labels": {"type": "array", "items": DAY},
                "counters": sums,
                "top_window": name,
                "top": {"type": "object", "additionalProperties": lists},
                "as_of": as_of,
            }
        ),
    }


def _event(config: Config) -> Json:
    """Which entity types and values go with which domain and action."""
    actions = effective_actions(config)
    kinds = [
        {
            "properties": {
                "domain": {"const": domain},
                "entity_type": {"enum": list(section.entity_types)},
                "action": {"const": name},
                "value": {
                    "type": ["integer", "null"], "minimum": actions[name].value_min, "maximum": actions[name].value_max
                },
            },
            "required": ["domain", "entity_type", "action"],
        }
        for domain, section in config.domains.items()
        for name in domain_actions(config, domain)
    ]  # fmt: skip
    return {
        "type": "object",
        "properties": {
            "event_id": {"type": "string", "minLength": 1, "maxLength": EVENT_ID_CHARS_MAX},
            "entity_id": ENTITY_ID,
            "occurred_at": {
                "type": "string",
                "format": "date-time",
                "description": "RFC 3339 with an offset; its UTC date decides the bucket.",
            },
        },
        "required": ["event_id", "entity_id", "occurred_at"],
        "anyOf": kinds,
        "description": "Other fields are ignored.",
    }


def _batch(events_max: int) -> Json:
    events = {"type": "array", "items": ref("Event"), "minItems": 1, "maxItems": events_max}
    return {"anyOf": [events, {"type": "object", "properties": {"events": events}, "required": ["events"]}]}


def _object(properties: Json, optional: tuple[str, ...] = ()) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }
