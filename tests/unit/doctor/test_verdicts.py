"""Verdicts on what no test server can be brought to say: other makes, other versions, services that don't tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from daemon import config as configuration
from daemon.config import Config, ReplicaTable
from daemon.doctor import mongo_checks, mysql_checks, mysql_tables, redis_checks
from daemon.doctor.clock import Clock
from daemon.doctor.finding import Finding, Refusal, Verdict, run_checks
from daemon.doctor.mongo_facts import MongoFacts
from daemon.doctor.mysql_facts import Column, Index, MysqlFacts, Table
from daemon.doctor.redis_facts import RedisFacts, Window

MOVIES = ReplicaTable(table="jav", key="uuid", columns={"view": "views"})
EXACT = Clock(0.0, 0.001)
CHECKS: dict[str, Callable[[Any], Verdict]] = {**redis_checks.CHECKS, **mongo_checks.CHECKS, **mysql_checks.CHECKS}


def config(**env: str) -> Config:
    return configuration.load(environ={"TALLYD_REDIS__URL": "redis://:secret@db:6379/0", **env})


INFO = {
    "redis_version": "8.8.2",
    "role": "master",
    "connected_slaves": 0,
    "maxmemory_policy": "noeviction",
    "maxmemory": 0,
    "used_memory": 10**6,
    "total_system_memory": 10**10,
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "rdb_last_bgsave_status": "ok",
}
SETTINGS = {
    "appendfsync": "everysec",
    "save": "3600 1",
    "stop-writes-on-bgsave-error": "yes",
    "set-max-intset-entries": "512",
}


def redis_facts(
    *,
    settings: dict[str, str] | Refusal | None = None,
    windows: tuple[Window, ...] | Refusal = (),
    **info: Any,
) -> RedisFacts:
    told = SETTINGS if settings is None else settings
    return RedisFacts(config(), "redis://db:6379/0", INFO | info, told, {}, EXACT, windows=windows, scripts={})


def mongo_facts(**fields: Any) -> MongoFacts:
    hello = {"isWritablePrimary": True, "setName": "rs", "hosts": ["a", "b", "c"]} | fields.pop("hello", {})
    told: dict[str, Any] = {"indexes": Refusal("listIndexes", "not authorized"), "release": "6.0.5"} | fields
    return MongoFacts(config(), "mongodb://a,b,c/tallyd?replicaSet=rs", "tallyd", hello, clock=EXACT, **told)


def mysql_facts(**fields: Any) -> MysqlFacts:
    told: dict[str, Any] = {
        "release": "8.0.36", "user": "tallyd@%", "packet_bytes": 64 * 2**20, "sql_mode": "STRICT_TRANS_TABLES",
        "read_only": False, "tables": {"jav.movie": (MOVIES, None)},
    } | fields  # fmt: skip
    return MysqlFacts(config(), "shop", clock=EXACT, **told)


def result(check: str, facts: Any) -> Finding:
    [found] = run_checks({check: CHECKS[check]}, facts)
    return found


PAIR = {"hosts": ["a", "b"]}
ARBITER = {"arbiterOnly": True}
FORBIDDEN = Refusal("CONFIG GET", "ERR unknown command 'CONFIG'")
SILENT = {"save": "3600 1", "stop-writes-on-bgsave-error": "no"}
FULL = {"fsUsedSize": 91.0, "fsTotalSize": 100.0}


@pytest.mark.parametrize(
    ("check", "facts", "severity"),
    [
        ("redis.version", redis_facts(redis_version="6.0.16"), "fatal"),
        ("redis.version", redis_facts(redis_version="6.2.0"), "ok"),
        ("redis.version", redis_facts(redis_version="7.2.4-rc1"), "ok"),
        ("redis.version", redis_facts(redis_version="unstable"), "fatal"),
        ("redis.version", redis_facts(server_name="valkey", redis_version="7.2.4", valkey_version="8.1.4"), "ok"),
        ("redis.append_only", redis_facts(aof_last_write_status="err"), "fatal"),
        ("redis.replicas", dataclasses.replace(redis_facts(), config=config(TALLYD_REDIS__REPLICAS="1")), "warning"),
        ("redis.replicas", redis_facts(connected_slaves=1, slave0={"state": "online"}), "ok"),
        *(
            ("redis.memory", redis_facts(used_memory=used, **limit), severity)
            for used, severity in ((80, "ok"), (81, "warning"), (99, "warning"), (100, "fatal"))
            for limit in ({"maxmemory": 100}, {"total_system_memory": 100})
        ),
        ("redis.snapshots", redis_facts(settings=SILENT, aof_enabled=0), "warning"),
        ("redis.snapshots", redis_facts(settings=SILENT), "ok"),
        ("redis.intset", redis_facts(settings={"save": ""}), "unknown"),
        ("redis.dedupe", redis_facts(), "ok"),
        ("redis.dedupe", redis_facts(windows=(Window(1_000, 2_000), Window(1_000, 5))), "ok"),
        ("redis.dedupe", redis_facts(windows=(Window(1_000, 5), Window(1_000, 2_001))), "warning"),
        ("redis.dedupe", redis_facts(windows=Refusal("HMGET", "NOPERM")), "unknown"),
        ("mongo.version", mongo_facts(release="4.2.24"), "fatal"),
        ("mongo.version", mongo_facts(release="5.0.31"), "warning"),
        ("mongo.version", mongo_facts(release="7.0.2"), "ok"),
        ("mongo.majority", mongo_facts(), "ok"),
        ("mongo.majority", mongo_facts(hello={"setName": "rs", "hosts": ["a"]}), "ok"),
        (
            "mongo.majority",
            mongo_facts(hello=PAIR, replica_set=Refusal("replSetGetConfig", "not authorized")),
            "unknown",
        ),
        ("mongo.majority", mongo_facts(hello=PAIR, replica_set={"members": [{}, {}, ARBITER]}), "warning"),
        ("mongo.majority", mongo_facts(hello=PAIR, replica_set={"members": [{}, {}, {"hidden": True}]}), "ok"),
        ("mongo.majority", mongo_facts(hello=PAIR, replica_set={"members": [{}, {}, {"votes": 0}]}), "warning"),
        ("mongo.hours", mongo_facts(), "ok"),
        ("mongo.hours", mongo_facts(first_hour="9999-12-31T23"), "ok"),
        ("mongo.hours", mongo_facts(first_hour="2026-02-19T05"), "warning"),
        ("mongo.hours", mongo_facts(first_hour=Refusal("find", "not authorized")), "unknown"),
        ("mongo.storage", mongo_facts(storage=FULL), "warning"),
        ("mongo.storage", mongo_facts(storage={}), "ok"),
        ("mysql.version", mysql_facts(release="8.0.36"), "ok"),
        ("mysql.version", mysql_facts(release="8.4"), "ok"),
        ("mysql.version", mysql_facts(release="8.0.3"), "fatal"),
        ("mysql.version", mysql_facts(release="5.7.44-log"), "fatal"),
        ("mysql.version", mysql_facts(release="10.11.19-MariaDB-0+deb12u1"), "ok"),
        ("mysql.version", mysql_facts(release="10.5.23-MariaDB"), "fatal"),
        ("mysql.packet", mysql_facts(packet_bytes=2**20), "ok"),
        ("mysql.packet", mysql_facts(packet_bytes=2**20 - 1024), "warning"),
        ("mysql.writer", mysql_facts(), "ok"),
        ("mysql.writer", mysql_facts(cluster_nodes=3, nodes_reached=frozenset({"a"})), "ok"),
        ("mysql.writer", mysql_facts(cluster_nodes=3, nodes_reached=frozenset({"a", "b"})), "fatal"),
        ("mysql.writer", mysql_facts(cluster_nodes=1, cluster_ready=False, nodes_reached=frozenset({"a"})), "fatal"),
        ("mysql.replica", mysql_facts(tables={}), "fatal"),
    ],
)
def test_what_a_server_says_decides_how_severe_it_is(check: str, facts: Any, severity: str) -> None:
    found = result(check, facts)
    assert found.severity == severity
    assert bool(found.why and found.fix) is (severity != "ok")


def test_a_usual_redis_has_nothing_to_mend() -> None:
    assert {each.check for each in run_checks(redis_checks.CHECKS, redis_facts()) if each.severity != "ok"} == set()


def test_a_service_that_forbids_config_is_judged_by_what_it_does_tell() -> None:
    facts = redis_facts(settings=FORBIDDEN, maxmemory_policy="allkeys-lru")
    severities = {each.check: each.severity for each in run_checks(redis_checks.CHECKS, facts)}
    assert severities["redis.eviction"] == "fatal", "INFO tells, too"
    assert severities["redis.append_only"] == severities["redis.snapshots"] == severities["redis.intset"] == "unknown"
    told = result("redis.intset", facts)
    assert "unknown command 'CONFIG'" in told.found
    assert "set-max-intset-entries" in told.fix


def test_what_info_leaves_out_is_unknown() -> None:
    facts = RedisFacts(config(), "redis://db:6379/0", {"redis_version": "7.2.16"}, {}, {}, EXACT, scripts={})
    severities = {each.check: each.severity for each in run_checks(redis_checks.CHECKS, facts)}
    assert severities["redis.version"] == "ok"
    assert severities["redis.role"] == severities["redis.eviction"] == severities["redis.memory"] == "unknown"


def test_no_fix_shows_the_password() -> None:
    facts = redis_facts(role="slave", maxmemory_policy="allkeys-lru", aof_enabled=0, used_memory=10**11)
    findings = run_checks(redis_checks.CHECKS, facts)
    assert sum(each.severity != "ok" for each in findings) == 4
    assert not [each for each in findings if "secret" in f"{each.found}{each.why}{each.fix}"]


def test_a_replica_set_is_named_with_its_members() -> None:
    assert result("mongo.primary", mongo_facts()).found == "replica set rs of 3 members, takes writes"


def test_a_secondary_names_the_primary() -> None:
    facts = mongo_facts(hello={"isWritablePrimary": False, "me": "b:27017", "primary": "a:27017"})
    finding = result("mongo.primary", facts)
    assert finding.severity == "fatal"
    assert "a:27017" in finding.found
    assert "replicaSet=rs" in finding.fix
    assert result("mongo.write", facts).severity == "fatal"


def test_a_write_that_was_refused_asks_for_the_role() -> None:
    finding = result("mongo.write", mongo_facts(write_error="not authorized on tallyd to execute command"))
    assert finding.severity == "fatal"
    assert finding.fix == """mongosh mongodb://a,b,c/tallyd --eval 'db.grantRolesToUser("USER", ["readWrite"])'"""


def column(data_type: str, declared: str = "", **fields: Any) -> Column:
    told: dict[str, Any] = {"precision": None, "scale": None, "extra": ""} | fields
    return Column("views", data_type, declared or data_type, None, None, **told)


@pytest.mark.parametrize(
    ("views", "severity"),
    [
        (column("bigint", "bigint(20) unsigned"), "ok"),
        (column("int", "int(11)"), "warning"),
        (column("decimal", "decimal(20,0)", precision=20, scale=0), "ok"),
        (column("decimal", "decimal(20,2)", precision=20, scale=2), "warning"),
        (column("decimal", "decimal(10,0)", precision=10, scale=0), "warning"),
        (column("double"), "warning"),
        (column("varchar", "varchar(20)"), "fatal"),
        (column("bigint", extra="STORED GENERATED"), "fatal"),
        (column("bigint", extra="DEFAULT_GENERATED"), "ok"),
    ],
)
def test_columns_have_to_hold_a_64_bit_total(views: Column, severity: str) -> None:
    table = Table("BASE TABLE", "InnoDB", 0, {"views": views}, [])
    facts = mysql_facts(tables={"jav.movie": (MOVIES, table)})
    found = {each.check: each.severity for each in mysql_tables.check_tables(facts)}
    assert found["mysql.columns.jav.movie"] == severity


@pytest.mark.parametrize(
    ("label", "indexes", "enrich", "severity", "text"),
    [
        (column("varchar"), [Index("i", False, ("views", "other"))], (), "ok", "views has an index"),
        (column("varchar"), [Index("i", False, ("other", "views"))], (), "ok", "CREATE INDEX `jav_views` ON `jav`"),
        (column("varchar"), [Index("i", False, ("views(8)",))], (), "ok", "is refused"),
        (column("date"), [Index("i", False, ("views",))], (), "ok", "is refused"),
        (column("varchar"), [Index("i", False, ("views",))], ("views", "title"), "warning", "no column title"),
    ],
)
def test_a_search_by_label_needs_an_index_and_enrich_its_columns(
    label: Column, indexes: list[Index], enrich: tuple[str, ...], severity: str, text: str
) -> None:
    mapping = msgspec.structs.replace(MOVIES, label="views", enrich=enrich)
    facts = mysql_facts(tables={"jav.movie": (mapping, Table("BASE TABLE", "InnoDB", 0, {"views": label}, indexes))})
    found = {each.check: each for each in mysql_tables.check_tables(facts)}["mysql.searched.jav.movie"]
    assert (found.severity, text in found.found) == (severity, True)


def test_a_plan_that_reads_a_large_table_is_a_warning() -> None:
    columns = {"uuid": column("char")._replace(name="uuid"), "views": column("bigint")}
    for rows, severity in ((999, "ok"), (1_000, "warning")):
        table = Table("BASE TABLE", "InnoDB", rows, columns, [], scans=True)
        facts = mysql_facts(tables={"jav.movie": (MOVIES, table)})
        found = {each.check: each.severity for each in mysql_tables.check_tables(facts)}
        assert found["mysql.update.jav.movie"] == severity
