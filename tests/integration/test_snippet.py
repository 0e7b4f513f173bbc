"""`tallyd snippet`: the tag names what this configuration counts, and the file that the daemon serves."""

from __future__ import annotations

import base64
import hashlib
import json
from html.parser import HTMLParser

import pytest

from tests.kit.system import Ingest, System, event

CONFIG: dict[str, str] = {}
MOVIES = {
    "DOMAINS": json.dumps(
        {
            "jav": {"entity_types": ["movie", "tag"], "actions": ["view", "rating"]},
            "blog": {"entity_types": ["post"]},
        }
    ),
    "ACTIONS": json.dumps({"rating": {"value_max": 5}}),
    "DEDUPE__WINDOW_S": "3600",
}


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[dict[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag == "script"
        self.scripts.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def tags(html: str) -> _Tags:
    """As a browser reads them."""
    parser = _Tags()
    parser.feed(html)
    return parser


def test_the_tag_names_the_file_that_is_served_and_where_events_are_taken(ingest: Ingest, system: System) -> None:
    [tag] = tags(system.tallyd("snippet").stdout).scripts
    served = ingest.client.get(str(tag["src"]))
    assert "immutable" in served.headers["cache-control"]
    assert served.headers["content-type"] == "text/javascript; charset=utf-8"
    digest = base64.b64encode(hashlib.sha384(served.content).digest()).decode()
    assert (tag["type"], tag["integrity"], tag["crossorigin"]) == ("module", f"sha384-{digest}", "anonymous")
    assert "async" in tag
    assert ingest.post(event(), str(tag["data-endpoint"])).status_code == 202


def test_the_tag_says_what_the_configuration_counts(system: System) -> None:
    def said(*arguments: str) -> dict[str, str | None]:
        [tag] = tags(system.tallyd("snippet", *arguments, **MOVIES).stdout).scripts
        return {name: value for name, value in tag.items() if name.startswith("data-") and name != "data-endpoint"}

    assert said() == {
        "data-domain": "jav",
        "data-actions": "view rating",
        "data-types": "movie tag",
        "data-ranges": "view:1-100 rating:1-5",
        "data-window-s": "3600",
    }
    blog = said("--domain", "blog")
    assert (blog["data-domain"], blog["data-types"]) == ("blog", "post")
    assert blog["data-actions"] == "view download rating"


def test_the_alias_and_the_further_name_are_preferred(system: System) -> None:
    env = {"BROWSER__ALIAS": "/t", "BROWSER__SCRIPT": "/s.js", "BROWSER__ORIGINS": '["https://shop.example"]'}
    done = system.tallyd("snippet", "--origin", "https://count.example/", **env)
    [tag] = tags(done.stdout).scripts
    assert str(tag["src"]).startswith("https://count.example/s.")
    assert tag["data-endpoint"] == "https://count.example/t"
    assert done.stderr == ""


def test_what_is_printed_is_escaped(system: System) -> None:
    done = system.tallyd("snippet", "--origin", """https://count.example/a"b&c<d>'e""", "--module")
    html = tags(done.stdout)
    assert str(html.scripts[0]["src"]).startswith("""https://count.example/a"b&c<d>'e/analytics.""")
    assert len(html.scripts) == 2
    assert "<" not in html.text


def test_a_module_imports_the_same_file(system: System) -> None:
    html = tags(system.tallyd("snippet", "--module", **MOVIES).stdout)
    assert [tag["type"] for tag in html.scripts] == ["module", "module"]
    assert f'import analytics from "{html.scripts[0]["src"]}";' in html.text
    assert 'analytics.track("view", "movie", "ID");' in html.text


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        (("--origin", "https://count.example"), {}, "browser.origins is empty"),
        ((), {}, "browser.alias is empty"),
        ((), {"INGEST__REQUIRE_KEY": "true"}, "ingest.require_key is true"),
    ],
)
def test_what_the_configuration_lacks_for_the_tag_is_said(
    system: System, arguments: tuple[str, ...], env: dict[str, str], said: str
) -> None:
    assert said in system.tallyd("snippet", *arguments, **env).stderr


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        (("--origin", "count.example"), {}, "--origin"),
        (("--origin", "javascript:alert(1)"), {}, "--origin"),
        (("--origin", "https://count.example?a=b"), {}, "--origin"),
        (("--origin", "https://["), {}, "--origin"),
        (("--domain", "shop"), {}, "--domain"),
        ((), {"BROWSER__TRACKER": "false"}, "browser.tracker"),
    ],
)
def test_a_tag_that_cannot_work_is_not_printed(
    system: System, arguments: tuple[str, ...], env: dict[str, str], said: str
) -> None:
    done = system.tallyd("snippet", *arguments, check=False, **env)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
