"""What `/openapi.json` says against what the daemon does: schemathesis sends what it allows and what it forbids."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation

from tests.kit.system import Ingest, System, event

CONFIG = {
    "READ__CACHE_TTL_MS": "0",
    "READ__IDS_MAX": "5",
    "ACTIONS": '{"rating": {"value_max": 5, "counters": {"rating_count": "one", "rating_sum": "value"}}}',
    "DOMAINS": '{"jav": {"entity_types": ["movie", "tag"], "actions": ["view", "rating"]}}',
}

EXAMPLES = settings(
    max_examples=10, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck), deadline=None
)
"""Of each operation, as many good ones and as many bad."""

UNSAYABLE = {
    "/api/v1/analytics/events/batch": "negative_data_rejection",  # one good event makes good of a batch of bad ones
    "/api/v1/analytics/totals/{domain}/{type}": "positive_data_acceptance",  # ids and id may name so many together
    "/api/v1/analytics/series/{domain}/{type}/{id}": "positive_data_acceptance",  # how from and to go together
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
    served = {"/healthz", "/readyz", "/openapi.json"}
    served |= {f"/api/v1/analytics/{path}" for path in ("events", "events/batch")}
    served |= {f"/api/v1/analytics/totals/{{domain}}/{{type}}{id_}" for id_ in ("", "/{id}")}
    served |= {f"/api/v1/analytics/{path}" for path in ("top/{domain}/{type}", "series/{domain}/{type}/{id}")}
    served |= {"/api/v1/analytics/summary/{domain}"}
    assert set(document["paths"]) == served


def test_the_daemon_does_what_its_description_says(document: dict[str, Any], shared_ingest: Ingest) -> None:
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=shared_ingest.url)
    for found in schema.get_all_operations():
        operation = found.ok()
        described = document["paths"][operation.path][operation.method]
        hold(operation, GenerationMode.POSITIVE)
        if "parameters" in described or "requestBody" in described:
            hold(operation, GenerationMode.NEGATIVE)


def hold(operation: APIOperation, mode: GenerationMode) -> None:
    left_out = [CHECKS.get_one(UNSAYABLE[operation.path])] if operation.path in UNSAYABLE else []

    @EXAMPLES
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        assume(not holds_whole_float(case.body))
        case.call_and_validate(excluded_checks=left_out)

    check()


def holds_whole_float(body: object) -> bool:
    """JSON Schema takes 16.0 for an integer; tallyd does not."""
    if isinstance(body, dict):
        numbers = body.get("value"), body.get("entity_id")
        return any(isinstance(each, float) for each in numbers) or holds_whole_float(body.get("events"))
    return isinstance(body, list) and any(map(holds_whole_float, body))
