"""The description of everything the daemon serves, as OpenAPI 3.1, with the domains, actions and bounds configured.

    https://spec.openapis.org/oas/v3.1.0

A test has schemathesis send a running daemon what this allows and what it forbids, and compares the answers with it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from daemon import __version__
from daemon.config import Config, domain_actions, effective_actions
from daemon.domain.entity import Entity
from daemon.domain.event import EVENT_ID_CHARS_MAX
from daemon.read.endpoint import PREFIX, Endpoint
from daemon.read.parameters import ENTITY_ID, Description, Json
from daemon.response import Accepted, BatchAccepted, Body, Health, Invalid, Message, Ready

_RETRY_AFTER: Json = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
_ETAG: Json = {"ETag": {"description": "Stays while the counts do.", "schema": {"type": "string"}}}


def document(config: Config, endpoints: Mapping[str, Endpoint]) -> bytes:
    """The document as JSON. `endpoints`: the reads by path, as in `routes.py`."""
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "tallyd",
                "version": __version__,
                "description": "Counts what happens to entities, exactly once.",
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "paths": {
                **_event_paths(config),
                **_operation_paths(keyed=bool(config.read.key)),
                **_read_paths(config, endpoints),
            },
            "components": {
                "schemas": _schemas(config, endpoints),
                "securitySchemes": {
                    "producer": {"type": "apiKey", "in": "header", "name": "X-Tallyd-Key"},
                    "reader": {"type": "http", "scheme": "bearer"},
                },
            },
        }
    )


# Paths ---------------------------------------------------------------------------------------------------------------


def _event_paths(config: Config) -> Json:
    refused = {
        "400": _answer("Not JSON, or cut off.", Message),
        "401": _answer("The key in X-Tallyd-Key is not a configured producer's.", Message),
        "408": _answer("The body took too long to arrive.", Message),
        "413": _answer("The body is too large.", Message),
        "415": _answer("Another content type.", Message),
        "422": _answer("Every wrong field is named.", Invalid),
        "429": _answer("Too many requests from this address.", Message, _RETRY_AFTER),
        "503": _answer("No store takes events: send them again, with the same ids.", Message, _RETRY_AFTER),
    }
    return {
        "/api/v1/analytics/events": {
            "post": {
                "operationId": "countEvent",
                "summary": "Count one event, once",
                "description": "Also as text/plain, which sendBeacon sends without a preflight.",
                "requestBody": _body("Event"),
                "responses": {"202": _answer("Counted, or a duplicate.", Accepted), **refused},
                "security": [{}, {"producer": []}],
            }
        },
        "/api/v1/analytics/events/batch": {
            "post": {
                "operationId": "countEvents",
                "summary": f"Count up to {config.http.batch_events_max} events",
                "description": "Good ones count although others are bad. Also as application/x-ndjson: one a line.",
                "requestBody": _body("Batch"),
                "responses": {"202": _answer("Some were good.", BatchAccepted), **refused},
                "security": [{}, {"producer": []}],
            }
        },
    }


def _operation_paths(*, keyed: bool) -> Json:
    text = {"text/plain": {"schema": {"type": "string"}}}
    document = {"application/json": {"schema": {"type": "object"}}}
    return {
        "/healthz": {"get": _get("healthz", "Does this worker run?", {"200": _answer("It does.", Health)})},
        "/readyz": {
            "get": _get(
                "readyz",
                "Can this worker count?",
                {"200": _answer("It can.", Ready), "503": _answer("Redis does not take events.", Ready)},
            )
        },
        "/metrics": {
            "get": _get("metrics", "For Prometheus", {"200": {"description": "All workers.", "content": text}})
        },
        "/openapi.json": {
            "get": _get(
                "openapi", "This document", {"200": {"description": "OpenAPI 3.1.", "content": document}}, key=keyed
            )
        },
    }


def _read_paths(config: Config, endpoints: Mapping[str, Endpoint]) -> Json:
    keyed = bool(config.read.key)
    types = sorted({name for section in config.domains.values() for name in section.entity_types})
    places = {
        "domain": _path("domain", {"enum": list(config.domains)}),
        "type": _path("type", {"enum": types}),
        "id": _path("id", ENTITY_ID, "Percent-encoded; it may hold any character but control ones."),
    }
    paths = {}
    for path, endpoint in endpoints.items():
        parameters = Description()
        endpoint.ask(Entity("", "", ""), parameters)
        responses = {
            "200": _answer("As of `as_of`.", endpoint.answer, _ETAG),
            "304": {"description": "What If-None-Match names is still so."},
            **({"401": _answer("The key is missing or wrong.", Message)} if keyed else {}),
            "404": _answer("There is no such domain or entity type.", Message),
            "422": _answer("Every wrong parameter is named.", Invalid),
            "431": {"description": f"The request's head is larger than {config.http.header_bytes_max} bytes."},
            "503": _answer("A store does not answer.", Message, _RETRY_AFTER),
        }
        paths[f"{PREFIX}{path}"] = {
            "get": _get(
                endpoint.operation,
                endpoint.summary.format(read=config.read),
                responses,
                [
                    *(place for name, place in places.items() if f"{{{name}}}" in path),
                    *({**each, "description": endpoint.about.get(each["name"], "")} for each in parameters.described),
                ],
                description=endpoint.description,
                key=keyed,
            )
        }
    return paths


def _get(
    id_: str,
    summary: str,
    responses: Json,
    parameters: list[Json] | None = None,
    *,
    description: str = "",
    key: bool = False,
) -> Json:
    found: Json = {"operationId": id_, "summary": summary, "responses": responses}
    if description:
        found["description"] = description
    if parameters:
        found["parameters"] = parameters
    if key:
        found["security"] = [{"reader": []}, {"producer": []}]
    return found


def _path(name: str, schema: Json, description: str = "") -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": description}


def _body(schema: str) -> Json:
    return {"required": True, "content": {"application/json": {"schema": _ref(schema)}}}


def _answer(description: str, body: type[Body], headers: Json | None = None) -> Json:
    content = {"application/json": {"schema": _ref(body.__name__)}}
    return {"description": description, "content": content, **({"headers": headers} if headers else {})}


# Schemas -------------------------------------------------------------------------------------------------------------


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas(config: Config, endpoints: Mapping[str, Endpoint]) -> Json:
    """By name, as `#/components/schemas` holds them."""
    reads = [endpoint.answer for endpoint in endpoints.values()]
    bodies = (Accepted, BatchAccepted, Message, Invalid, Health, Ready, *reads)
    _, components = msgspec.json.schema_components(bodies, ref_template=_ref("{name}")["$ref"])
    for answer in reads:  # of which each is sent with the time it was read at
        components[answer.__name__]["properties"]["as_of"] = {"type": "string", "format": "date-time"}
        components[answer.__name__]["required"].append("as_of")
    return {"Event": _event(config), "Batch": _batch(config.http.batch_events_max), **components}


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
    events = {"type": "array", "items": _ref("Event"), "minItems": 1, "maxItems": events_max}
    return {"anyOf": [events, {"type": "object", "properties": {"events": events}, "required": ["events"]}]}
