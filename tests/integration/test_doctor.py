"""`tallyd doctor` on real servers, each wrong in one way, and what the daemons refuse to start on."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from daemon.config import Config, replica_tables
from daemon.devstack import process
from daemon.doctor import checks, machine, startup
from daemon.doctor.finding import Finding
from daemon.doctor.mysql_facts import read_mysql
from daemon.errors import ConfigError
from daemon.replica.mysql import MysqlSink
from daemon.replica.sql import KeyColumn
from daemon.rollups.collections import DOCTOR
from tests.kit.servers import RedisServer
from tests.kit.shard import Ev, Shard
from tests.kit.system import System, event, wait_until

CLOSED = "127.0.0.1:1"
MAY_WARN = {"mongo.storage", "security.mysql", *machine.CHECKS}
"""What depends on the machine the tests run on. They use MariaDB's root."""

Found = dict[str, Finding]


def by_check(findings: list[Finding]) -> Found:
    found = {each.check: each for each in findings}
    assert len(found) == len(findings), "two findings of one name"
    for each in findings:
        assert each.severity in ("ok", "unknown") or (each.why and each.fix), f"{each.check} is not explained"
    return found


def redis_found(config: Config) -> Found:
    return by_check(asyncio.run(checks.of_redis(config)))


def mongo_found(config: Config) -> Found:
    return by_check(asyncio.run(checks.of_mongo(config)))


def mysql_found(config: Config) -> Found:
    return by_check(asyncio.run(checks.of_mysql(config)))


def with_index(system: System) -> Config:
    """The system's configuration, after the flusher has made its indexes."""
    system.make_indexes()
    return system.config()


# The command ---------------------------------------------------------------------------------------------------------


def test_a_sound_system_has_nothing_to_mend(system: System) -> None:
    with_index(system)
    done = system.tallyd("doctor", "--json")
    findings = json.loads(done.stdout)
    assert all(list(each) == ["check", "severity", "found", "why", "fix"] for each in findings)
    wrong = {each["check"]: each for each in findings if each["severity"] != "ok" and each["check"] not in MAY_WARN}
    assert wrong == {}
    assert {each["check"].partition(".")[0] for each in findings} == {"redis", "mongo", "mysql", "machine", "security"}


def test_with_no_store_there_it_says_so_once_each_and_fails(system: System) -> None:
    done = system.tallyd_apart(  # asyncmy leaves a socket that was refused to the collector
        "doctor", check=False, REDIS__URL=f"redis://:hidden@{CLOSED}", MONGO__URL=f"mongodb://{CLOSED}/x",
        MYSQL__URL=f"mysql://root@{CLOSED}/x", MONGO__TIMEOUT_MS="300",
    )  # fmt: skip
    assert done.returncode == 1
    assert "3 fatal" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "hidden" not in done.stdout + done.stderr
    for store in ("redis", "mongo", "mysql"):
        assert f"fatal {store}.reachable: " in done.stdout
        assert f"fix: start it, or correct {store}.url" in done.stdout
    assert done.stdout.count("not run") > 20
    verdict = r"Not fit to run: counts would be lost, wrong or stuck. \d+ checks: \d+ ok, .*3 fatal, \d+ not known."
    assert re.fullmatch(verdict, done.stdout.splitlines()[-1])


def test_a_warning_fails_only_if_strict(system: System) -> None:
    unmapped = {"MYSQL__ROWS_MAX": "50000"}
    sound = system.tallyd("doctor", **unmapped)
    assert sound.returncode == 0
    assert re.fullmatch(r"Fit to run. \d+ checks: \d+ ok, \d+ warnings?.*", sound.stdout.splitlines()[-1])
    done = system.tallyd("doctor", "--strict", check=False, **unmapped)
    assert done.returncode == 1
    assert "0 fatal" in done.stderr


def test_a_wrong_configuration_is_wrong_usage(system: System) -> None:
    assert system.tallyd("doctor", check=False, REDIS__URL="", MONGO__URL="").returncode == 2


def test_it_changes_nothing(system: System) -> None:
    config = with_index(system)
    with system.ingest() as ingest:
        ingest.post(event())
    system.redis.hset("anl:{0}:replica", "not", "a sorted set")
    before = {key: system.redis.dump(key) for key in system.redis.scan_iter()}
    collections = set(system.mongo.list_collection_names())

    by_check(asyncio.run(checks.run_all(config)))

    assert {key: system.redis.dump(key) for key in system.redis.scan_iter()} == before
    assert set(system.mongo.list_collection_names()) == collections


# Redis ---------------------------------------------------------------------------------------------------------------


class Own(NamedTuple):
    """A Redis of the test's own, and the configuration that points to it."""

    server: RedisServer
    client: redis.Redis
    system: System

    def config(self, **env: str) -> Config:
        return self.system.config(**{"REDIS__URL": self.server.url, **env})

    def limited(self, *rights: str) -> str:
        """The address for a new user with these rights."""
        self.client.execute_command("ACL", "SETUSER", "limited", "on", ">secret", *rights)
        return self.server.url.replace("://", "://limited:secret@")

    def found(self, **env: str) -> Found:
        return redis_found(self.config(**env))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(7, tmp_path_factory.mktemp("doctor-redis"), "--appendonly", "yes") as started:
        yield started


RESET = {
    "maxmemory-policy": "noeviction", "maxmemory": "0", "appendonly": "yes", "appendfsync": "everysec", "save": "",
    "set-max-intset-entries": "512",
}  # fmt: skip


@pytest.fixture
def own(server: RedisServer, system: System) -> Iterator[Own]:
    with server.client() as client:
        client.flushall()
        yield Own(server, client, system)
        for name, value in RESET.items():
            client.config_set(name, value)
        client.execute_command("ACL", "DELUSER", "limited")


@pytest.mark.parametrize(
    ("setting", "value", "check", "severity", "fix"),
    [
        ("maxmemory-policy", "allkeys-lru", "redis.eviction", "fatal", "CONFIG SET maxmemory-policy noeviction"),
        ("maxmemory-policy", "volatile-ttl", "redis.eviction", "fatal", "CONFIG SET maxmemory-policy noeviction"),
        ("appendonly", "no", "redis.append_only", "warning", "CONFIG SET appendonly yes"),
        ("appendfsync", "no", "redis.append_only", "warning", "CONFIG SET appendfsync everysec"),
        ("appendfsync", "always", "redis.append_only", "ok", ""),
        ("set-max-intset-entries", "16", "redis.intset", "warning", "CONFIG SET set-max-intset-entries 512"),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_the_command_that_mends_it(
    own: Own, setting: str, value: str, check: str, severity: str, fix: str
) -> None:
    own.client.config_set(setting, value)
    found = own.found()
    assert found[check].severity == severity
    assert fix in found[check].fix
    others = {name for name, each in found.items() if each.severity != "ok"} - {check}
    assert others == set()


def test_a_window_of_more_ids_than_its_sets_are_laid_out_for_is_named(own: Own) -> None:
    shard = Shard(own.client, 0)
    shard.count(*(Ev(f"e{n}") for n in range(3_900)))
    assert own.found()["redis.dedupe"].severity == "ok"
    assert {own.client.object("encoding", key) for key in shard.keys("seen:")} == {b"intset"}
    shard.count(*(Ev(f"f{n}") for n in range(6_000)))
    found = own.found()["redis.dedupe"]
    assert (found.severity, "3,904" in found.found, "9,900" in found.found) == ("warning", True, True)
    assert b"hashtable" in {own.client.object("encoding", key) for key in shard.keys("seen:")}


def test_a_redis_that_is_full_is_fatal_and_refuses_the_scripts(own: Own) -> None:
    own.client.config_set("maxmemory", own.client.info("memory")["used_memory"] // 2)
    found = own.found()
    assert found["redis.memory"].severity == "fatal"
    assert found["redis.scripts"].severity == "fatal"
    assert "OOM" in found["redis.scripts"].found
    assert own.client.dbsize() == 0


def test_another_layout_is_fatal_and_says_what_would_agree(own: Own) -> None:
    own.client.hset("anl:layout", mapping={"format": "1", "shards": "4", "dedupe_window_s": "172800", "epoch": "7"})
    found = own.found()["redis.layout"]
    assert found.severity == "fatal"
    assert found.found == "shards is 4, configured is 1"
    assert found.fix.startswith("TALLYD_REDIS__SHARDS=4 ")
    assert own.found(REDIS__SHARDS="4")["redis.layout"].severity == "ok"


def test_a_layout_that_is_none_is_fatal(own: Own) -> None:
    own.client.set("anl:layout", "mine")
    assert own.found()["redis.layout"].severity == "fatal"


def test_a_user_without_rights_gets_the_command_that_grants_them(own: Own) -> None:
    url = own.limited("+ping")
    found = own.found(REDIS__URL=url)
    assert found["redis.version"].severity == "unknown"
    assert not [each for each in found.values() if "secret" in f"{each.found}{each.fix}"]
    for granted in ("+@all", "~anl:*"):  # the commands, then the keys
        assert found["redis.scripts"].severity == "fatal"
        words = found["redis.scripts"].fix.partition("ACL SETUSER ")[2].replace("'", "").split()
        assert granted in words
        own.client.execute_command("ACL", "SETUSER", *words)
        found = own.found(REDIS__URL=url)
    assert {name for name, each in found.items() if each.severity != "ok"} == set()


def test_a_wrong_password_is_one_fatal_finding(own: Own) -> None:
    found = own.found(REDIS__URL=own.limited("~*", "+@all").replace("secret", "wrong"))
    assert found["redis.reachable"].severity == "fatal"
    assert {each.severity for name, each in found.items() if name != "redis.reachable"} == {"unknown"}


def test_config_may_be_forbidden(own: Own) -> None:
    found = own.found(REDIS__URL=own.limited("~anl:*", "+@all", "-config"))
    unknown = {name for name, each in found.items() if each.severity == "unknown"}
    assert unknown == {"redis.append_only", "redis.snapshots", "redis.intset"}
    assert "CONFIG GET" in found["redis.intset"].found
    assert "fatal" not in {each.severity for each in found.values()}


def test_a_replica_is_fatal(own: Own, tmp_path: Path) -> None:
    with RedisServer(7, tmp_path, "--replicaof", "127.0.0.1", str(own.server.port)) as replica:
        found = own.found(REDIS__URL=replica.url)
        assert found["redis.role"].severity == "fatal"
        assert found["redis.role"].fix.endswith(f"TALLYD_REDIS__URL=redis://127.0.0.1:{own.server.port}/0")
        assert found["redis.scripts"].severity == "fatal"
        with pytest.raises(ConfigError, match="replica of"):
            asyncio.run(startup.check_ingest(own.config(REDIS__URL=replica.url)))


def test_a_snapshot_that_failed_is_fatal_where_it_stops_writes(system: System, tmp_path: Path) -> None:
    with RedisServer(7, tmp_path) as server, server.client() as client:
        shutil.rmtree(server.data)
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "the snapshot fails")
        config = system.config(REDIS__URL=server.url)
        assert redis_found(config)["redis.snapshots"].severity == "warning"
        client.config_set("save", "3600 1")
        found = redis_found(config)
        assert found["redis.snapshots"].severity == "fatal"
        assert "MISCONF" in found["redis.scripts"].found
        client.config_set("save", "")


def test_redis_6_is_enough(system: System, tmp_path: Path) -> None:
    with RedisServer(6, tmp_path, "--appendonly", "yes") as server:
        found = redis_found(system.config(REDIS__URL=server.url))
        assert {name for name, each in found.items() if each.severity != "ok"} == set()


def test_a_cluster_has_to_be_one_node_for_all_shards(system: System, tmp_path: Path) -> None:
    with RedisServer(7, tmp_path, "--cluster-enabled", "yes") as server, server.client() as client:
        config = system.config(REDIS__URL=server.url, REDIS__SHARDS="3")
        assert redis_found(config)["redis.nodes"].severity == "fatal"
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"), "the cluster is up")
        found = redis_found(config)
        assert found["redis.cluster"].severity == "ok"
        assert found["redis.scripts"].severity == "ok"


# MongoDB -------------------------------------------------------------------------------------------------------------


def test_indexes_are_missing_until_the_first_flush(system: System) -> None:
    missing = mongo_found(system.config())["mongo.indexes"]
    assert missing.severity == "warning"
    assert missing.fix == "tallyd flush --once"
    assert mongo_found(with_index(system))["mongo.indexes"].severity == "ok"

    system.mongo.analytics_entity_daily.drop_index("natural_key")
    missing = mongo_found(system.config())["mongo.indexes"]
    assert missing.found == "missing: analytics_entity_daily (domain, entity_type, entity_id, date)"


def test_a_natural_key_that_is_not_unique_is_fatal(system: System) -> None:
    config = with_index(system)
    totals = system.mongo.analytics_entity_totals
    totals.drop_index("natural_key")
    totals.create_index([("domain", 1), ("entity_type", 1), ("entity_id", 1)], name="natural_key")
    found = mongo_found(config)["mongo.indexes"]
    assert found.severity == "fatal"
    assert 'db.analytics_entity_totals.dropIndex("natural_key")' in found.fix
    with pytest.raises(ConfigError, match="not unique"):
        asyncio.run(startup.check_flush(config))

    totals.drop_index("natural_key")
    assert mongo_found(with_index(system))["mongo.indexes"].severity == "ok"


def test_a_write_that_fails_is_fatal(system: System) -> None:
    system.mongo.command("create", DOCTOR, viewOn="analytics_entity_totals", pipeline=[])
    found = mongo_found(system.config())["mongo.write"]
    assert found.severity == "fatal"
    assert "view" in found.found


def test_dead_letters_are_a_warning_until_they_are_dropped(system: System) -> None:
    system.mongo.analytics_dead_letters.insert_one({"_id": "0:1:x:y", "shard": 0, "seq": 1})
    assert mongo_found(system.config())["mongo.dead_letters"].severity == "warning"
    system.mongo.analytics_dead_letters.update_one({}, {"$set": {"dropped_at": 1}})
    assert mongo_found(system.config())["mongo.dead_letters"].severity == "ok"


# MySQL ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "check", "severity", "fix"),
    [
        ("DROP TABLE jav", "table", "fatal", "GRANT SELECT (`uuid`, `views`, `downloads`, `code`)"),
        ("ALTER TABLE jav RENAME COLUMN uuid TO u", "key", "fatal", "correct replica.jav.movie.key: id, u, code"),
        ("ALTER TABLE jav DROP INDEX uuid", "key", "fatal", "ALTER TABLE `jav` ADD UNIQUE KEY (`uuid`)"),
        ("ALTER TABLE jav DROP INDEX uuid, ADD INDEX (uuid)", "key", "warning", "ADD UNIQUE KEY (`uuid`)"),
        ("ALTER TABLE jav DROP INDEX uuid, ADD UNIQUE (uuid, code)", "key", "warning", "ADD UNIQUE KEY (`uuid`)"),
        ("ALTER TABLE jav DROP INDEX uuid, ADD UNIQUE (uuid(8))", "key", "warning", "ADD UNIQUE KEY (`uuid`)"),
        ("ALTER TABLE jav MODIFY uuid BINARY(16)", "key", "fatal", "characters or integers"),
        ("ALTER TABLE jav DROP COLUMN views", "columns", "fatal", "ADD COLUMN `views` BIGINT UNSIGNED"),
        ("ALTER TABLE jav MODIFY views VARCHAR(20)", "columns", "fatal", "MODIFY `views` BIGINT UNSIGNED"),
        ("ALTER TABLE jav MODIFY views INT, MODIFY downloads SMALLINT", "columns", "warning", "MODIFY `downloads`"),
        ("ALTER TABLE jav MODIFY views DOUBLE", "columns", "warning", "MODIFY `views` BIGINT UNSIGNED"),
        ("ALTER TABLE jav DROP views, ADD views BIGINT AS (downloads) STORED", "columns", "fatal", "MODIFY `views`"),
        ("ALTER TABLE jav DROP COLUMN code", "reported", "warning", "correct replica.jav.movie.label"),
    ],
)
def test_a_table_that_does_not_fit_is_named_with_the_statement_that_mends_it(
    system: System, statement: str, check: str, severity: str, fix: str
) -> None:
    system.sql(statement)
    found = mysql_found(system.config())
    assert found[f"mysql.{check}.jav.movie"].severity == severity, found
    assert fix in found[f"mysql.{check}.jav.movie"].fix
    if severity != "fatal":
        assert {name for name, each in found.items() if each.severity == "fatal"} == set()
    asyncio.run(startup.check_flush(with_index(system)))  # MongoDB does not wait for MySQL


def test_the_grant_names_the_columns_and_suffices_for_all_that_tallyd_does(system: System) -> None:
    user = f"u{system.database[:12]}"
    system.sql(f"CREATE USER '{user}'@'127.0.0.1' IDENTIFIED BY 'secret'", database="")
    system.sql("ALTER TABLE jav ADD title VARCHAR(99)")
    try:
        system.sql(f"GRANT SELECT ON `{system.database}`.* TO '{user}'@'127.0.0.1'", database="")
        mapping = {"table": "jav", "key": "uuid", "columns": {"view": "views"}, "enrich": ["title"], "label": "code"}
        system.env |= {
            "TALLYD_MYSQL__URL": system.env["TALLYD_MYSQL__URL"].replace("root@", f"{user}:secret@"),
            "TALLYD_REPLICA__JAV__MOVIE": json.dumps(mapping),
        }
        found = mysql_found(system.config())["mysql.update.jav.movie"]
        assert found.severity == "fatal"
        assert found.fix == (
            "GRANT SELECT (`uuid`, `views`, `code`, `title`), UPDATE (`views`)"
            f" ON `{system.database}`.`jav` TO '{user}'@'127.0.0.1'"
        )
        system.sql(f"REVOKE SELECT ON `{system.database}`.* FROM '{user}'@'127.0.0.1'", database="")
        system.sql(found.fix, database="")
        assert {name for name, each in mysql_found(system.config()).items() if each.severity == "fatal"} == set()

        system.add_movies("a", "b")
        system.count(event(entity_id="a"))
        assert system.flush().rows == 1
        for command in (["backfill"], ["backfill", "--reconcile"], ["audit", "--repair-replica"], ["parity-check"]):
            system.tallyd(*command)
    finally:
        system.sql(f"DROP USER '{user}'@'127.0.0.1'", database="")


def test_a_mapping_that_ended_is_fatal(system: System) -> None:
    """The built-in mapping holds only while the domains are the built-in ones."""
    found = mysql_found(system.config(DOMAINS='{"shop": {"entity_types": ["article"]}}'))["mysql.replica"]
    assert found.severity == "fatal"
    assert "[replica.DOMAIN.TYPE]" in found.fix


def test_the_types_without_a_table_are_named(system: System) -> None:
    found = mysql_found(system.config())["mysql.replica"]
    assert (found.severity, found.found) == ("ok", "jav.movie → jav; no table: jav.actor, jav.tag")


@pytest.mark.parametrize(
    ("variable", "value", "check", "severity"),
    [
        ("read_only", "1", "mysql.read_only", "fatal"),
        ("sql_mode", "''", "mysql.sql_mode", "warning"),
        ("max_allowed_packet", "524288", "mysql.packet", "warning"),
    ],
)
def test_a_variable_that_is_wrong_is_found(
    system: System, variable: str, value: str, check: str, severity: str
) -> None:
    [(before,)] = system.sql(f"SELECT @@GLOBAL.{variable}")
    system.sql(f"SET GLOBAL {variable} = {value}")
    try:
        assert mysql_found(system.config())[check].severity == severity
    finally:
        restored = f"'{before}'" if isinstance(before, str) else str(before)
        system.sql(f"SET GLOBAL {variable} = {restored}")


@pytest.mark.parametrize(
    "declared",
    ["CHAR(36)", "VARCHAR(64) CHARACTER SET latin1 COLLATE latin1_bin", "BIGINT UNSIGNED", "INT", "UUID"],
)
def test_the_key_is_declared_as_the_sink_declares_it(system: System, declared: str) -> None:
    system.sql(f"ALTER TABLE jav MODIFY uuid {declared}")
    config = system.config()

    async def both() -> tuple[KeyColumn, KeyColumn]:
        facts = await read_mysql(config, timeout_ms=5_000, probe=True)
        [(mapping, table)] = facts.tables.values()
        assert table is not None
        assert table.refused is None
        key = table.column(mapping.key)
        assert key is not None
        found = KeyColumn(key.data_type, key.charset, key.collation)
        async with MysqlSink(config.mysql) as sink:
            return found, await sink._key(replica_tables(config)["jav", "movie"])

    ours, theirs = asyncio.run(both())
    assert ours == theirs


def test_without_mysql_nothing_is_wrong(system: System) -> None:
    [(name, finding)] = mysql_found(system.config(MYSQL__URL="")).items()
    assert (name, finding.severity) == ("mysql.reachable", "ok")


# Starting ------------------------------------------------------------------------------------------------------------


def test_the_daemons_start_on_a_sound_system(system: System) -> None:
    assert {each.severity for each in asyncio.run(startup.check_ingest(system.config()))} == {"ok"}
    assert {each.severity for each in asyncio.run(startup.check_flush(with_index(system)))} == {"ok"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_store_that_is_away_is_no_reason_not_to_start(system: System) -> None:
    away = {
        "REDIS__URL": f"redis://{CLOSED}",
        "MONGO__URL": f"mongodb://{CLOSED}/x",
        "MYSQL__URL": f"mysql://{CLOSED}/x",
    }
    config = system.config(**away, MONGO__TIMEOUT_MS="300")
    assert asyncio.run(startup.check_ingest(config)) == []
    assert asyncio.run(startup.check_flush(config)) == []
    gc.collect()  # pymongo, closed while it tries to connect, leaves a socket behind: let it complain here


@pytest.mark.parametrize("command", ["ingest", "flush"])
def test_a_daemon_refuses_to_count_into_a_redis_that_forgets(own: Own, system: System, command: str) -> None:
    own.client.config_set("maxmemory-policy", "allkeys-lru")
    port = {"HTTP__PORT": str(process.free_port())}
    done = system.tallyd(command, check=False, REDIS__URL=own.server.url, **port)
    assert done.returncode == 2
    assert "redis.eviction: maxmemory-policy is allkeys-lru" in done.stderr
    assert "CONFIG SET maxmemory-policy noeviction" in done.stderr
    assert "Traceback" not in done.stderr
    assert own.client.dbsize() == 0


def test_redis_is_not_asked_for_more_than_it_may_tell(own: Own) -> None:
    """At start-up, too, a user with few rights is no misconfiguration by itself."""
    config = own.config(REDIS__URL=own.limited("~anl:*", "+@all", "-@dangerous"))
    findings = by_check(asyncio.run(startup.check_ingest(config)))
    assert findings["redis.eviction"].severity == "unknown"
    assert findings["redis.layout"].severity == "ok"
