"""The `import` section: what is wrong with it is told with its key, before anything is read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from daemon import config as configuration
from daemon.errors import ConfigError

ROUTE = {"pattern": "^/(?P<id>.*)", "domain": "jav", "entity_type": "movie", "entity_id": "{id}", "action": "view"}
EXAMPLE = Path(__file__).parents[3] / "ops" / "weblog.example.toml"


def load(**section: Any) -> configuration.Config:
    environ = {f"TALLYD_IMPORT__{key.upper()}": json.dumps(value) for key, value in section.items()}
    return configuration.load(environ=environ)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_good_route_is_taken() -> None:
    assert load(routes=[ROUTE]).import_.routes[0].statuses is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"pattern": "("}, "pattern: not a regular expression"),
        ({"domain": "web"}, "domain: there is no domain 'web'; known: jav"),
        ({"entity_type": "page"}, "entity_type: domain 'jav' has no 'page'; known: actor, movie, tag"),
        ({"action": "share"}, "action: domain 'jav' has no 'share'; known: download, view"),
        ({"entity_id": "{name}"}, "entity_id: '{name}': there is no {name}; known: {0}, {1}, {id}"),
        ({"entity_id": "{2}"}, "entity_id: '{2}': there is no {2}"),
        ({"entity_id": "{}"}, "entity_id: '{}': there is no {}"),
        ({"entity_id": "{0.__class__}"}, "entity_id: '{0.__class__}': there is no {0.__class__}"),
        ({"entity_id": "{0!r}"}, "entity_id: '{0!r}': only"),
        ({"entity_id": "{0:>99}"}, "entity_id: '{0:>99}': only"),
        ({"entity_id": "{0"}, "entity_id: '{0': "),
        ({"statuses": [99]}, "statuses"),
        ({"bots": "maybe"}, "bots"),
        ({"other": 1}, "other: unknown key"),
    ],
)
def test_a_wrong_route_is_told_with_its_key(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"import.routes[0].{problem}")):
        load(routes=[{**ROUTE, **change}])


def test_what_groups_fill_in_is_left_to_the_catalogue() -> None:
    assert load(routes=[{**ROUTE, "pattern": "^/([a-z]+)/", "entity_type": "{1}", "domain": "{1}", "entity_id": "{0}"}])


def test_a_wrong_bot_pattern_is_told() -> None:
    with pytest.raises(ConfigError, match=r"import\.bot_pattern: not a regular expression"):
        configuration.load(environ={"TALLYD_IMPORT__BOT_PATTERN": "(bot"})


def test_the_example_is_good() -> None:
    section = configuration.load(EXAMPLE, environ={}).import_
    assert [route.entity_type for route in section.routes] == ["file", "page"]
