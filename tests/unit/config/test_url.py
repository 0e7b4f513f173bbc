"""The addresses of the stores: unknown options, passwords with special characters, and what is shown of them."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from redis.asyncio.connection import SSLConnection

from daemon.config import masked
from daemon.config.url import FORMS, masked_url, mysql_of, tls_of
from tests.unit.config.given import problems, read, without_place

ENCODE = "percent-encode the password: @ is %40, : is %3A, / is %2F, # is %23, ? is %3F, % is %25"


def problem(store: str, url: str) -> str:
    [found] = map(without_place, problems(**{f"{store.upper()}__URL": url}))
    return found.removeprefix(f"{store}.url: ")


# Options --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "url", "known"),
    [
        ("redis", "redis://h/0?no_such=1", "db, password, ssl_ca_certs, ssl_ca_data, "),
        ("redis", "redis://h/0?socket_timeout=1", "db, password, "),
        ("mongo", "mongodb://h/db?no_such=1", "appname, authmechanism, "),
        ("mysql", "mysql://h/db?no_such=1", "ssl, ssl_ca, ssl_cert, ssl_check_hostname, ssl_key, unix_socket"),
        ("mysql", "mysql://h/db?ssl-ca=ca.pem", "ssl, ssl_ca, "),
    ],
)
def test_an_unknown_option_is_told_with_the_known_ones(store: str, url: str, known: str) -> None:
    assert f"; known: {known}" in problem(store, url)


def test_a_look_alike_of_tls_is_no_plain_connection() -> None:
    for query in ("sslmode=verify-full", "tls=1", "ssl=1", "ssl=yes", "ssl", "SSL=true"):
        assert problem("mysql", f"mysql://h/db?{query}")


@pytest.mark.parametrize(
    ("store", "url", "text"),
    [
        ("redis", "redis://h/0?ssl_check_hostname=maybe", "ssl_check_hostname must be true or false"),
        ("redis", "redis://h/0?ssl_cert_reqs=none", "ssl_cert_reqs needs rediss:// in place of redis://"),
        ("redis", "rediss://h/0?ssl_cert_reqs=no", "ssl_cert_reqs must be required, optional or none"),
        ("redis", "redis://h?db=one", "db must be a whole number"),
        ("redis", "rediss://h?ssl_ca_certs=/no/such", "ssl_ca_certs names /no/such, which this user cannot read"),
        ("mysql", "mysql://h/db?ssl_ca=/no/such", "ssl_ca names /no/such, which this user cannot read"),
        ("mysql", "mysql://h/db?ssl=false&ssl_check_hostname=true", "ssl=false and ssl_check_hostname contradict"),
        ("mysql", "mysql:///db?unix_socket=/s&ssl=true", "unix_socket and TLS contradict each other"),
        ("mysql", "mysql:///db", "names no host"),
        ("mongo", "mongodb://h/db?tls=maybe", "tls: "),
        ("mongo", "mongodb://h/db?tlsCAFile=/no/such", "tlsCAFile: "),
        ("mongo", "mongodb://h/db?tls=true&ssl=false", "conflicting values for URI options"),
        ("mongo", "mongodb://h/db?authMechanismProperties=hush", "authMechanismProperties: its driver does not take"),
    ],
)
def test_a_wrong_option_is_told(store: str, url: str, text: str) -> None:
    found = problem(store, url)
    assert text in found
    assert "hush" not in found


def test_a_file_that_is_no_certificate_is_told() -> None:
    Path("ca.pem").write_text("not a certificate")
    assert "make no TLS" in problem("mysql", "mysql://h/db?ssl_ca=ca.pem")
    assert "make no TLS" in problem("redis", "rediss://h/0?ssl_ca_certs=ca.pem")


def test_every_option_of_redis_pys_tls_is_known() -> None:
    theirs = {name for name in inspect.signature(SSLConnection.__init__).parameters if name.startswith("ssl_")}
    form = FORMS["redis"]
    assert {name for name in (*form.options, *form.hidden) if name.startswith("ssl_")} == theirs - {
        "ssl_include_verify_flags",
        "ssl_exclude_verify_flags",
    }


def test_tls_is_verified_unless_told_otherwise() -> None:
    for url in ("mysql://h/db?ssl=true", "mysql://h/db?ssl_check_hostname=true", "rediss://h/0"):
        context = tls_of(url)
        assert context is not None
        assert (context.check_hostname, context.verify_mode.name) == (True, "CERT_REQUIRED")
    for url in ("mysql://h/db", "mysql://h/db?ssl=false", "redis://h/0", "unix:///s"):
        assert tls_of(url) is None


def test_a_socket_may_stand_in_place_of_a_host() -> None:
    assert read(MYSQL__URL="mysql://me@/db?unix_socket=/run/my.sock")
    assert mysql_of("mysql://me@/db?unix_socket=/run/my.sock")["unix_socket"] == "/run/my.sock"
    assert read(MONGO__URL="mongodb://%2Frun%2Fmongodb-27017.sock/db")


# Passwords with special characters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("character", "/#?")
@pytest.mark.parametrize(("store", "url"), [
    ("redis", "redis://:{}@h:6379/0"),
    ("redis", "rediss://me:{}@h/0"),
    ("mongo", "mongodb://me:{}@h/db"),
    ("mongo", "mongodb+srv://me:{}@h/db"),
    ("mysql", "mysql://me:{}@h:3306/db"),
])  # fmt: skip
@pytest.mark.parametrize("password", ["hus{}hush", "12{}hush", "{}hush", "hush{}", "hu@hush{}hush"])
def test_a_password_that_ends_the_address_is_told_with_what_to_write(
    store: str, url: str, password: str, character: str
) -> None:
    found = problem(store, url.format(password.format(character)))
    assert ENCODE in found
    assert "hus" not in found


@pytest.mark.parametrize("password", ["hu@hush", "hu:hush", "hu%hush"])
def test_what_mongodbs_driver_does_not_take_is_told(password: str) -> None:
    found = problem("mongo", f"mongodb://me:{password}@h/db")
    assert ENCODE in found
    assert "hu" not in found


def test_what_is_encoded_is_taken() -> None:
    encoded = "%40%3A%2F%23%3F%25"
    assert read(REDIS__URL=f"redis://:{encoded}@h/0")
    assert read(MONGO__URL=f"mongodb://me:{encoded}@h/db")
    assert read(MYSQL__URL=f"mysql://me:{encoded}@h/db")
    assert mysql_of(f"mysql://me:{encoded}@h/db")["password"] == "@:/#?%"


# What is shown -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://hush@h", "redis://***@h"),
        ("redis://:hush@h:6379/0", "redis://:***@h:6379/0"),
        ("redis://me:hu@hush@h/0", "redis://me:***@h/0"),
        ("redis://h/0?password=hush&db=2", "redis://h/0?password=***&db=2"),
        ("redis://h/0?username=hush", "redis://h/0?username=***"),
        ("rediss://h/0?ssl_ca_certs=/ca&ssl_password=hush", "rediss://h/0?ssl_ca_certs=/ca&ssl_password=***"),
        ("unix://:hush@/run/redis.sock?db=1", "unix://:***@/run/redis.sock?db=1"),
        ("redis://h/0?no_such=hush", "redis://h/0?no_such=***"),
        ("mongodb://hush@h", "mongodb://***@h"),
        ("mongodb://me:hush@a:1,b:2/db?w=1&replicaSet=r", "mongodb://me:***@a:1,b:2/db?w=1&replicaSet=r"),
        (
            "mongodb://h/db?authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:hush",
            "mongodb://h/db?authMechanism=MONGODB-AWS&authMechanismProperties=***",
        ),
        (
            "mongodb://h/db?authMechanismProperties=ENVIRONMENT:azure,TOKEN_RESOURCE:hush",
            "mongodb://h/db?authMechanismProperties=***",
        ),
        ("mongodb://h/?tlsCertificateKeyFilePassword=hush", "mongodb://h/?tlsCertificateKeyFilePassword=***"),
        ("mysql://me:hush@h:3306/db?ssl_ca=/ca", "mysql://me:***@h:3306/db?ssl_ca=/ca"),
        ("mysql://hush@h/db", "mysql://***@h/db"),
        ("mysql://h/db?hush", "mysql://h/db?***"),
        ("", ""),
    ],
)  # fmt: skip
def test_only_what_is_no_secret_is_shown(url: str, shown: str) -> None:
    assert masked_url(url) == shown


@pytest.mark.parametrize(
    ("store", "url"),
    [
        ("redis", "redis://:hush@h/0?password=hush"),
        ("redis", "redis://hush@h/0"),
        ("mongo", "mongodb://me:hush@h/db?tlsCertificateKeyFilePassword=hush"),
        ("mysql", "mysql://me:hush@h/db"),
    ],
)
def test_the_configuration_in_force_shows_no_password(store: str, url: str) -> None:
    assert "hush" not in json.dumps(masked(read(**{f"{store.upper()}__URL": url})))
