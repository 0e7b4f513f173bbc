"""The example file and the JSON Schema: what is committed is what is generated, and it says all that holds."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema_rs
import msgspec
import pytest

from daemon.config import Config, domain_actions, domain_counters, effective_actions, replica_tables
from daemon.config.generate import example, json_schema
from daemon.config.schema import Section
from tests.unit.config.given import OPS, read

ROOT = OPS.parent


def uncommented(text: str) -> str:
    """With every setting in force: a setting is commented with `#`, words with `# `."""
    return re.sub(r"(?m)^#(?=[a-z\[])", "", text)


def test_the_committed_example_is_the_generated_one() -> None:
    assert (OPS / "tallyd.example.toml").read_text() == example(), (
        "run `.venv/bin/tallyd config --example > ops/tallyd.example.toml`"
    )


def test_the_example_file_changes_nothing() -> None:
    assert read((OPS / "tallyd.example.toml").read_text()) == Config()


def test_the_example_file_shows_every_key_with_its_default() -> None:
    text = uncommented((OPS / "tallyd.example.toml").read_text())
    shown, default = read(text), Config()
    assert effective_actions(shown) == effective_actions(default)
    with_mysql = {"mysql": msgspec.structs.replace(default.mysql, url="mysql://h/db")}
    assert replica_tables(msgspec.structs.replace(shown, **with_mysql)) == replica_tables(
        msgspec.structs.replace(default, **with_mysql)
    )
    built_in = {"actions": default.actions, "replica": default.replica}
    assert msgspec.structs.replace(shown, **built_in) == default

    given = tomllib.loads(text)
    assert given.keys() == {field.encode_name for field in msgspec.structs.fields(Config)}
    for field in msgspec.structs.fields(Config):
        if isinstance(section := getattr(default, field.name), Section):
            files_of_their_own = {"routes", "entries"}
            keys = {each.encode_name for each in msgspec.structs.fields(section)} - files_of_their_own
            assert given[field.encode_name].keys() == keys, f"[{field.encode_name}]"


def test_the_example_of_more_actions_is_a_working_one() -> None:
    config = read((OPS / "actions.example.toml").read_text(), MYSQL__URL="mysql://h/db")
    actions = effective_actions(config)
    assert actions["rating"].counters == {"rating_count": "one", "rating_sum": "value"}
    assert (actions["rating"].value_min, actions["rating"].value_max) == (1, 5)
    for name in ("favorite", "watchlist"):
        assert (actions[name].value_min, actions[name].value_max, actions[name].counters) == (1, 1, {name: "value"})
    assert {"view", "download", "favorite", "watchlist", "rating"} <= set(domain_actions(config, "jav"))
    assert replica_tables(config)["jav", "movie"].columns.keys() <= set(domain_counters(config, "jav"))


def test_the_example_tells_units_bounds_choices_and_what_is_read_at_start_only() -> None:
    lines = example().splitlines()
    for line in (
        "#port = 8080  # between 1 and 65535; ingest reads it at start only",
        "#event_bytes_max = 65_536  # bytes, between 1 and 2147483647",
        "#interval_s = 5.0  # seconds, above 0 and at most 86400",
        "#bytes_max = 1_073_741_824  # bytes, at least 1048576; ingest reads it at start only",
        "#shards = 1  # shards, between 1 and 16384; ingest reads it at start only",
        '#level = "info"  # one of "debug", "info", "warning", "error"',
        "#niceness = 10  # between 0 and 19; flush reads it at start only",
    ):
        assert line in lines
    assert max(map(len, (line for line in lines if not line.startswith("#bot_pattern")))) <= 120


def test_the_example_of_routes_is_a_working_one() -> None:
    section = read((OPS / "weblog.example.toml").read_text()).import_
    assert [route.entity_type for route in section.routes] == ["file", "page"]


# The JSON Schema --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tallyd", "actions", "weblog"])
def test_the_schema_takes_the_examples(name: str) -> None:
    text = uncommented((OPS / f"{name}.example.toml").read_text())
    jsonschema_rs.Draft202012Validator(json_schema()).validate(tomllib.loads(text))


@pytest.mark.parametrize(
    "toml",
    [
        "[http]\nprot = 1",
        "[http]\nport = 0",
        "[http]\nport = '80'",
        "[log]\nlevel = 'verbos'",
        "[flush]\ninterval_s = 0",
        "[actions.View]",
        "[producers.keys]\nshop = 'with spaces in it'",
        "[domains.blog]",
    ],
)
def test_the_schema_refuses_what_tallyd_refuses(toml: str) -> None:
    assert not jsonschema_rs.Draft202012Validator(json_schema()).is_valid(tomllib.loads(toml))


def test_the_schema_describes_each_key_with_its_default() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$defs"]["Http"]["properties"]["port"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 65_535,
        "default": 8080,
        "description": "The port to listen on. (between 1 and 65535; ingest reads it at start only)",
    }
    assert schema["$defs"]["Log"]["properties"]["level"]["enum"] == ["debug", "error", "info", "warning"]
    assert schema["$defs"]["Config"]["properties"]["domains"]["default"].keys() == {"jav"}
    for definition in schema["$defs"].values():
        assert definition["description"]
        for key in definition["properties"].values():
            assert key.get("description") or "$ref" in key


# A new key --------------------------------------------------------------------------------------------------------


def test_a_new_key_is_declared_in_one_file_and_known_everywhere(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "daemon", tmp_path / "daemon", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "lua").symlink_to(ROOT / "lua")
    schema = tmp_path / "daemon" / "config" / "schema.py"
    key = '    nap_ms: Annotated[CountOrOff, AT_INGEST_START] = 20_000\n    """How long a worker naps."""\n'
    schema.write_text(schema.read_text().replace("    level: ", f"{key}    level: "))

    def config(*args: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "daemon.cli", "config", *args]
        return subprocess.run(
            command, cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True, check=False
        )

    assert json.loads(config(TALLYD_LOG__NAP_MS="7").stdout)["log"]["nap_ms"] == 7
    told = config(TALLYD_LOG__NAP_MS="-1", TALLYD_LOG__NAP_S="7").stderr
    assert "TALLYD_LOG__NAP_MS: log.nap_ms: must be between 0 and 2147483647" in told
    assert 'TALLYD_LOG__NAP_S: log.nap_s: unknown key; did you mean "nap_ms"?' in told
    facts = "milliseconds, between 0 and 2147483647; ingest reads it at start only"
    assert f"# How long a worker naps.\n#nap_ms = 20_000  # {facts}\n" in config("--example").stdout
    described = json.loads(config("--schema").stdout)["$defs"]["Log"]["properties"]["nap_ms"]["description"]
    assert described == f"How long a worker naps. ({facts})"
