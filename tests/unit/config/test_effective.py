"""What follows from a configuration: tables, rollups with top lists, needed stores; and that no secret is shown."""

from __future__ import annotations

import json

import msgspec
import pytest

from daemon.config import Config, masked, ranked_kinds, replica_tables, require
from daemon.errors import ConfigError
from tests.unit.config.given import read


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
        ('["24h"]', ["totals"]),
        ("[]", ["totals"]),
    ],
)
def test_lists_are_kept_for_the_windows_offered(windows: str, names: list[str]) -> None:
    assert [kind.name for kind in ranked_kinds(read(READ__TOP_WINDOWS=windows))] == names
    assert [kind.name for kind in ranked_kinds(read(READ__TOP_WINDOWS=windows, READ__ENABLED="false"))] == ["totals"]


# Secrets ----------------------------------------------------------------------------------------------------------


def test_producer_keys_are_not_shown_but_their_names_are() -> None:
    config = read(PRODUCERS__KEYS='{"shop": "hush-hush-hush-hush", "blog": "hush-hush-hush-hush-hush"}')
    plain = masked(config)
    assert plain["producers"]["keys"] == {"shop": "***", "blog": "***"}
    assert "hush" not in json.dumps(plain)


def test_the_password_of_the_collector_of_spans_is_not_shown() -> None:
    shown = masked(read(TRACES__ENDPOINT="https://tallyd:hush@collector:4318/v1/traces?token=hush"))["traces"][
        "endpoint"
    ]
    assert shown == "https://tallyd:***@collector:4318/v1/traces?token=***"


def test_a_masked_configuration_can_be_read_again() -> None:
    plain = masked(read())
    assert msgspec.convert(plain, Config) == Config()
