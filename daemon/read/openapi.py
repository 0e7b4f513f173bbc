"""The description of everything the daemon serves, as OpenAPI 3.1, with the domains, actions and bounds configured.

    https://spec.openapis.org/oas/v3.1.0

Bodies are described by their types, reads by the table of `routes.py`. A test has schemathesis send a running daemon
what this allows and what it forbids, and compares the answers with it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from daemon import __version__
from daemon.config import Config, domain_actions, effective_actions, key_hashes, reads_are_keyed, signs
from daemon.domain.entity import Entity
from daemon.domain.event import EventIn
from daemon.read.endpoint import OPERATOR_ROUTES, PREFIX, Endpoint
from daemon.read.parameters import ENTITY_ID, Json, Parameters
from daemon.response import Accepted, BatchAccepted, Body, Health, Invalid, Message, Ready, Version


def _header(name: str, description: str, **schema: object) -> Json:
    return {name: {"description": description, "schema": schema}}


_RETRY_AFTER = _header("Retry-After", "Seconds to wait.", type="integer")
_DUPLICATE = _header(
    "X-Tallyd-Duplicate", "The event was known. Absent: it counts, or Redis is away and nobody knows yet.", const="1"
)
_RATE_LIMIT = _header(
    "X-RateLimit-Limit", "Events that the sender may send in a minute. Absent: it has no such limit.", type="integer"
) | _header(
    "X-RateLimit-Remaining", "Events that would be taken now. A single event is not told while there are many.",
    type="integer",
)  # fmt: skip
_RATE_LIMIT_RESET = _header("X-RateLimit-Reset", "When Retry-After ends, in seconds since the epoch.", type="integer")
_ETAG = _header("ETag", "Stays while the counts do.", type="string")
_SIGNATURE: Json = {
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Tallyd-Signature",
        "description": "`key=ID,t=SECONDS,v1=HEX`: HEX is the HMAC-SHA256 of `SECONDS.PATH.BODY`.",
    }
}
_READER: Json = {"security": [{"reader": []}, {"producer": []}, {"password": []}]}
"""The key of a reader, or of an operator."""


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
            "paths": {**_event_paths(config), **_operation_paths(config), **_read_paths(config, endpoints)},
            "components": {
                "schemas": _schemas(config, endpoints),
                "securitySchemes": {
                    "producer": {"type": "apiKey", "in": "header", "name": "X-Tallyd-Key"},
                    **(_SIGNATURE if signs(config) else {}),
                    "reader": {"type": "http", "scheme": "bearer"},
                    "password": {"type": "http", "scheme": "basic"},
                },
            },
        }
    )


# Paths ---------------------------------------------------------------------------------------------------------------


def _event_paths(config: Config) -> Json:
    refused = {
        "400": _answer("Not JSON, or cut off.", Message),
        "401": _answer("The key or the signature is no producer's. Or there is none, and events need one.", Message),
        **({"403": _answer("Pages of this origin may not send events.", Message)} if config.browser.origins else {}),
        "408": _answer("The body took too long to arrive.", Message),
        "413": _answer("The body is too large.", Message),
        "415": _answer("Another content type.", Message),
        "422": _answer("Every wrong field is named.", Invalid),
        **_misdirected(config),
        "429": _answer(
            "The sender is over its limit: nothing was taken.",
            Message,
            {**_RETRY_AFTER, **_RATE_LIMIT, **_RATE_LIMIT_RESET},
        ),
        "503": _answer("No store takes events: send them again, with the same ids.", Message, _RETRY_AFTER),
    }
    security: list[Json] = [] if config.ingest.require_key else [{}]
    security += [{"producer": []}, *([{"signature": []}] if signs(config) else [])]

    def post(id_: str, summary: str, description: str, schema: str, accepted: Json) -> Json:
        body = {"required": True, "content": {"application/json": {"schema": _ref(schema)}}}
        return {
            "post": {
                **_operation(id_, summary, {"202": accepted, **refused}),
                "description": description,
                "requestBody": body,
                "security": security,
            }
        }

    def both(path: str, where: str = "") -> Json:
        return {
            path: post(
                f"countEvent{where}",
                "Count one event, once",
                "Also as text/plain, which sendBeacon sends without a preflight.",
                "Event",
                _answer("Counted, or a duplicate.", Accepted, {**_DUPLICATE, **_RATE_LIMIT}),
            ),
            f"{path}/batch": post(
                f"countEvents{where}",
                f"Count up to {config.http.batch_events_max} events",
                "Good ones count although others are bad. Also as application/x-ndjson: one a line.",
                "Batch",
                _answer(
                    "Some were good, and taken. `limited` and Retry-After are there if others of them were not.",
                    BatchAccepted,
                    {**_RETRY_AFTER, **_RATE_LIMIT},
                ),
            ),
        }

    alias = config.browser.alias
    return {**both(f"{PREFIX}events"), **(both(alias, "AtAlias") if alias else {})}


def _misdirected(config: Config) -> Json:
    return {"421": _answer("Nothing is served under this host name.", Message)} if config.http.hosts else {}


def _operation_paths(config: Config) -> Json:
    healthy = {"200": _answer("It does.", Health)}
    ready = {"200": _answer("It can.", Ready), "503": _answer("Redis does not take events.", Ready)}
    described = {"200": _content("OpenAPI 3.1.", "application/json", {"type": "object"}), **_misdirected(config)}
    keyed = _READER if reads_are_keyed(config) else {}
    return {
        "/healthz": {"get": _operation("healthz", "Does this worker run?", healthy)},
        "/livez": {"get": _operation("livez", "The same", healthy)},
        "/readyz": {"get": _operation("readyz", "Can this worker count?", ready)},
        "/version": {"get": _operation("version", "What runs?", {"200": _answer("This.", Version)})},
        "/openapi.json": {"get": {**_operation("openapi", "This document", described), **keyed}},
    }


def _read_paths(config: Config, endpoints: Mapping[str, Endpoint]) -> Json:
    keyed = reads_are_keyed(config)
    types = sorted({name for section in config.domains.values() for name in section.entity_types})
    places = [
        _place("domain", {"enum": list(config.domains)}),
        _place("type", {"enum": types}),
        _place("id", ENTITY_ID, "Percent-encoded; it may hold any character but control ones."),
    ]
    others = {
        "304": {"description": "What If-None-Match names is still so."},
        "404": _answer("There is no such domain or entity type.", Message),
        "422": _answer("Every wrong parameter is named.", Invalid),
        **_misdirected(config),
        "431": {"description": f"The request's head is larger than {config.http.header_bytes_max} bytes."},
        "503": _answer("A store does not answer, or too many ask.", Message, _RETRY_AFTER),
    }
    refused = {"401": _answer("The key is missing or wrong.", Message)}
    paths = {}
    for path, endpoint in endpoints.items():
        asks = keyed or path in OPERATOR_ROUTES
        needs_key = bool(key_hashes(config, "operator")) if path in OPERATOR_ROUTES else keyed
        answer = endpoint.answer
        parameters = Parameters("")
        endpoint.ask(Entity("", "", ""), parameters)
        operation = _operation(
            answer.__name__.lower(),
            endpoint.summary.format(read=config.read),
            {"200": _answer("As of `as_of`.", answer, _ETAG), **others, **(refused if asks else {})},
        )
        operation["description"] = endpoint.description
        operation["parameters"] = [place for place in places if f"{{{place['name']}}}" in path] + [
            {"name": name, "in": "query", "description": endpoint.about.get(name, ""), **described}
            | ({"required": True} if name in parameters.required else {})
            for name, described in parameters.described.items()
        ]
        paths[PREFIX + path] = {"get": operation | (_READER if needs_key else {})}
    return paths


def _operation(id_: str, summary: str, responses: Json) -> Json:
    return {"operationId": id_, "summary": summary, "responses": responses}


def _place(name: str, schema: Json, description: str = "") -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": description}


def _answer(description: str, body: type[Body], headers: Json | None = None) -> Json:
    answer = _content(description, "application/json", _ref(body.__name__))
    return answer | {"headers": headers} if headers else answer


def _content(description: str, kind: str, schema: Json) -> Json:
    return {"description": description, "content": {kind: {"schema": schema}}}


# Schemas -------------------------------------------------------------------------------------------------------------


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas(config: Config, endpoints: Mapping[str, Endpoint]) -> Json:
    """By name, as `#/components/schemas` holds them."""
    reads = [endpoint.answer for endpoint in endpoints.values()]
    bodies = (EventIn, Accepted, BatchAccepted, Message, Invalid, Health, Ready, Version, *reads)
    _, components = msgspec.json.schema_components(bodies, ref_template=_ref("{name}")["$ref"])
    for answer in reads:  # of which each is sent with the time it was read at
        components[answer.__name__]["properties"]["as_of"] = {"type": "string", "format": "date-time"}
        components[answer.__name__]["required"].append("as_of")
    events = {"type": "array", "items": _ref("Event"), "minItems": 1, "maxItems": config.http.batch_events_max}
    return {
        "Event": {**components.pop("EventIn"), **_admitted(config)},
        "Batch": {"anyOf": [events, {"type": "object", "properties": {"events": events}, "required": ["events"]}]},
        **components,
    }


def _admitted(config: Config) -> Json:
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
            }
        }
        for domain, section in config.domains.items()
        for name in domain_actions(config, domain)
    ]  # fmt: skip
    return {"title": "Event", "description": "Other fields are ignored.", "anyOf": kinds}
