"""The doors that a configuration leaves open."""

from __future__ import annotations

import pytest

from daemon import config as configuration
from daemon.doctor.finding import Finding, run_checks
from daemon.doctor.security_checks import CHECKS

KEY = "a-reader-s-key-0123"


def found(check: str, **env: str) -> Finding:
    """The finding of one check, with these variables as the configuration."""
    loaded = configuration.load(environ={f"TALLYD_{name}": value for name, value in env.items()})
    return {each.check: each for each in run_checks(CHECKS, loaded)}[f"security.{check}"]


def test_the_defaults_leave_no_door_open() -> None:
    loaded = configuration.load(
        environ={"TALLYD_REDIS__URL": "redis://127.0.0.1", "TALLYD_MONGO__URL": "mongodb://127.0.0.1/t"}
    )
    assert {each.severity for each in run_checks(CHECKS, loaded)} == {"ok"}


def test_events_without_a_key_are_a_warning_where_the_world_can_send_them() -> None:
    off_loopback, pages = {"HTTP__HOST": "0.0.0.0"}, {"BROWSER__ORIGINS": '["https://shop.example"]'}
    assert "http.host is 0.0.0.0" in found("events", **off_loopback).found
    assert "https://shop.example" in found("events", **pages).found
    for env in (off_loopback, pages, off_loopback | pages):
        assert found("events", **env).severity == "warning"
        assert found("events", INGEST__REQUIRE_KEY="true", **env).severity == "ok"
    assert found("events", HTTP__UNIX_SOCKET="/run/tallyd.sock", **off_loopback).severity == "ok"


def test_a_badge_shows_counts_although_readers_need_a_key() -> None:
    keyed = {"MONGO__URL": "mongodb://127.0.0.1/t", "READ__KEY": KEY}
    assert "browser.badge" in found("reads", BROWSER__BADGE="/b.svg", **keyed).found
    assert "browser.badge" not in found("reads", **keyed).found


@pytest.mark.parametrize(
    "way",
    [
        {"HTTP__HOST": "0.0.0.0"},
        {"HTTP__UNIX_SOCKET": "/run/tallyd.sock"},
        {"HTTP__TRUSTED_PROXIES": '["127.0.0.1"]'},
        {"HTTP__HOSTS": '["shop.example"]'},
        {"BROWSER__ORIGINS": '["https://shop.example"]'},
    ],
)
def test_a_dashboard_without_a_key_that_others_may_reach_is_a_warning(way: dict[str, str]) -> None:
    on = {"DASHBOARD__ENABLED": "true"}
    told = found("dashboard", **on, **way)
    assert told.severity == "warning"
    assert "tallyd key new --operator" in told.fix
    assert found("dashboard", **on, **way, DASHBOARD__KEY=KEY).severity == "ok"
    assert found("dashboard", **way).severity == "ok"
    assert found("dashboard", **on).severity == "ok"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_reads_without_a_key_off_loopback_are_a_warning(host: str) -> None:
    mongo = {"MONGO__URL": "mongodb://127.0.0.1/t", "HTTP__HOST": host}
    told = found("reads", **mongo)
    assert told.severity == "warning"
    assert told.fix
    assert found("reads", READ__KEY=KEY, **mongo).severity == "ok"
    assert found("reads", READ__ENABLED="false", **mongo).severity == "ok"
    assert found("reads", HTTP__UNIX_SOCKET="/run/tallyd.sock", **mongo).severity == "ok"
    assert found("reads", **{**mongo, "HTTP__HOST": "127.0.0.1"}).severity == "ok"


@pytest.mark.parametrize(
    ("url", "severity"),
    [
        ("redis://127.0.0.1:6379", "ok"),
        ("redis://[::1]:6379", "ok"),
        ("redis://localhost", "ok"),
        ("unix:///run/redis.sock", "ok"),
        ("redis://192.0.2.1", "warning"),
        ("redis://cache", "warning"),
        ("redis://tallyd@cache", "warning"),
        ("redis://:secret@cache", "ok"),
        ("redis://tallyd:secret@cache", "ok"),
        ("rediss://cache", "warning"),
    ],
)
def test_a_redis_without_a_password_off_this_machine_is_a_warning(url: str, severity: str) -> None:
    assert found("redis", REDIS__URL=url).severity == severity


@pytest.mark.parametrize(
    ("url", "severity"),
    [
        ("mongodb://127.0.0.1/t", "ok"),
        ("mongodb://127.0.0.1:27017,127.0.0.1:27018/t", "ok"),
        ("mongodb://127.0.0.1,db2/t", "warning"),
        ("mongodb+srv://cluster.example/t", "warning"),
        ("mongodb://tallyd:secret@db1,db2/t", "ok"),
        ("mongodb://db1/t?tls=true&authMechanism=MONGODB-X509", "ok"),
    ],
)
def test_a_mongodb_without_a_password_off_this_machine_is_a_warning(url: str, severity: str) -> None:
    assert found("mongo", MONGO__URL=url).severity == severity


@pytest.mark.parametrize(
    ("url", "severity"),
    [
        ("", "ok"),
        ("mysql://root:secret@127.0.0.1/shop", "warning"),
        ("mysql://127.0.0.1/shop", "warning"),
        ("mysql://tallyd@127.0.0.1/shop", "ok"),
        ("mysql://tallyd@db/shop", "warning"),
        ("mysql://tallyd:secret@db/shop", "ok"),
        ("mysql://tallyd@db/shop?unix_socket=/run/mysqld.sock", "ok"),
    ],
)
def test_root_and_no_password_are_a_warning_in_mysql(url: str, severity: str) -> None:
    assert found("mysql", MYSQL__URL=url).severity == severity


def test_keys_in_clear_are_a_warning() -> None:
    hashed = configuration.hashed(KEY)
    told = found("keys", PRODUCERS__KEYS=f'{{"shop": "{KEY}", "press": "{hashed}"}}', READ__KEY=KEY)
    assert (told.severity, KEY in str(told)) == ("warning", False)
    assert "producers.keys.shop, read.key" in told.found
    assert "dashboard.key" in found("keys", DASHBOARD__KEY=KEY).found
    assert found("keys", PRODUCERS__KEYS=f'{{"press": "{hashed}"}}', READ__KEY=hashed).severity == "ok"
