"""Judges what a MySQL or MariaDB said of itself. Plain functions; `CHECKS` is the list of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from daemon.doctor import version
from daemon.doctor.clock import NO_LIMIT_S, judge_clock
from daemon.doctor.finding import Verdict, fatal, ok, warning
from daemon.doctor.mysql_facts import MysqlFacts

MYSQL_MIN = (8, 0, 4)
MARIADB_MIN = (10, 6, 0)
"""Both: JSON_TABLE came with it."""

ID_BYTES_MAX = 255 * 4
"""Of an entity id in the statement: 255 characters, each at most four bytes, or one that is escaped twice."""
ID_BYTES_USUAL = 36 + 4
"""A UUID, with its quotes escaped."""
ROW_BYTES = 8
"""Quotes (escaped), brackets and a comma."""
TOTAL_BYTES = 21
"""The longest total and its comma."""
STATEMENT_BYTES = 4_096
"""The rest of the statement."""


def release(facts: MysqlFacts) -> Verdict:
    name, oldest = ("MariaDB", MARIADB_MIN) if "mariadb" in facts.release.lower() else ("MySQL", MYSQL_MIN)
    if version.parse(facts.release) >= oldest:
        return ok(f"{name} {facts.release}")
    return fatal(
        f"{name} {facts.release}, older than {version.dotted(oldest)}",
        "It has no JSON_TABLE, in which the totals are sent: no column would be set.",
        "upgrade to MySQL 8.0.4 or MariaDB 10.6, or later; or leave mysql.url empty",
    )


def json_table(facts: MysqlFacts) -> Verdict:
    if facts.json_table_error is None:
        return ok("works")
    return fatal(
        facts.json_table_error,
        "The totals are sent in a JSON_TABLE: no column would be set.",
        "upgrade to MySQL 8.0.4 or MariaDB 10.6, or later; or leave mysql.url empty",
    )


def writable(facts: MysqlFacts) -> Verdict:
    if not facts.read_only:
        return ok("read_only is off")
    return fatal(
        "read_only is on",
        "A replica, or closed for writing: no column is set; a user who may write all the same makes it differ.",
        "set mysql.url to the primary; if this is it: SET GLOBAL read_only = OFF",
    )


def strict(facts: MysqlFacts) -> Verdict:
    if "STRICT_TRANS_TABLES" in facts.sql_mode or "STRICT_ALL_TABLES" in facts.sql_mode:
        return ok(facts.sql_mode)
    return warning(
        f"sql_mode '{facts.sql_mode}' is not strict",
        "A total that is too large for its column is cut to the largest that fits, without a word.",
        "SET GLOBAL sql_mode = CONCAT('STRICT_TRANS_TABLES,', @@GLOBAL.sql_mode)",
    )


def packet(facts: MysqlFacts) -> Verdict:
    rows = facts.config.mysql.rows_max
    counters = max((len(mapping.columns) for mapping, _ in facts.tables.values()), default=1)
    row_bytes = ID_BYTES_MAX + ROW_BYTES + TOTAL_BYTES * counters
    usual = rows * (ID_BYTES_USUAL + ROW_BYTES + TOTAL_BYTES * counters) + STATEMENT_BYTES
    needed = rows * row_bytes + STATEMENT_BYTES
    if facts.packet_bytes >= needed:
        return ok(f"{facts.packet_bytes:,} bytes; {rows:,} rows (mysql.rows_max) need {needed:,} at most")
    fits = max(1, (facts.packet_bytes - STATEMENT_BYTES) // row_bytes)
    found = f"max_allowed_packet is {facts.packet_bytes:,} bytes; {rows:,} rows (mysql.rows_max) can need {needed:,}"
    why = "The server refuses a statement that is larger, each time it is tried: MySQL falls behind for good."
    rounded = -(-needed // 2**20) * 2**20
    fix = f"SET GLOBAL max_allowed_packet = {rounded}, and in my.cnf; or TALLYD_MYSQL__ROWS_MAX={fits}"
    return fatal(found, why, fix) if facts.packet_bytes < usual else warning(found, f"Only if ids are long. {why}", fix)


def lock(facts: MysqlFacts) -> Verdict:
    if facts.lock_error is None:
        return ok("works")
    return fatal(
        f"GET_LOCK: {facts.lock_error}",
        "Two flushers would overwrite newer totals with older ones, so none begins without it.",
        "use a server with GET_LOCK; a proxy in between must keep a session on one server",
    )


def clock(facts: MysqlFacts) -> Verdict:
    return judge_clock(facts.clock, "tallyd doesn't use MySQL's clock, but your application may.", NO_LIMIT_S)


def mapped(facts: MysqlFacts) -> Verdict:
    if facts.tables:
        return ok(", ".join(f"{name} → {mapping.table}" for name, (mapping, _) in facts.tables.items()))
    return warning(
        "mysql.url is set, but no entity type is mapped to a table",
        "Nothing is written there.",
        "add a [replica.DOMAIN.TYPE] table to the configuration, or leave mysql.url empty",
    )


CHECKS: Mapping[str, Callable[[MysqlFacts], Verdict]] = {
    "mysql.version": release,
    "mysql.json_table": json_table,
    "mysql.read_only": writable,
    "mysql.sql_mode": strict,
    "mysql.packet": packet,
    "mysql.lock": lock,
    "mysql.clock": clock,
    "mysql.replica": mapped,
}
