"""The configuration: every key from file or environment, every problem at once and with its key, no secret shown."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon import config as configuration
from daemon.config import Config, Section, load, masked, ranked_kinds, replica_tables, require
from daemon.errors import ConfigError

OPS = Path(__file__).resolve().parents[3] / "ops"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(toml: str = "", **environ: str) -> Config:
    """The configuration of this file and these variables (without their prefix)."""
    Path("given.toml").write_text(toml)
    return load(Path("given.toml"), environ={f"TALLYD_{name}": value for name, value in environ.items()})


def problems(toml: str = "", **environ: str) -> list[str]:
    """The problems told, one a line."""
    with pytest.raises(ConfigError) as raised:
        read(toml, **environ)
    first, *lines = str(raised.value).splitlines()
    assert first == "The configuration is wrong:"
    assert raised.value.exit_code == 2
    return [line.removeprefix("  ") for line in lines]


def keys_of(lines: list[str]) -> list[str]:
    return [line.partition(":")[0] for line in lines]


# Defaults and where values come from ------------------------------------------------------------------------------


def test_without_anything_the_defaults_hold() -> None:
    assert load(environ={}) == Config()
    assert read() == Config()


def test_the_contracts_defaults() -> None:
    config = Config()
    assert (config.rate_limit.per_minute, config.dedupe.window_s, config.redis.shards) == (60, 48 * 3_600, 1)
    assert (config.flush.threshold, config.flush.interval_s) == (500, 5)
    assert (config.http.event_bytes_max, config.http.batch_bytes_max) == (64 * 1_024, 1_024 * 1_024)
    assert (config.http.batch_events_max, config.ingest.future_max_s, config.ingest.max_age_s) == (2_000, 300, 0)
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
    assert configuration.domain_counters(config, "blog") == ("rating_count", "rating_sum", "share")
    assert replica_tables(config)["blog", "post"].columns == {"share": "shares"}


@pytest.mark.parametrize(
    "variable", ["RUN_ID", "CONFIG", "STACK_REDIS_SERVER", "STACK_MONGOD", "STACK_MARIADBD", "STACK_ANYTHING", "DATA"]
)
def test_variables_that_are_no_keys_are_left_alone(variable: str) -> None:
    assert read(**{variable: "" if variable == "CONFIG" else "x"}) == Config()


def test_other_programs_variables_are_left_alone() -> None:
    assert load(environ={"PATH": "/bin", "TALLYDX__Y": "1", "TALLY_X": "1", "tallyd_http__port": "x"}) == Config()


# Problems ---------------------------------------------------------------------------------------------------------


def test_every_problem_is_told_at_once_with_its_key() -> None:
    found = problems(
        """
        enabled = "yes"
        speed = 11
        [http]
        port = 70000
        workers = 0
        hots = "x"
        [redis]
        shards = 1.5
        [producers.keys]
        "Bad Name" = "0123456789abcdef"
        short = "x"
        [log]
        level = "loud"
        [actions.rating]
        value_max = 0
        counters = { "views.total" = "one", rating_sum = "two" }
        [domains.jav]
        entity_types = []
        [domains.blog]
        actions = ["view", "Bad"]
        [import]
        statuses = [200, 42]
        """,
        FLUSH__INTERVAL_S="soon",
        FLUSH__THRESHOLD="-1",
        RATELIMIT__PER_MINUTE="5",
    )
    assert sorted(keys_of(found)) == sorted([
        "enabled", "speed", "http.port", "http.workers", "http.hots", "redis.shards", "producers.keys.Bad Name",
        "producers.keys.short", "log.level", "actions.rating.value_max", "actions.rating.counters.views.total",
        "actions.rating.counters.rating_sum", "domains.jav.entity_types", "domains.blog.entity_types",
        "domains.blog.actions[1]", "import.statuses[1]", "flush.interval_s", "flush.threshold", "ratelimit",
    ])  # fmt: skip


def test_a_problem_says_what_would_be_right() -> None:
    (unknown,) = problems("[http]\nhots = 'x'\n")
    assert unknown.startswith("http.hots: unknown key; known here: ")
    assert "host" in unknown
    (low,) = problems("[http]\nport = 0\n")
    assert low == "http.port: Expected `int` >= 1"
    (missing,) = problems("[domains.blog]\n")
    assert missing == "domains.blog.entity_types: missing"


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ("http = 5", "http"),
        ("[http]\nport = '80'", "http.port"),
        ("[http]\nport = 80.0", "http.port"),
        ("[http]\nport = true", "http.port"),
        ("[http]\nhost = 5", "http.host"),
        ("[flush]\ninterval_s = 0", "flush.interval_s"),
        ("[dedupe]\nwindow_s = 0", "dedupe.window_s"),
        ("[redis]\nshards = 16385", "redis.shards"),
        ("[http]\nbatch_events_max = 2001", "http.batch_events_max"),
        ("domains = {}\n[actions.View]\n", "actions.View"),
        ("[actions.a]\nvalue_min = 0", "actions.a.value_min"),
        ("[actions.a]\nvalue_max = 1000000001", "actions.a.value_max"),
        ("[actions.a]\ncounters = 5", "actions.a.counters"),
        ("[actions.a.counters]\nx = 1", "actions.a.counters.x"),
        ("[domains.jav]\nentity_types = ['Movie']", "domains.jav.entity_types[0]"),
        ("[domains.jav]\nentity_types = 'movie'", "domains.jav.entity_types"),
        ("[replica.jav]\nmovie = 5", "replica.jav.movie"),
        ("[replica.jav.movie]\ntable='t'\nkey='k; DROP'\ncolumns={view='v'}", "replica.jav.movie.key"),
        ("[replica.jav.movie]\ntable='t'\nkey='k'\ncolumns={}", "replica.jav.movie.columns"),
        ("[producers]\nkeys = { shop = 'sixteen chars  ok' }", "producers.keys.shop"),
    ],
)
def test_a_wrong_value_is_told_with_its_key(toml: str, key: str) -> None:
    assert key in keys_of(problems(toml))


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ("[actions.a]\nvalue_min = 5\nvalue_max = 4", "actions.a"),
        ("[actions.a]\ncounters = { flush_seq = 'one' }", "actions.a.counters.flush_seq"),
        ("[actions.date]", "actions.date.counters.date"),
        ("[actions.dead_applied]", "actions.dead_applied.counters.dead_applied"),
        ("[domains.jav]\nentity_types = ['movie']\nactions = ['veiw']", "domains.jav.actions"),
        ("[replica.jav.film]\ntable='t'\nkey='k'\ncolumns={view='v'}", "replica.jav.film"),
        ("[replica.jav.movie]\ntable='t'\nkey='k'\ncolumns={share='v'}", "replica.jav.movie.columns.share"),
        ("[flush]\nretry_ms = 5\nretry_max_ms = 4", "flush.retry_ms"),
        ("[ingest]\nqueue_events_max = 1999", "ingest.queue_events_max"),
        ("[import]\nbot_pattern = '('", "import.bot_pattern"),
        ("[redis]\nurl = 'localhost:6379'", "redis.url"),
        ("[redis]\nurl = 'redis://h:99999/0'", "redis.url"),
        ("[redis]\nurl = 'redis://:secr/et@h/0'", "redis.url"),
        ("[redis]\nurl = 'redis://[::1'", "redis.url"),
        ("[mongo]\nurl = 'mongodb://'", "mongo.url"),
        ("[mongo]\nurl = 'mongodb://a:1,b:x/db'", "mongo.url"),
        ("[mongo]\nurl = 'postgres://h/db'", "mongo.url"),
        ("[mysql]\nurl = 'mysql://h'", "mysql.url"),
        ("[mysql]\nurl = 'mysql:///db'", "mysql.url"),
    ],
)
def test_values_that_do_not_go_together_are_told(toml: str, key: str) -> None:
    found = problems(toml)
    assert keys_of(found) == [key]
    assert "secr" not in str(found)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h", "redis://:p@h:6379/0", "redis://u:p%40%2F@[::1]:6379/0", "rediss://h/1", "unix:///run/redis.sock",
        "unix://:p@/run/redis.sock?db=1",
    ],
)  # fmt: skip
def test_addresses_of_redis_are_taken(url: str) -> None:
    assert read(REDIS__URL=url).redis.url == url


@pytest.mark.parametrize("url", ["mongodb://h", "mongodb://u:p@a:1,b:2,[::1]:3/db?replicaSet=r", "mongodb+srv://h/db"])
def test_addresses_of_mongodb_are_taken(url: str) -> None:
    assert read(MONGO__URL=url).mongo.url == url


@pytest.mark.parametrize(
    ("variable", "text", "key"),
    [
        ("HTTP", "5", "http"),
        ("HTTP__PORT", "", "http.port"),
        ("HTTP__PORT", "80a", "http.port"),
        ("HTTP__PORT__X", "1", "http.port"),
        ("IMPORT__METHODS", "GET", "import.methods"),
        ("IMPORT__METHODS", '["GET"', "TALLYD_IMPORT__METHODS"),
        ("PRODUCERS__KEYS", "{", "TALLYD_PRODUCERS__KEYS"),
        ("NOSUCH__KEY", "1", "nosuch"),
        ("HTTP__NOSUCH", "1", "http.nosuch"),
        ("NOSUCH", "1", "nosuch"),
    ],
)
def test_a_wrong_variable_is_told(variable: str, text: str, key: str) -> None:
    assert keys_of(problems(**{variable: text})) == [key]


def test_a_variable_under_a_value_of_the_file_is_told() -> None:
    assert keys_of(problems("http = 5\n", HTTP__PORT="80"))[0] == "TALLYD_HTTP__PORT"


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


# Secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "url", "shown"),
    [
        ("REDIS__URL", "redis://:hush@h:6379/0", "redis://:***@h:6379/0"),
        ("REDIS__URL", "redis://me:hush@h/0", "redis://me:***@h/0"),
        ("REDIS__URL", "redis://me:hu@hush@h/0", "redis://me:***@h/0"),
        ("REDIS__URL", "redis://h/0?password=hush&db=2", "redis://h/0?password=***&db=2"),
        ("REDIS__URL", "redis://h:6379/0", "redis://h:6379/0"),
        ("MONGO__URL", "mongodb://me:hush@a:1,b:2/db?w=1", "mongodb://me:***@a:1,b:2/db?w=1"),
        (
            "MONGO__URL",
            "mongodb://h/db?tlsCertificateKeyFilePassword=hush",
            "mongodb://h/db?tlsCertificateKeyFilePassword=***",
        ),
        ("MYSQL__URL", "mysql://me:hush@h:3306/db", "mysql://me:***@h:3306/db"),
    ],
)
def test_passwords_are_not_shown(variable: str, url: str, shown: str) -> None:
    plain = masked(read(**{variable: url}))
    assert plain[variable.partition("__")[0].lower()]["url"] == shown
    assert "hush" not in json.dumps(plain)


def test_producer_keys_are_not_shown_but_their_names_are() -> None:
    config = read(PRODUCERS__KEYS='{"shop": "hush-hush-hush-hush", "blog": "hush-hush-hush-hush-hush"}')
    plain = masked(config)
    assert plain["producers"]["keys"] == {"shop": "***", "blog": "***"}
    assert "hush" not in json.dumps(plain)


def test_a_masked_configuration_can_be_read_again() -> None:
    plain = masked(read())
    assert msgspec.convert(plain, Config) == Config()


# Stores -----------------------------------------------------------------------------------------------------------

STACK = {"redis": "redis://127.0.0.1:1/0", "mongo": "mongodb://127.0.0.1:2/tallyd", "mysql": "", "pids": {"redis": 1}}


def stack_in(folder: str) -> Path:
    path = Path(folder)
    path.mkdir()
    (path / "stack.json").write_text(json.dumps(STACK))
    return path


def test_a_folder_named_gives_the_stores() -> None:
    config = load(data=stack_in("here"), environ={"TALLYD_MYSQL__URL": "mysql://h/db"})
    assert (config.redis.url, config.mongo.url, config.mysql.url) == (STACK["redis"], STACK["mongo"], "")


def test_without_any_store_the_folder_of_the_embedded_stack_is_used() -> None:
    stack_in(".tallyd")
    assert load(environ={}).redis.url == STACK["redis"]
    assert load(environ={"TALLYD_REDIS__URL": "redis://h"}).mongo.url == "", (
        "one store configured: the stack is not meant"
    )


def test_a_folder_without_a_stack_is_told() -> None:
    with pytest.raises(ConfigError, match="tallyd stack up --data nosuch"):
        load(data=Path("nosuch"), environ={})
    folder = stack_in("broken")
    (folder / "stack.json").write_text("{")
    with pytest.raises(ConfigError, match=r"stack\.json"):
        load(data=folder, environ={})


def test_stores_that_a_command_needs_are_asked_for_together() -> None:
    with pytest.raises(ConfigError) as raised:
        require(read(), "redis", "mongo")
    assert "redis.url: not set" in str(raised.value)
    assert "mongo.url: not set" in str(raised.value)
    require(read(REDIS__URL="redis://h"), "redis")


def test_the_default_replica_table_belongs_to_the_default_domain() -> None:
    assert replica_tables(read()) == {}
    tables = replica_tables(read(MYSQL__URL="mysql://h/db"))
    assert tables["jav", "movie"].columns == {"view": "views", "download": "downloads"}
    assert (tables["jav", "movie"].table, tables["jav", "movie"].key) == ("jav", "uuid")
    assert replica_tables(read(MYSQL__URL="mysql://h/db", DOMAINS='{"blog": {"entity_types": ["post"]}}')) == {}


def test_the_readers_key_is_not_shown() -> None:
    assert masked(read(READ__KEY="a-key-for-the-readers"))["read"]["key"] == "***"
    assert masked(read())["read"]["key"] == ""


@pytest.mark.parametrize(
    ("windows", "names"),
    [
        ('["total"]', ["totals"]),
        ('["day", "90d"]', ["totals", "daily"]),
        ('["year"]', ["totals", "yearly"]),
        ("[]", ["totals"]),
    ],
)
def test_lists_are_kept_for_the_windows_offered(windows: str, names: list[str]) -> None:
    assert [kind.name for kind in ranked_kinds(read(READ__TOP_WINDOWS=windows))] == names
    assert [kind.name for kind in ranked_kinds(read(READ__TOP_WINDOWS=windows, READ__ENABLED="false"))] == ["totals"]


# The example files ------------------------------------------------------------------------------------------------


def uncommented(text: str) -> str:
    """With every setting in force: a setting is commented with `#`, words with `# `."""
    return re.sub(r"(?m)^#(?=[a-z\[])", "", text)


def test_the_example_file_changes_nothing() -> None:
    assert read((OPS / "tallyd.example.toml").read_text()) == Config()


def test_the_example_file_shows_every_key_with_its_default() -> None:
    text = uncommented((OPS / "tallyd.example.toml").read_text())
    shown, default = read(text), Config()
    assert configuration.effective_actions(shown) == configuration.effective_actions(default)
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
            keys = {each.encode_name for each in msgspec.structs.fields(section)} - {
                "routes"
            }  # have a file of their own
            assert given[field.encode_name].keys() == keys, f"[{field.encode_name}]"


def test_the_example_of_more_actions_is_a_working_one() -> None:
    config = read((OPS / "actions.example.toml").read_text(), MYSQL__URL="mysql://h/db")
    actions = configuration.effective_actions(config)
    assert actions["rating"].counters == {"rating_count": "one", "rating_sum": "value"}
    assert (actions["rating"].value_min, actions["rating"].value_max) == (1, 5)
    for name in ("favorite", "watchlist"):
        assert (actions[name].value_min, actions[name].value_max, actions[name].counters) == (1, 1, {name: "value"})
    assert {"view", "download", "favorite", "watchlist", "rating"} <= set(configuration.domain_actions(config, "jav"))
    assert replica_tables(config)["jav", "movie"].columns.keys() <= set(configuration.domain_counters(config, "jav"))
