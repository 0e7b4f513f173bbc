"""The line of each key: found whatever the style of the file, and never a wrong one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import load
from daemon.config.places import lines_of
from daemon.errors import ConfigError
from tests.unit.config.given import OPS, problems

EVERY_STYLE = '''\
# [http] in a comment
enabled = true # port = 1
"quoted key" = 1
http.port = 1
'lite.ral'."\\u0061b" . c = "]"   # ]
text = """
[log]
level = "x" \\""" """""
raw = \'\'\'
[log] \\
\'\'\'
empty = ""
when = 1979-05-27 07:32:00
list = [ # a comment, with [brackets]
    1,
    [2, "]"],
    { a = 1, b = [
        3] },
]
table = { x.y = 1, "z" = { } }

[ log ]
level = "info"
[import]
methods = []
[[import.routes]]
domain = "a"
[[import.routes]]
  domain = "b"
  [import.routes.deep]
  x = 1
  [[import.routes.many]]
  [[import.routes.many]]
  y = 1
[a.b.c]
[a]
d = 1
'''


def test_every_key_of_every_style_has_its_line() -> None:
    lines = lines_of(EVERY_STYLE)
    expected = {
        ("enabled",): 2, ("quoted key",): 3, ("http",): 4, ("http", "port"): 4, ("lite.ral",): 5, ("lite.ral", "ab"): 5,
        ("lite.ral", "ab", "c"): 5, ("text",): 6, ("raw",): 9, ("empty",): 12, ("when",): 13, ("list",): 14,
        ("list", 0): 15, ("list", 1): 16, ("list", 1, 0): 16, ("list", 1, 1): 16, ("list", 2): 17, ("list", 2, "a"): 17,
        ("list", 2, "b"): 17, ("table",): 20, ("table", "x"): 20, ("table", "x", "y"): 20,
        ("table", "z"): 20, ("log",): 22, ("log", "level"): 23, ("import",): 24, ("import", "methods"): 25,
        ("import", "routes"): 26, ("import", "routes", 0): 26, ("import", "routes", 0, "domain"): 27,
        ("import", "routes", 1): 28, ("import", "routes", 1, "domain"): 29, ("import", "routes", 1, "deep"): 30,
        ("import", "routes", 1, "deep", "x"): 31, ("import", "routes", 1, "many"): 32,
        ("import", "routes", 1, "many", 0): 32, ("import", "routes", 1, "many", 1): 33,
        ("import", "routes", 1, "many", 1, "y"): 34, ("a",): 35, ("a", "b"): 35, ("a", "b", "c"): 35, ("a", "d"): 37,
    }  # fmt: skip
    assert lines == expected


def test_an_element_that_shares_lines_with_others_has_no_line_rather_than_a_wrong_one() -> None:
    lines = lines_of("a = [4, [2,\n3], 5\n, 6,\n7]\nb = [1, {c = 1, d = [\n3]}, {e = 1}]")
    assert lines == {("a",): 1, ("a", 3): 3, ("a", 4): 4, ("b",): 5}


keys = st.text(alphabet="ab.\"'\\ #=[é", min_size=1, max_size=4)
scalars = st.one_of(
    st.integers(), st.booleans(), st.text(alphabet="a\"'\\#[]{},=\n ", max_size=6), st.floats(allow_nan=False)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)
documents = st.dictionaries(keys, st.dictionaries(keys, values, max_size=4) | scalars, max_size=4)


def written(document: dict[str, Any], draw: st.DrawFn) -> Iterator[tuple[tuple[str, ...], str]]:
    """The keys of a document and the text that sets each, in styles drawn."""
    inner = {name: value for name, value in document.items() if not isinstance(value, dict)}
    for name, value in inner.items():
        yield (name,), f"{key(name)} = {toml(value, draw)}"
    for name, value in document.items():
        if isinstance(value, dict):
            yield (name,), f"[{draw(st.sampled_from(['', ' ']))}{key(name)}]"
            for below, inner_value in value.items():
                yield (name, below), f"{key(below)} ={toml(inner_value, draw)}"


def key(name: str) -> str:
    return name if re.fullmatch("[ab]+", name) else json.dumps(name)


def toml(value: Any, draw: st.DrawFn) -> str:
    gap = draw(st.sampled_from(["", " ", "\n", " # ] }\n"]))
    match value:
        case list():
            return "[" + "".join(f"{gap}{toml(each, draw)}{gap}," for each in value) + "]"
        case dict():
            return "{" + ", ".join(f"{key(name)} = {toml(each, draw)}" for name, each in value.items()) + "}"
        case str() if "'''" not in value and not value.endswith("'") and draw(st.booleans()):
            return f"'''{value}'''"
        case str() if draw(st.booleans()):
            return '"""' + value.replace("\\", "\\\\").replace('"""', '""\\"') + '"""'
        case _:
            return json.dumps(value).replace("Infinity", "inf")


@given(document=documents, data=st.data())
def test_the_line_of_a_key_is_where_its_text_begins(document: dict[str, Any], data: st.DataObject) -> None:
    expected, lines = {}, []
    for path, text in written(document, data.draw):
        lines += [""] * data.draw(st.integers(0, 2))
        expected[path] = len(lines) + 1
        lines += text.split("\n")
    text = "\n".join(lines)
    found = lines_of(text)
    assert {path: line for path, line in found.items() if path in expected} == expected


# What messages say ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "place"),
    [
        ("\n\n[http]\n# prot = 2\nprot = 1", "given.toml line 5: http.prot: "),
        ("http.prot = 1", "given.toml line 1: http.prot: "),
        ("\nhttp = { port = 1, prot = 1 }", "given.toml line 2: http.prot: "),
        ("[import]\nstatuses = [\n  200,\n  42,\n]", "given.toml line 4: import.statuses[1]: "),
        ("[log]\n[domains.blog]\nactions = []", "given.toml line 2: domains.blog.entity_types: missing"),
        ("[[import.routes]]\n[[import.routes]]\ndomain = 5", "given.toml line 1: import.routes[0].pattern: missing"),
        ("[actions.a]\nvalue_min = 5\nvalue_max = 4", "given.toml line 1: actions.a: "),
        ("\n[actions.date]", "given.toml line 2: actions.date.counters.date: "),
        ("[redis]\n\nurl = 'x'", "given.toml line 3: redis.url: "),
        ("[ingest]\nqueue_events_max = 1", "given.toml line 2: ingest.queue_events_max: "),
        ("[flush]\nretry_max_ms = 1", "flush.retry_ms: above flush.retry_max_ms"),
    ],
)
def test_a_problem_names_its_line(toml: str, place: str) -> None:
    assert any(line.startswith(place) for line in problems(toml)), "a default stands in no line"


@pytest.mark.parametrize(
    ("toml", "variable", "text", "place"),
    [
        ("[http]\nport = 0", "HTTP__PORT", "99999", "TALLYD_HTTP__PORT: http.port: "),
        ("[http]\nport = 0", "HTTP", '{"prot": 1}', "TALLYD_HTTP: http.prot: "),
        ("[http]\nport = 0", "HTTP__HOST", "h", "given.toml line 2: http.port: "),
        ("", "RATELIMIT__PER_MINUTE", "5", "TALLYD_RATELIMIT__PER_MINUTE: ratelimit: "),
        ("", "DOMAINS__BLOG__ACTIONS", "[]", "TALLYD_DOMAINS__BLOG__ACTIONS: domains.blog.entity_types: "),
    ],
)
def test_a_problem_names_its_variable(toml: str, variable: str, text: str, place: str) -> None:
    (found,) = problems(toml, **{variable: text})
    assert found.startswith(place)


def test_a_problem_of_an_address_of_the_embedded_stack_names_its_file() -> None:
    Path("here").mkdir()
    Path("here/stack.json").write_text('{"redis": "x", "mongo": "", "mysql": ""}')
    Path("tallyd.toml").write_text("[redis]\nurl = 'redis://h'\n")
    with pytest.raises(ConfigError, match=r"  here/stack\.json: redis\.url: must begin with "):
        load(data=Path("here"), environ={})


def test_every_key_of_the_examples_has_a_line() -> None:
    for file in OPS.glob("*.example.toml"):
        text = re.sub(r"(?m)^#(?=[a-z\[])", "", file.read_text())
        lines = lines_of(text)
        assert len(lines) > 10
        for path, line in lines.items():
            if isinstance(path[-1], str):
                assert path[-1] in text.splitlines()[line - 1]
