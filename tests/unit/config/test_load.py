"""Where values come from: defaults, file, environment, embedded stack; and that a problem names its place."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.config import (
    REPLICA_OF_STACK,
    Config,
    chosen_file,
    domain_counters,
    hourly_domains,
    load,
    replica_tables,
)
from daemon.errors import ConfigError
from tests.unit.config.given import read


def test_without_anything_the_defaults_hold() -> None:
    assert load(environ={}) == Config()
    assert read() == Config()


def test_the_contracts_defaults() -> None:
    config = Config()
    assert (config.rate_limit.per_minute, config.dedupe.window_s, config.redis.shards) == (60, 48 * 3_600, 1)
    assert (config.flush.threshold, config.flush.interval_s) == (500, 5)
    assert (config.http.event_bytes_max, config.http.batch_bytes_max) == (64 * 1_024, 1_024 * 1_024)
    assert (config.http.batch_events_max, config.ingest.future_max_s, config.ingest.max_age_s) == (2_000, 300, 172_800)
    assert config.domains["jav"].entity_types == ("movie", "actor", "tag")
    assert config.domains["jav"].actions == ("view", "download")
    assert config.enabled is True


def test_a_file_named_wins_over_the_variable_and_that_over_the_folders() -> None:
    for port, name in ((1, "tallyd.toml"), (2, "by-variable.toml"), (3, "named.toml")):
        Path(name).write_text(f"[http]\nport = {port}\n")
    assert load(environ={}).http.port == 1
    assert load(environ={"TALLYD_CONFIG": "by-variable.toml"}).http.port == 2
    assert load(Path("named.toml"), environ={"TALLYD_CONFIG": "by-variable.toml"}).http.port == 3


def test_the_environment_wins_over_the_file() -> None:
    assert read("[http]\nport = 1\nhost = 'x'\n", HTTP__PORT="2").http == msgspec.structs.replace(
        Config().http, port=2, host="x"
    )


@pytest.mark.parametrize(
    ("variable", "text", "path", "value"),
    [
        ("ENABLED", "false", "enabled", False),
        ("ENABLED", "0", "enabled", False),
        ("HTTP__PORT", "9000", "http.port", 9_000),
        ("HTTP__HOST", "0.0.0.0", "http.host", "0.0.0.0"),
        ("HTTP__HOST", "[::1]", "http.host", "[::1]"),
        ("HTTP__HOST", "7", "http.host", "7"),
        ("FLUSH__INTERVAL_S", "0.25", "flush.interval_s", 0.25),
        ("FLUSH__INTERVAL_S", "3", "flush.interval_s", 3.0),
        ("REDIS__URL", "redis://h:1/2", "redis.url", "redis://h:1/2"),
        ("RATE_LIMIT__PER_MINUTE", "0", "rate_limit.per_minute", 0),
        ("LOG__FORMAT", "json", "log.format", "json"),
        ("IMPORT__METHODS", '["GET", "HEAD"]', "import_.methods", ("GET", "HEAD")),
        ("IMPORT__STATUSES", "[200]", "import_.statuses", (200,)),
        ("IMPORT__BOT_PATTERN", "[Bb]ot", "import_.bot_pattern", "[Bb]ot"),
        ("IMPORT__BOT_PATTERN", "[1]", "import_.bot_pattern", "[1]"),
        ("PRODUCERS__KEYS", '{"shop": "0123456789abcdef"}', "producers.keys", {"shop": "0123456789abcdef"}),
        ("PRODUCERS__KEYS__SHOP", "[0123456789abcdef]", "producers.keys", {"shop": "[0123456789abcdef]"}),
    ],
)
def test_every_kind_of_value_can_come_from_the_environment(variable: str, text: str, path: str, value: object) -> None:
    found: Any = read(**{variable: text})
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_tables_can_come_from_the_environment_whole_and_in_parts() -> None:
    config = read(
        "[actions.rating]\nvalue_max = 9\n",
        ACTIONS__RATING__VALUE_MAX="5",
        ACTIONS__RATING__COUNTERS='{"rating_count": "one", "rating_sum": "value"}',
        ACTIONS__SHARE='{"value_max": 1}',
        DOMAINS='{"blog": {"entity_types": ["post"]}}',
        DOMAINS__BLOG__ACTIONS='["rating", "share"]',
        REPLICA__BLOG__POST='{"table": "posts", "key": "id", "columns": {"share": "shares"}}',
        MYSQL__URL="mysql://h/db",
    )
    assert config.actions["rating"].value_max == 5
    assert config.actions["rating"].counters == {"rating_count": "one", "rating_sum": "value"}
    assert config.domains["blog"].actions == ("rating", "share")
    assert domain_counters(config, "blog") == ("rating_count", "rating_sum", "share")
    assert replica_tables(config)["blog", "post"].columns == {"share": "shares"}


@pytest.mark.parametrize(
    "variable", ["RUN_ID", "CONFIG", "STACK_REDIS_SERVER", "STACK_MONGOD", "STACK_MARIADBD", "STACK_ANYTHING", "DATA"]
)
def test_variables_that_are_no_keys_are_left_alone(variable: str) -> None:
    assert read(**{variable: "" if variable == "CONFIG" else "x"}) == Config()


def test_other_programs_variables_are_left_alone() -> None:
    assert load(environ={"PATH": "/bin", "TALLYDX__Y": "1", "TALLY_X": "1", "tallyd_http__port": "x"}) == Config()


@pytest.mark.parametrize(
    "content", [b"[http\n", b"port = = 1\n", b"a = 1\na = 2\n", b"\xff\xfe", b"[http]\nport = 1\n[http]\n"]
)
def test_what_is_not_toml_is_told_with_the_files_name(content: bytes) -> None:
    Path("broken.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.toml is not TOML"):
        load(Path("broken.toml"), environ={})


def test_a_file_that_cannot_be_read_is_told() -> None:
    with pytest.raises(ConfigError, match=r"Cannot read the configuration file nosuch\.toml"):
        load(Path("nosuch.toml"), environ={})
    with pytest.raises(ConfigError, match="Cannot read"):
        load(environ={"TALLYD_CONFIG": "."})


# The embedded stack ------------------------------------------------------------------------------------------------

STACK = {"redis": "redis://127.0.0.1:1/0", "mongo": "mongodb://127.0.0.1:2/tallyd", "mysql": "", "pids": {"redis": 1}}


def stack_in(folder: str) -> Path:
    path = Path(folder)
    path.mkdir()
    (path / "stack.json").write_text(json.dumps(STACK))
    return path


def test_a_folder_named_gives_the_stores() -> None:
    config = load(data=stack_in("here"), environ={"TALLYD_MYSQL__URL": "mysql://h/db"})
    assert (config.redis.url, config.mongo.url, config.mysql.url) == (STACK["redis"], STACK["mongo"], "")


def test_an_embedded_stack_counts_by_hours_unless_the_domains_are_configured() -> None:
    folder = stack_in("here")
    found = load(data=folder, environ={})
    assert hourly_domains(found) == set(found.domains) == set(load(environ={}).domains)
    assert not hourly_domains(load(environ={}))
    assert not hourly_domains(load(data=folder, environ={"TALLYD_DOMAINS": '{"shop": {"entity_types": ["item"]}}'}))


def test_without_any_store_the_folder_of_the_embedded_stack_is_used() -> None:
    stack_in(".tallyd")
    assert load(environ={}).redis.url == STACK["redis"]
    assert load(environ={"TALLYD_REDIS__URL": "redis://h"}).mongo.url == "", (
        "one store configured: the stack is not meant"
    )


def test_the_movies_of_an_embedded_stack_have_names_unless_the_domains_are_configured() -> None:
    folder = stack_in("here")
    assert load(data=folder, environ={}).replica == REPLICA_OF_STACK
    assert load(data=folder, environ={"TALLYD_DOMAINS": '{"web": {"entity_types": ["page"]}}'}).replica == {}


def test_a_folder_without_a_stack_is_told() -> None:
    with pytest.raises(ConfigError, match="tallyd stack up --data nosuch"):
        load(data=Path("nosuch"), environ={})
    folder = stack_in("broken")
    (folder / "stack.json").write_text("{")
    with pytest.raises(ConfigError, match=r"stack\.json"):
        load(data=folder, environ={})


def test_the_installed_systems_file_is_the_last_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = tmp_path / "etc" / "tallyd.toml"
    monkeypatch.setattr(import_module("daemon.config.load"), "SYSTEM_FILE", system)
    assert chosen_file(environ={}) == Path("tallyd.toml")
    system.parent.mkdir()
    system.write_text("[http]\nport = 5\n")
    assert load(environ={}).http.port == 5
    assert chosen_file(data=Path("data"), environ={}) == Path("tallyd.toml"), "--data names the stores"
    Path(".tallyd").mkdir()
    Path(".tallyd/stack.json").write_text("{}")
    assert load(environ={}).http.port == Config().http.port, "who works on a stack stays with it"
    Path(".tallyd/stack.json").unlink()
    Path("tallyd.toml").write_text("")
    assert load(environ={}).http.port == Config().http.port


def test_a_file_that_the_system_keeps_from_a_user_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("daemon.config.load")
    monkeypatch.setattr(module, "SYSTEM_CONFIG", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    file = tmp_path / "tallyd.toml"
    file.write_text("[redis]\nurl_file = 'redis.url'\n")
    monkeypatch.setattr(module, "_secret_in", denied)
    secret = tmp_path / "credentials" / "redis.url"
    with pytest.raises(ConfigError, match=f"cannot read {secret}: Permission denied, type the command as root"):
        load(file, environ={})
    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(ConfigError, match=f"file {file}: Permission denied, type the command as root"):
        load(file, environ={})
