"""Stores that speak only TLS, with an authority of one's own and client certificates: every connection obeys the
address's options, and doctor's verdict is the daemons'."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import pytest

from daemon import config as configuration
from daemon.buffer.connection import Connection, opened
from daemon.buffer.layout import Layout
from daemon.cli.options import run
from daemon.doctor import checks
from daemon.errors import StoreError
from daemon.replica.mysql import MysqlSink
from daemon.rollups.mongo import MongoSink
from tests.kit.certificates import Authority, Identity
from tests.kit.servers import MONGO, MYSQL, REDIS, Server
from tests.kit.system import CREATE_TABLE, System, event, run_sql


class Certificates(NamedTuple):
    """Those of the servers are issued by `authority`, and one by a stranger."""

    authority: Authority
    stranger: Authority
    server: Identity
    client: Identity
    elsewhere: Identity
    expired: Identity
    foreign: Identity


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    authority, stranger = Authority(folder / "own"), Authority(folder / "strange")
    return Certificates(
        authority,
        stranger,
        authority.issue("server"),
        authority.issue("client"),
        authority.issue("elsewhere", "DNS:elsewhere.example"),
        authority.issue("expired", days=-1),
        stranger.issue("foreign"),
    )


def of(findings: list[Any]) -> dict[str, Any]:
    return {each.check: each for each in findings}


REFUSALS = [("elsewhere", "mismatch"), ("expired", "certificate has expired"), ("foreign", "certificate verify failed")]
"""A server's certificate, and what a client says of it."""


# MySQL --------------------------------------------------------------------------------------------------------------


def mariadb(folder: Path, certificates: Certificates, name: str) -> Server:
    """A MariaDB with this certificate. It takes connections without TLS, too: the users decide."""
    shown: Identity = getattr(certificates, name)

    def command(program: Path, data: Path, port: int) -> list[str]:
        files = (f"--ssl-ca={certificates.authority.ca}", f"--ssl-cert={shown.cert}", f"--ssl-key={shown.key}")
        return [*MYSQL.command(program, data, port), *files]

    return Server(msgspec.structs.replace(MYSQL, command=command), folder)


class Mysql(NamedTuple):
    """The user `strict` may only connect with a client certificate; `any`, as it likes. Their password is "pw"."""

    server: Server

    def url(self, query: str, user: str = "strict") -> str:
        return f"mysql://{user}:pw@localhost:{urlsplit(self.server.url).port}/tallyd{query}"

    def refusal(self, query: str, user: str = "any") -> str:
        """Why a flusher cannot connect; "" if it can. Doctor says the same."""
        config = configuration.load(environ={"TALLYD_MYSQL__URL": self.url(query, user)})

        async def connect() -> str:
            async with MysqlSink(config.mysql) as sink:
                try:
                    await sink.query("SELECT 1")
                except StoreError as error:
                    return str(error)
                return ""

        said = run(connect())
        found = of(run(checks.of_mysql(config)))["mysql.reachable"]
        assert (found.found if said else "") == said
        assert (found.severity == "fatal") == bool(said)
        return said


@pytest.fixture(scope="module")
def mysql(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Mysql]:
    with mariadb(tmp_path_factory.mktemp("mysql-tls"), certificates, "server") as server:
        for user, demand in (("strict", "REQUIRE X509"), ("any", "")):
            run_sql(server.url, f"CREATE USER {user} IDENTIFIED BY 'pw' {demand}")
            run_sql(server.url, f"GRANT ALL ON *.* TO {user}")
        run_sql(server.url, CREATE_TABLE)
        yield Mysql(server)


def test_every_connection_to_mysql_is_encrypted_and_shows_the_certificate(
    mysql: Mysql, certificates: Certificates, system: System
) -> None:
    own = certificates.client
    system.env["TALLYD_MYSQL__URL"] = mysql.url(
        f"?ssl_ca={certificates.authority.ca}&ssl_cert={own.cert}&ssl_key={own.key}"
    )
    run_sql(mysql.server.url, "INSERT INTO jav (uuid, code, views) VALUES ('a', 'A-1', 40), ('b', 'B-1', 2)")
    system.tallyd("backfill")
    system.count(*[event(entity_id="a") for _ in range(3)])
    system.tallyd("flush", "--once")
    assert run_sql(mysql.server.url, "SELECT uuid, views FROM jav") == [("a", 43), ("b", 2)]
    system.tallyd("parity-check", "--all")
    system.audit("--deep")
    found = of(run(checks.of_mysql(system.config())))
    assert {each.severity for each in found.values()} <= {"ok", "warning"}
    replica = '{"jav": {"movie": {"table": "jav", "key": "uuid", "columns": {"view": "views"}, "enrich": ["code"]}}}'
    with system.ingest(REPLICA=replica) as ingest:
        top = ingest.client.get("/api/v1/analytics/top/jav/movie?enrich=1").json()
        assert [each["row"]["code"] for each in top["rows"]] == ["A-1", "B-1"]


def test_what_is_asked_for_is_what_the_server_has(mysql: Mysql, certificates: Certificates) -> None:
    async def cipher(query: str) -> str:
        config = configuration.load(environ={"TALLYD_MYSQL__URL": mysql.url(query, "any")})
        async with MysqlSink(config.mysql) as sink:
            [(_, value)] = await sink.query("SHOW STATUS LIKE 'Ssl_cipher'")
            return str(value)

    assert run(cipher("")) == ""
    assert run(cipher("?ssl=false")) == ""
    assert run(cipher(f"?ssl_ca={certificates.authority.ca}")).startswith("TLS_")
    assert run(cipher(f"?ssl=true&ssl_ca={certificates.authority.ca}")).startswith("TLS_")


@pytest.mark.parametrize(("name", "why"), REFUSALS)
def test_a_mysql_server_is_who_its_certificate_says(
    certificates: Certificates, tmp_path: Path, name: str, why: str
) -> None:
    with mariadb(tmp_path, certificates, name) as server:
        run_sql(server.url, "CREATE USER any IDENTIFIED BY 'pw'")
        run_sql(server.url, "GRANT ALL ON *.* TO any")
        shown = Mysql(server)
        assert why in shown.refusal(f"?ssl_ca={certificates.authority.ca}")
        unnamed = shown.refusal(f"?ssl_ca={certificates.authority.ca}&ssl_check_hostname=false")
        assert bool(unnamed) == (name != "elsewhere")


def test_without_an_authority_named_the_systems_are_asked(mysql: Mysql) -> None:
    assert "certificate verify failed" in mysql.refusal("?ssl=true")


def test_a_server_that_asks_for_tls_is_told_apart_from_a_wrong_password(
    mysql: Mysql, certificates: Certificates
) -> None:
    assert "?ssl=true or ?ssl_ca=FILE" in mysql.refusal("", "strict")
    secure = f"?ssl_ca={certificates.authority.ca}"
    assert "?ssl" not in mysql.refusal(secure, "strict")  # it lacks the client's certificate
    run_sql(mysql.server.url, "SET GLOBAL require_secure_transport = ON")
    try:
        assert "?ssl=true or ?ssl_ca=FILE" in mysql.refusal("")
        assert mysql.refusal(secure) == ""
    finally:
        # Its own connections may be plain no more.
        config = configuration.load(environ={"TALLYD_MYSQL__URL": mysql.url(secure, "any")})

        async def reset() -> None:
            async with MysqlSink(config.mysql) as sink:
                await sink.query("SET GLOBAL require_secure_transport = OFF")

        run(reset())


def test_a_server_without_tls_is_no_server_for_one_that_asks_for_it(system: System) -> None:
    config = system.config(MYSQL__URL=f"{system.env['TALLYD_MYSQL__URL']}?ssl=true")

    async def connect() -> None:
        async with MysqlSink(config.mysql) as sink:
            await sink.query("SELECT 1")

    with pytest.raises(StoreError, match="The server has no TLS"):
        run(connect())


# Redis --------------------------------------------------------------------------------------------------------------


def redis_of(folder: Path, certificates: Certificates, name: str) -> Server:
    """A Redis with this certificate. It takes connections by TLS alone, from clients with one of its own."""
    shown: Identity = getattr(certificates, name)
    files = (
        "--tls-cert-file",
        shown.cert,
        "--tls-key-file",
        shown.key,
        "--tls-ca-cert-file",
        certificates.authority.ca,
    )

    def command(program: Path, data: Path, port: int) -> list[str]:
        plain = REDIS.command(program, data, port)
        at = plain.index("--port")
        return [*plain[:at], "--port", "0", "--tls-port", *plain[at + 1 :], *map(str, files)]

    checks_nothing = client_of(certificates, "&ssl_cert_reqs=none")
    return Server(msgspec.structs.replace(REDIS, command=command, url=checks_nothing), folder)


def client_of(certificates: Certificates, more: str = "", name: str = "client") -> str:
    own: Identity = getattr(certificates, name)
    return (
        f"rediss://localhost:{{port}}/0?ssl_ca_certs={certificates.authority.ca}"
        f"&ssl_certfile={own.cert}&ssl_keyfile={own.key}{more}"
    )


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[int]:
    with redis_of(tmp_path_factory.mktemp("redis-tls"), certificates, "server") as server:
        yield server.port


def verdicts(url: str) -> list[str]:
    """Why ingest, the other commands, and doctor cannot use this Redis; "" for each that can."""
    config = configuration.load(environ={"TALLYD_REDIS__URL": url})

    async def by_ingest() -> None:
        connection = Connection(config.redis, Layout(config))
        try:
            await connection.connect()
        finally:
            await connection.close()

    async def by_commands() -> None:
        async with opened(config.redis) as redis:
            await redis.ping()

    def why(work: Callable[[], Coroutine[Any, Any, None]]) -> str:
        try:
            run(work())
        except StoreError as error:
            return str(error)
        return ""

    found = of(run(checks.of_redis(config)))["redis.reachable"]
    return [why(by_ingest), why(by_commands), found.found if found.severity == "fatal" else ""]


def test_every_connection_to_redis_uses_the_options_of_its_address(
    redis_port: int, certificates: Certificates, system: System
) -> None:
    system.env["TALLYD_REDIS__URL"] = client_of(certificates).format(port=redis_port)
    system.add_movies("a")
    with system.ingest() as ingest:
        assert ingest.post(event(entity_id="a")).status_code == 202
        assert ingest.client.get("/readyz").json() == {"status": "ready"}
        assert ingest.client.get("/api/v1/analytics/totals/jav/movie/a?fresh=1").json()["counters"]["view"] == 1
    found = json.loads(system.tallyd("doctor", "--json", check=False).stdout)
    assert {each["severity"] for each in found if each["check"] in ("redis.reachable", "redis.scripts")} == {"ok"}
    system.tallyd("flush", "--once")
    system.tallyd("status")
    system.audit()
    assert system.replica() == {"a": (1, 0)}


@pytest.mark.parametrize(("name", "why"), REFUSALS)
def test_a_redis_is_who_its_certificate_says_for_all_alike(
    certificates: Certificates, tmp_path: Path, name: str, why: str
) -> None:
    with redis_of(tmp_path, certificates, name) as server:
        assert all(why in said for said in verdicts(client_of(certificates).format(port=server.port)))
        unnamed = verdicts(client_of(certificates, "&ssl_check_hostname=false").format(port=server.port))
        assert [bool(said) for said in unnamed] == [name != "elsewhere"] * 3
        assert verdicts(client_of(certificates, "&ssl_cert_reqs=none").format(port=server.port)) == [""] * 3


def test_a_redis_that_does_not_know_the_client_is_away_for_all_alike(
    redis_port: int, certificates: Certificates
) -> None:
    assert verdicts(client_of(certificates).format(port=redis_port)) == [""] * 3
    assert all(verdicts(client_of(certificates, name="foreign").format(port=redis_port)))
    assert all(verdicts(f"rediss://localhost:{redis_port}/0?ssl_ca_certs={certificates.authority.ca}"))
    assert all(verdicts(f"rediss://localhost:{redis_port}/0"))


# MongoDB ------------------------------------------------------------------------------------------------------------


def mongod(folder: Path, certificates: Certificates, name: str) -> Server:
    """A mongod with this certificate. It takes connections by TLS alone, from clients with one of its own."""
    shown: Identity = getattr(certificates, name)
    files = ("--tlsCertificateKeyFile", str(shown.both), "--tlsCAFile", str(certificates.authority.ca))

    def command(program: Path, data: Path, port: int) -> list[str]:
        return [*MONGO.command(program, data, port), "--tlsMode", "requireTLS", *files]

    checks_nothing = mongo_url(certificates, "&tlsAllowInvalidCertificates=true")
    return Server(msgspec.structs.replace(MONGO, command=command, url=checks_nothing), folder)


def mongo_url(certificates: Certificates, more: str = "") -> str:
    return (
        f"mongodb://localhost:{{port}}/tallyd?tls=true&tlsCAFile={certificates.authority.ca}"
        f"&tlsCertificateKeyFile={certificates.client.both}{more}"
    )


# A mongod does not start on a certificate that has expired.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("name", "why"), [("server", ""), REFUSALS[0], REFUSALS[2]])
def test_doctor_says_of_a_mongodb_what_the_flusher_finds(
    certificates: Certificates, tmp_path: Path, name: str, why: str
) -> None:
    with mongod(tmp_path, certificates, name) as server:
        address = mongo_url(certificates).format(port=server.port)
        config = configuration.load(environ={"TALLYD_MONGO__URL": address, "TALLYD_MONGO__TIMEOUT_MS": "2000"})

        async def by_flusher() -> None:
            async with MongoSink(config.mongo) as sink:
                await sink.ensure_indexes()

        if not why:
            run(by_flusher())
        else:
            with pytest.raises(StoreError, match=why):
                run(by_flusher())
        found = of(run(checks.of_mongo(config)))
        assert (found["mongo.reachable"].severity, found["mongo.write"].severity) == (
            ("fatal", "unknown") if why else ("ok", "ok")
        )
        assert why in found["mongo.reachable"].found
    gc.collect()  # pymongo, closed while it tries to connect, leaves a socket behind: let it complain here
