"""The doors that a configuration leaves open, and files that hold secrets, on real files."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon import config as configuration
from daemon.doctor.finding import Finding, run_checks
from daemon.doctor.security_checks import CHECKS, Exposure

KEY = "a-reader-s-key-0123"
SECRET_FILE = f'[read]\nkey = "{KEY}"\n[redis]\nurl = "redis://tallyd:p%40ss@127.0.0.1"\n'


def found(check: str, *, file: Path | None = None, **env: str) -> Finding:
    """The finding of one check, with these variables as the configuration."""
    loaded = configuration.load(file, environ={f"TALLYD_{name}": value for name, value in env.items()})
    return {each.check: each for each in run_checks(CHECKS, Exposure(loaded, file))}[f"security.{check}"]


def test_the_defaults_leave_no_door_open() -> None:
    loaded = configuration.load(
        environ={"TALLYD_REDIS__URL": "redis://127.0.0.1", "TALLYD_MONGO__URL": "mongodb://127.0.0.1/t"}
    )
    assert {each.severity for each in run_checks(CHECKS, Exposure(loaded, None))} == {"ok"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_reads_without_a_key_off_loopback_are_a_warning(host: str) -> None:
    mongo = {"MONGO__URL": "mongodb://127.0.0.1/t", "HTTP__HOST": host}
    told = found("reads", **mongo)
    assert told.severity == "warning"
    assert told.fix
    assert found("reads", READ__KEY=KEY, **mongo).severity == "ok"
    assert found("reads", READ__ENABLED="false", **mongo).severity == "ok"
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


@pytest.mark.parametrize(("mode", "severity"), [(0o644, "warning"), (0o640, "ok"), (0o600, "ok"), (0o604, "warning")])
def test_a_file_with_secrets_that_anybody_may_read_is_a_warning(tmp_path: Path, mode: int, severity: str) -> None:
    file = tmp_path / "tallyd.toml"
    file.write_text(SECRET_FILE)
    file.chmod(mode)
    told = found("secrets", file=file)
    assert told.severity == severity
    assert KEY not in told.found + told.why + told.fix
    assert severity == "ok" or str(file) in told.fix


def test_a_file_without_secrets_may_be_read_by_anybody(tmp_path: Path) -> None:
    file = tmp_path / "tallyd.toml"
    file.write_text('[redis]\nurl = "redis://127.0.0.1"\n')
    file.chmod(0o644)
    assert found("secrets", file=file).severity == "ok"
    assert found("secrets", file=file, READ__KEY=KEY).severity == "ok", "it is not in the file"


def test_a_password_is_found_as_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "tallyd.toml"
    file.write_text('[redis]\nurl = "redis://tallyd:p%40ss@127.0.0.1"\n')
    file.chmod(0o644)
    assert found("secrets", file=file).severity == "warning"
