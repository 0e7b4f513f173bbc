"""Checks what MySQL or MariaDB said about itself. Plain functions; `CHECKS` lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from daemon.config import unmapped_types
from daemon.doctor import version
from daemon.doctor.clock import NO_LIMIT_S, check_clock
from daemon.doctor.finding import Verdict, fatal, ok, warning
from daemon.doctor.mysql_facts import MysqlFacts

MYSQL_MIN = (8, 0, 4)
MARIADB_MIN = (10, 6, 0)
"""Both are the first with JSON_TABLE."""

PACKET_BYTES_MIN = 2**20
"""Room for 5,000 rows with UUIDs and two counters."""
UPGRADE = "upgrade to MySQL 8.0.4 or MariaDB 10.6, or later; or leave mysql.url empty"


def release(facts: MysqlFacts) -> Verdict:
    name, oldest = ("MariaDB", MARIADB_MIN) if "mariadb" in facts.release.lower() else ("MySQL", MYSQL_MIN)
    if version.parse(facts.release) >= oldest:
        return ok(f"{name} {facts.release}")
    return fatal(
        f"{name} {facts.release}, older than {version.dotted(oldest)}",
        "tallyd sends the totals in a JSON_TABLE, which this server lacks: no column would be set.",
        UPGRADE,
    )


def json_table(facts: MysqlFacts) -> Verdict:
    if facts.json_table_error is None:
        return ok("works")
    return fatal(facts.json_table_error, "tallyd sends the totals in a JSON_TABLE: no column would be set.", UPGRADE)


def writable(facts: MysqlFacts) -> Verdict:
    if not facts.read_only:
        return ok("read_only is off")
    return fatal(
        "read_only is on",
        "This is a replica, or closed for writing: no column is set. A user who may still write makes it differ.",
        "set mysql.url to the primary; if this is it: SET GLOBAL read_only = OFF",
    )


def strict(facts: MysqlFacts) -> Verdict:
    if "STRICT_TRANS_TABLES" in facts.sql_mode or "STRICT_ALL_TABLES" in facts.sql_mode:
        return ok(facts.sql_mode)
    return warning(
        f"sql_mode '{facts.sql_mode}' is not strict",
        "A total too large for its column is cut off silently.",
        "SET GLOBAL sql_mode = CONCAT('STRICT_TRANS_TABLES,', @@GLOBAL.sql_mode)",
    )


def packet(facts: MysqlFacts) -> Verdict:
    if facts.packet_bytes >= PACKET_BYTES_MIN:
        return ok(f"{facts.packet_bytes:,} bytes; what needs more is sent in several statements")
    return warning(
        f"max_allowed_packet is {facts.packet_bytes:,} bytes",
        "So few rows fit into one statement that MySQL may not keep up.",
        f"SET GLOBAL max_allowed_packet = {PACKET_BYTES_MIN}, and in my.cnf",
    )


def lock(facts: MysqlFacts) -> Verdict:
    if facts.lock_error is None:
        return ok("works")
    return fatal(
        f"GET_LOCK: {facts.lock_error}",
        "Without the lock, two flushers would overwrite newer totals with older ones, so no row is set.",
        "use a server with GET_LOCK; a proxy before it must keep a session on one server",
    )


def writer(facts: MysqlFacts) -> Verdict:
    if not facts.cluster_nodes:
        return ok("no Galera cluster")
    reached = ", ".join(sorted(facts.nodes_reached))
    if not facts.cluster_ready:
        return fatal(
            f"node {reached} of a Galera cluster is not one of its majority",
            "It takes no statement about a table: no column is set.",
            "start the other nodes; if they are gone for good: SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'",
        )
    if len(facts.nodes_reached) == 1:
        return ok(f"node {reached} of a Galera cluster of {facts.cluster_nodes} took all connections")
    return fatal(
        f"connections to this address reach several nodes of a Galera cluster: {reached}",
        "Each node gives the lock on its own. Two flushers could overwrite newer totals with older ones.",
        "name the writer in mysql.url: the node your application writes to, or a proxy that sends all to that node",
    )


def clock(facts: MysqlFacts) -> Verdict:
    return check_clock(facts.clock, "Your application may use MySQL's clock; tallyd does not.", NO_LIMIT_S)


def mapped(facts: MysqlFacts) -> Verdict:
    if not facts.tables:
        return fatal(
            "mysql.url is set, but no entity type is mapped to a table",
            "No column is written. The built-in mapping ends with the first domain or type of your own.",
            "add a [replica.DOMAIN.TYPE] table to the configuration, or leave mysql.url empty",
        )
    told = ", ".join(f"{name} → {mapping.table}" for name, (mapping, _) in facts.tables.items())
    without = unmapped_types(facts.config)
    return ok(f"{told}; no table: {', '.join(without)}" if without else told)


CHECKS: Mapping[str, Callable[[MysqlFacts], Verdict]] = {
    "mysql.version": release,
    "mysql.json_table": json_table,
    "mysql.read_only": writable,
    "mysql.sql_mode": strict,
    "mysql.packet": packet,
    "mysql.lock": lock,
    "mysql.writer": writer,
    "mysql.clock": clock,
    "mysql.replica": mapped,
}
