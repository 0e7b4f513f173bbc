"""Secrets in files of their own: `KEY_file` in place of any secret `KEY`."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from daemon.config import generate, load, masked, secret_files
from daemon.doctor.checks import of_secrets, private_keys
from tests.unit.config.given import problems, read

URL = "redis://:hush@h:6379/0"
KEY = "hush-hush-hush-hush"


def test_every_secret_may_lie_in_a_file() -> None:
    for name, text in {"redis": URL, "mongo": "mongodb://h", "mysql": "mysql://h/db", "key": KEY}.items():
        Path(name).write_text(f"{text}\n")
    config = read("""
        [redis]
        url_file = "redis"
        [mongo]
        url_file = "mongo"
        [mysql]
        url_file = "mysql"
        [read]
        key_file = "key"
        [producers]
        keys = { blog = "0123456789abcdef" }
        keys_file = { shop = "key" }
        """)
    assert (config.redis.url, config.mongo.url, config.mysql.url) == (URL, "mongodb://h", "mysql://h/db")
    assert config.read.key == KEY
    assert config.producers.keys == {"blog": "0123456789abcdef", "shop": KEY}
    assert "hush" not in json.dumps(masked(config))


def test_a_relative_path_begins_in_the_folder_of_systemds_credentials(tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "redis.url").write_text(URL)
    environ = {"TALLYD_REDIS__URL_FILE": "redis.url", "CREDENTIALS_DIRECTORY": str(folder)}
    assert load(environ=environ).redis.url == URL
    Path("redis.url").write_text("redis://elsewhere")
    assert load(environ=environ | {"TALLYD_REDIS__URL_FILE": str(tmp_path / "redis.url")}).redis.url == (
        "redis://elsewhere"
    )
    assert load(environ={"TALLYD_REDIS__URL_FILE": "redis.url"}).redis.url == "redis://elsewhere"


def test_the_environment_wins_over_the_file_whichever_of_the_two_it_gives() -> None:
    Path("secret").write_text(URL)
    assert read('[redis]\nurl_file = "nosuch"\n', REDIS__URL="redis://h").redis.url == "redis://h"
    assert read('[redis]\nurl = "redis://h"\n', REDIS__URL_FILE="secret").redis.url == URL
    assert read("[producers]\nkeys = {}\n", PRODUCERS__KEYS_FILE='{"shop": "secret"}').producers.keys == {"shop": URL}


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        ('[redis]\nurl_file = "nosuch"', "given.toml line 2: redis.url_file: cannot read nosuch: No such file or"),
        ('[redis]\nurl_file = "."', "given.toml line 2: redis.url_file: cannot read .: Is a directory"),
        ('[redis]\nurl_file = "empty"', "given.toml line 2: redis.url_file: cannot read empty: it is empty"),
        ('[redis]\nurl_file = "bytes"', "given.toml line 2: redis.url_file: cannot read bytes: it is no text"),
        ('[redis]\nurl_file = "long"', "given.toml line 2: redis.url_file: cannot read long: larger than 65536 bytes"),
        ("[redis]\nurl_file = 5", "given.toml line 2: redis.url_file: must be a path"),
        (
            '[redis]\nurl = "redis://h"\nurl_file = "good"',
            "redis.url_file: redis.url is given, too; give one of the two",
        ),
        ('[redis]\nurl_file = "wrong"', "wrong: redis.url: must begin with redis://"),
        ('[producers]\nkeys_file = "good"', "producers.keys_file: must be a table of paths"),
        ('[producers]\nkeys_file = { shop = "nosuch" }', "producers.keys_file.shop: cannot read nosuch"),
        ('[producers]\nkeys_file = { shop = "wrong" }', "wrong: producers.keys.shop: must have 16 to 255"),
        ('[http]\nport_file = "good"', "http.port_file: unknown key"),
    ],
)
def test_a_file_that_cannot_be_taken_is_told_with_its_key(toml: str, problem: str) -> None:
    for name, data in {"empty": b" \n", "bytes": b"\xff", "long": b"x" * 65_537, "good": b"redis://h"}.items():
        Path(name).write_bytes(data)
    Path("wrong").write_text("hush")
    [found] = problems(toml)
    assert problem in found
    assert "hush" not in found


def test_the_json_schema_and_the_example_know_them() -> None:
    defined = generate.json_schema()["$defs"]
    assert {"url_file"} <= defined["RedisSection"]["properties"].keys()
    assert {"keys_file"} <= defined["Producers"]["properties"].keys()
    assert "redis.url, mongo.url, mysql.url" in generate.example()


def test_files_that_everyone_may_read_are_told() -> None:
    for name, mode in (("given.toml", 0o644), ("shop", 0o640), ("redis", 0o604)):
        Path(name).write_text('[read]\nkey = "hush"\n[producers]\nkeys_file = { shop = "shop" }\n')
        Path(name).chmod(mode)
    files = secret_files(Path("given.toml"), environ={"TALLYD_REDIS__URL_FILE": "redis"})
    assert set(files) == {Path("given.toml"), Path("shop"), Path("redis")}
    [found] = of_secrets(files)
    assert (found.severity, found.fix) == ("warning", "chmod o-r given.toml redis")
    for name in ("given.toml", "redis"):
        Path(name).chmod(0o600)
    assert [each.severity for each in of_secrets(files)] == ["ok"]


def test_private_keys_that_addresses_name_are_among_them() -> None:
    mongo = "mongodb://h/db?tls=true&tlsCertificateKeyFile=key"
    Path("key").touch()
    config = load(environ={"TALLYD_MONGO__URL": mongo, "TALLYD_MYSQL__URL": "mysql://h/db"})
    assert private_keys(config) == [Path("key")]


def test_a_configuration_without_secrets_may_be_read_by_all() -> None:
    Path("given.toml").write_text("[http]\nport = 1\n")
    assert secret_files(Path("given.toml"), environ={}) == []


def test_without_systemd_a_relative_path_of_a_file_below_etc_begins_in_its_folder_of_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("daemon.config.load"), "SYSTEM_CONFIG", tmp_path / "etc")
    file = tmp_path / "etc" / "tallyd" / "tallyd.toml"
    secret = file.parent / "credentials" / "redis.url"
    secret.parent.mkdir(parents=True)
    secret.write_text(URL)
    file.write_text('[redis]\nurl_file = "redis.url"\n')
    assert load(file, environ={}).redis.url == URL
    assert secret_files(file, environ={}) == [secret]
    (tmp_path / "redis.url").write_text("redis://of-systemd")
    assert load(file, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)}).redis.url == "redis://of-systemd"
