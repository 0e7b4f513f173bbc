"""What `/openapi.json` says against what the daemon does: schemathesis sends what it allows and what it forbids."""

from __future__ import annotations

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation

from tests.kit.system import BATCH, EVENTS, Ingest, System, event

CONFIG = {
    "READ__CACHE_TTL_MS": "0",
    "READ__IDS_MAX": "5",
    "READ__SUM_TIMEOUT_MS": "60000",
    "ACTIONS": '{"rating": {"value_max": 5, "counters": {"rating_count": "one", "rating_sum": "value"}}}',
    "DOMAINS": '{"jav": {"entity_types": ["movie", "tag"], "actions": ["view", "rating"]}}',
    "BROWSER__ORIGINS": '["https://shop.example"]',
    "BROWSER__ALIAS": "/t",
    "HTTP__HOSTS": '["127.0.0.1"]',
    "KEYS__ENTRIES": json.dumps([{"id": "shop", "name": "shop", "secret": "a-shop-s-secret-0123"}]),
    "RATE_LIMIT__PER_MINUTE": "1000",
    "DASHBOARD__ENABLED": "true",
    "DASHBOARD__STATUS_TTL_MS": "100",
}
POSTS = (EVENTS, BATCH, "/t", "/t/batch")

ANSWER_TIMEOUT_S = 120.0
EXAMPLES = settings(
    max_examples=10, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck), deadline=None
)
"""Of each operation, as many good ones and as many bad."""

UNSAYABLE = {
    BATCH: "negative_data_rejection",  # one good event makes good of a batch of bad ones
    "/t/batch": "negative_data_rejection",
    "/api/v1/analytics/totals/{domain}/{type}": "positive_data_acceptance",  # ids and id may name so many together
    "/api/v1/analytics/top/{domain}/{type}": "positive_data_acceptance",  # the same, and nothing is before `total`
    "/api/v1/analytics/series/{domain}/{type}": "positive_data_acceptance",  # the same of from, to, ids and id
    "/api/v1/analytics/series/{domain}/{type}/{id}": "positive_data_acceptance",  # how from and to go together
    "/api/v1/analytics/series/{domain}": "positive_data_acceptance",  # the same, and that window goes with hours
    "/api/v1/analytics/entities/{domain}/{type}": "positive_data_acceptance",  # which types have a label
}
"""Checks of what a schema has no words for."""


@pytest.fixture(scope="module")
def document(shared_ingest: Ingest, shared_system: System) -> dict[str, Any]:
    shared_system.count(event(entity_id="m"))
    shared_system.flush()
    found: dict[str, Any] = shared_ingest.client.get("/openapi.json").json()
    return found


def test_it_speaks_of_the_configured_domains_actions_and_bounds(document: dict[str, Any]) -> None:
    kinds = document["components"]["schemas"]["Event"]["anyOf"]
    assert [kind["properties"]["action"]["const"] for kind in kinds] == ["view", "rating"]
    assert [kind["properties"]["value"]["maximum"] for kind in kinds] == [100, 5]
    top = document["paths"]["/api/v1/analytics/top/{domain}/{type}"]["get"]["parameters"]
    assert {"enum": ["rating_count", "rating_sum", "view"]} in [parameter["schema"] for parameter in top]


def test_it_names_every_path_the_daemon_serves(document: dict[str, Any], shared_ingest: Ingest) -> None:
    served = {"/healthz", "/livez", "/readyz", "/version", "/openapi.json"}
    served |= set(POSTS)
    served |= {f"/api/v1/analytics/totals/{{domain}}/{{type}}{id_}" for id_ in ("", "/{id}")}
    served |= {f"/api/v1/analytics/series/{{domain}}/{{type}}{id_}" for id_ in ("", "/{id}")}
    served |= {"/api/v1/analytics/top/{domain}/{type}", "/api/v1/analytics/series/{domain}"}
    served |= {"/api/v1/analytics/summary/{domain}", "/api/v1/analytics/domains"}
    served |= {"/api/v1/analytics/status", "/api/v1/analytics/dead"}
    served |= {"/api/v1/analytics/entities/{domain}/{type}"}
    assert set(document["paths"]) == served


@pytest.mark.parametrize("path", POSTS)
def test_every_header_of_an_answer_to_events_is_described(
    document: dict[str, Any], shared_ingest: Ingest, path: str
) -> None:
    described = document["paths"][path]["post"]["responses"]

    def answered(body: object, **headers: str) -> set[str]:
        answer = shared_ingest.post(body, path, headers={"origin": "https://shop.example", **headers})
        told = {name.lower() for name in described[str(answer.status_code)].get("headers", {})}
        plain = {"content-type", "content-length", "date", "server", "vary", "connection"}
        found = {name for name in answer.headers if not name.startswith("access-control-")} - plain
        assert found <= told, answer.status_code
        statuses.append(answer.status_code)
        return found

    statuses: list[int] = []
    batch = path.endswith("batch")
    same = event()
    body = [same] if batch else same
    answered(body)
    assert batch or "x-tallyd-duplicate" in answered(body)
    answered(body, origin="https://evil.example")
    answered(body, host="evil.example")
    answered(body, **{"x-tallyd-signature": "key=shop"})
    assert statuses[-3:] == [403, 421, 401]
    assert {"signature": []} in document["paths"][path]["post"]["security"]


def test_what_a_daemon_never_answers_is_not_described(system: System) -> None:
    with system.ingest() as ingest:
        document = ingest.client.get("/openapi.json").json()
        described = document["paths"][EVENTS]["post"]
        assert not {"403", "421"} & described["responses"].keys()
        assert described["security"] == [{}, {"producer": []}]
        assert "/t" not in document["paths"]


def test_the_daemon_does_what_its_description_says(document: dict[str, Any], shared_ingest: Ingest) -> None:
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=shared_ingest.url)
    for found in schema.get_all_operations():
        operation = found.ok()
        described = document["paths"][operation.path][operation.method]
        hold(operation, GenerationMode.POSITIVE)
        if described.get("parameters") or "requestBody" in described:
            hold(operation, GenerationMode.NEGATIVE)


def hold(operation: APIOperation, mode: GenerationMode) -> None:
    left_out = [CHECKS.get_one(UNSAYABLE[operation.path])] if operation.path in UNSAYABLE else []

    @EXAMPLES
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        assume(not holds_whole_float(case.body))
        case.call_and_validate(excluded_checks=left_out, timeout=ANSWER_TIMEOUT_S)

    check()


def holds_whole_float(body: object) -> bool:
    """JSON Schema takes 16.0 for an integer; tallyd does not."""
    if isinstance(body, dict):
        numbers = body.get("value"), body.get("entity_id")
        return any(isinstance(each, float) for each in numbers) or holds_whole_float(body.get("events"))
    return isinstance(body, list) and any(map(holds_whole_float, body))
