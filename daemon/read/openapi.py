"""The description of everything the daemon serves, as OpenAPI 3.1, with the domains, actions and bounds configured.

    https://spec.openapis.org/oas/v3.1.0

A test has schemathesis send a running daemon what this allows and what it forbids, and compares the answers with it.
"""

from __future__ import annotations

import msgspec

from daemon import __version__
from daemon.config import Config, domain_counters
from daemon.domain.window import WINDOWS
from daemon.read.schemas import DAY, ENTITY_ID, Json, ref, schemas
from daemon.read.series import SIZES

_RETRY_AFTER: Json = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
_ETAG: Json = {"ETag": {"description": "Stays while the counts do.", "schema": {"type": "string"}}}


def document(config: Config) -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "tallyd",
                "version": __version__,
                "description": "Counts what happens to entities, exactly once.",
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "paths": {**_event_paths(config), **_operation_paths(keyed=bool(config.read.key)), **_read_paths(config)},
            "components": {
                "schemas": schemas(config),
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
        "400": _reply("Not JSON, or cut off.", "Message"),
        "401": _reply("The key in X-Tallyd-Key is not a configured producer's.", "Message"),
        "408": _reply("The body took too long to arrive.", "Message"),
        "413": _reply("The body is too large.", "Message"),
        "415": _reply("Another content type.", "Message"),
        "422": _reply("Every wrong field is named.", "Invalid"),
        "429": _reply("Too many requests from this address.", "Message", _RETRY_AFTER),
        "503": _reply("No store takes events: send them again, with the same ids.", "Message", _RETRY_AFTER),
    }
    return {
        "/api/v1/analytics/events": {
            "post": {
                "operationId": "countEvent",
                "summary": "Count one event, once",
                "description": "Also as text/plain, which sendBeacon sends without a preflight.",
                "requestBody": _body("Event"),
                "responses": {"202": _reply("Counted, or a duplicate.", "Accepted"), **refused},
                "security": [{}, {"producer": []}],
            }
        },
        "/api/v1/analytics/events/batch": {
            "post": {
                "operationId": "countEvents",
                "summary": f"Count up to {config.http.batch_events_max} events",
                "description": "Good ones count although others are bad. Also as application/x-ndjson: one a line.",
                "requestBody": _body("Batch"),
                "responses": {"202": _reply("Some were good.", "BatchAccepted"), **refused},
                "security": [{}, {"producer": []}],
            }
        },
    }


def _operation_paths(*, keyed: bool) -> Json:
    text = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "/healthz": {"get": _get("healthz", "Does this worker run?", {"200": _reply("It does.", "Health")})},
        "/readyz": {
            "get": _get(
                "readyz",
                "Can this worker count?",
                {"200": _reply("It can.", "Ready"), "503": _reply("Redis does not take events.", "Ready")},
            )
        },
        "/metrics": {
            "get": _get("metrics", "For Prometheus", {"200": {"description": "All workers.", "content": text}})
        },
        "/openapi.json": {
            "get": _get("openapi", "This document", {"200": _reply("OpenAPI 3.1.", {"type": "object"})}, key=keyed)
        },
    }


def _read_paths(config: Config) -> Json:
    read = config.read
    domain = _path("domain", {"enum": list(config.domains)})
    types = sorted({name for section in config.domains.values() for name in section.entity_types})
    of_type = [domain, _path("type", {"enum": types})]
    of_entity = [*of_type, _path("id", ENTITY_ID, "Percent-encoded; it may hold any character but control ones.")]
    counters = sorted({counter for name in config.domains for counter in domain_counters(config, name)})
    keyed = bool(read.key)

    def reading(id_: str, summary: str, schema: str, parameters: list[Json]) -> Json:
        responses = {
            "200": _reply("As of `as_of`.", schema, _ETAG),
            "304": {"description": "What If-None-Match names is still so."},
            **({"401": _reply("The key is missing or wrong.", "Message")} if keyed else {}),
            "404": _reply("There is no such domain or entity type.", "Message"),
            "422": _reply("Every wrong parameter is named.", "Invalid"),
            "431": {"description": f"The request's head is larger than {config.http.header_bytes_max} bytes."},
            "503": _reply("A store does not answer.", "Message", _RETRY_AFTER),
        }
        return {"get": _get(id_, summary, responses, parameters, key=keyed)}

    ids = {"type": "array", "items": ENTITY_ID, "minItems": 1, "maxItems": read.ids_max}
    comma_free = {**ENTITY_ID, "pattern": r"^[^\u0000-\u001f\u007f-\u009f,]+$"}
    return {
        "/api/v1/analytics/totals/{domain}/{type}/{id}": reading(
            "total",
            "An entity's counters",
            "Total",
            [
                *of_entity,
                _query("fresh", _flag(), "1: exact at this moment, at the price of asking Redis and MongoDB."),
            ],
        ),
        "/api/v1/analytics/totals/{domain}/{type}": reading(
            "totals",
            f"The counters of up to {read.ids_max} entities",
            "Totals",
            [
                *of_type,
                {
                    **_query("ids", {**ids, "items": comma_free}, "Separated by commas."),
                    "style": "form",
                    "explode": False,
                },
                {**_query("id", ids, "Repeated: ids that hold commas."), "style": "form", "explode": True},
            ],
        ),
        "/api/v1/analytics/top/{domain}/{type}": reading(
            "top",
            "The most counted entities",
            "Top",
            [
                *of_type,
                _query("counter", {"enum": counters}),
                _query("limit", {"type": "integer", "minimum": 1, "maximum": read.top_limit_max}),
                _query("window", {"enum": [window for window in WINDOWS if window in read.top_windows] or ["total"]}),
                _query("enrich", _flag(), "1: with the configured columns of the MySQL row."),
            ],
        ),
        "/api/v1/analytics/series/{domain}/{type}/{id}": reading(
            "series",
            f"An entity's history, zero-filled, of up to {read.series_points_max} points",
            "Series",
            [
                *of_entity,
                _query("bucket", {"enum": list(SIZES)}),
                _query("from", DAY, "First UTC day."),
                _query("to", DAY, "Last UTC day; today without it."),
            ],
        ),
        "/api/v1/analytics/summary/{domain}": reading(
            "summary",
            "What a dashboard shows: sums per day, and top lists",
            "Summary",
            [domain, _query("days", {"enum": [7, 14, 30, 90]})],
        ),
    }


def _get(id_: str, summary: str, responses: Json, parameters: list[Json] | None = None, *, key: bool = False) -> Json:
    found: Json = {"operationId": id_, "summary": summary, "responses": responses}
    if parameters:
        found["parameters"] = parameters
    if key:
        found["security"] = [{"reader": []}, {"producer": []}]
    return found


def _path(name: str, schema: Json, description: str = "") -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": description}


def _query(name: str, schema: Json, description: str = "") -> Json:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _flag() -> Json:
    return {"enum": ["0", "1", "true", "false"]}


def _body(schema: str) -> Json:
    return {"required": True, "content": {"application/json": {"schema": ref(schema)}}}


def _reply(description: str, schema: str | Json, headers: Json | None = None) -> Json:
    content = {"application/json": {"schema": schema if isinstance(schema, dict) else ref(schema)}}
    return {"description": description, "content": content, **({"headers": headers} if headers else {})}
