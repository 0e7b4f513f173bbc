"""Checks the tables that the totals are copied to. Plain functions; `CHECKS` lists them. Each runs for each table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from daemon.config import ReplicaTable
from daemon.doctor import grants
from daemon.doctor.finding import Finding, Verdict, fatal, ok, run_checks, unknown, warning
from daemon.doctor.mysql_facts import Column, MysqlFacts, Table
from daemon.replica.sql import INTEGER_TYPES, LABEL_TYPES

SCAN_ROWS_MIN = 1_000
"""For a table of fewer rows, reading it whole may rightly be the server's plan."""
INTEGER_LIMITS = {"tinyint": 127, "smallint": 32_767, "mediumint": 8_388_607, "int": 2_147_483_647}
"""Of signed columns. Unsigned ones reach twice as far, and one more."""
DECIMAL_DIGITS_MIN = 19
TEXT_KEY_TYPES = frozenset({"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "uuid", "varbinary"})


class Mapped(NamedTuple):
    """One mapped table, as configured and as found."""

    facts: MysqlFacts
    name: str
    """`domain.type`."""
    mapping: ReplicaTable
    table: Table


def present(of: Mapped) -> Verdict:
    return ok(f"{of.table.kind.lower()}, {of.table.engine}, about {of.table.rows:,} rows")


def key(of: Mapped) -> Verdict:
    column, table = of.table.column(of.mapping.key), f"`{of.mapping.table}`"
    if column is None:
        return fatal(
            f"{of.mapping.table} has no column {of.mapping.key}",
            f"Without the key column, no row of {of.name} can be found.",
            f"correct replica.{of.name}.key: {', '.join(c.name for c in of.table.columns.values())}",
        )
    if column.data_type not in TEXT_KEY_TYPES | INTEGER_TYPES:
        return fatal(
            f"{column.name} is {column.declared}",
            "Entity ids are text or whole numbers. None equals such a key.",
            f"name a column of characters or integers in replica.{of.name}.key",
        )
    name = column.name.lower()
    if any(index.unique and index.columns == (name,) for index in of.table.indexes):
        return ok(f"{column.name} {column.declared}, unique")
    fix = f"ALTER TABLE {table} ADD UNIQUE KEY (`{column.name}`)"
    leading = [index.name for index in of.table.indexes if index.columns[0].partition("(")[0] == name]
    if leading:
        return warning(
            f"{column.name} has an index ({leading[0]}), but it is not unique by itself",
            "Two rows may have the same id. Both then get its totals, and a sum over the table is too large.",
            fix,
        )
    return fatal(
        f"{column.name} has no index", "For every row that is set, the server reads and locks the whole table.", fix
    )


def columns(of: Mapped) -> Verdict:
    missing = [column for column in of.mapping.columns.values() if of.table.column(column) is None]
    if missing:
        adds = ", ".join(f"ADD COLUMN `{name}` BIGINT UNSIGNED NOT NULL DEFAULT 0" for name in missing)
        return fatal(
            f"{of.mapping.table} has no column {', '.join(missing)}",
            f"The totals of {of.name} cannot be written.",
            f"ALTER TABLE `{of.mapping.table}` {adds}; or correct replica.{of.name}.columns",
        )
    present = [column for name in of.mapping.columns.values() if (column := of.table.column(name)) is not None]
    verdicts = [_column(of, column) for column in present]
    for severity in ("fatal", "warning"):
        worst = [verdict for verdict in verdicts if verdict.severity == severity]
        if worst:
            return worst[0]._replace(
                found="; ".join(verdict.found for verdict in worst), fix="; ".join(verdict.fix for verdict in worst)
            )
    return ok(", ".join(verdict.found for verdict in verdicts))


def _column(of: Mapped, column: Column) -> Verdict:
    found = f"{column.name} {column.declared}"
    fix = f"ALTER TABLE `{of.mapping.table}` MODIFY `{column.name}` BIGINT UNSIGNED NOT NULL DEFAULT 0"
    if "GENERATED" in column.extra.upper() and "DEFAULT_GENERATED" not in column.extra.upper():
        return fatal(f"{found} is generated", "The server computes such a column: nobody can set it.", fix)
    if column.data_type == "bigint":
        return ok(found)
    if column.data_type in INTEGER_LIMITS:
        largest = INTEGER_LIMITS[column.data_type] * (2 if "unsigned" in column.declared.lower() else 1)
        return warning(
            f"{found} ends at about {largest:,}",
            "A larger total is refused (or cut off, if sql_mode is not strict): the row is wrong for ever.",
            fix,
        )
    if column.data_type == "decimal":
        if not column.scale and (column.precision or 0) >= DECIMAL_DIGITS_MIN:
            return ok(found)
        why = "A larger total is refused: the row is wrong for ever."
        return warning(f"{found} has room for few digits", why, fix)
    if column.data_type in ("float", "double"):
        return warning(f"{found} is not exact", "From 2^24 (float) or 2^53 (double) on, numbers are rounded.", fix)
    return fatal(f"{found} is no number", "A total is a whole number.", fix)


def update(of: Mapped) -> Verdict:
    if of.table.refused is not None:
        return fatal(
            of.table.refused,
            f"The server refuses the UPDATE that {of.facts.user} sends for {of.name}: no column is set.",
            _grant(of.facts, of.mapping),
        )
    if any(of.table.column(name) is None for name in (of.mapping.key, *of.mapping.columns.values())):
        return unknown("not run: a column is missing", "", "")
    if of.table.scans and of.table.rows >= SCAN_ROWS_MIN:
        return warning(
            f"the server would read all {of.table.rows:,} rows",
            "Each UPDATE takes as long as reading the whole table.",
            f"ANALYZE TABLE `{of.mapping.table}`; and see mysql.key.{of.name}",
        )
    return ok(f"{of.facts.user} may make it")


def reported(of: Mapped) -> Verdict:
    """The columns that are only read: the label in reports, and the application's own columns."""
    label = [of.mapping.label] if of.mapping.label else []
    names = [*label, *of.mapping.shadow.values()]
    missing = [name for name in names if of.table.column(name) is None]
    if missing:
        return warning(
            f"{of.mapping.table} has no column {', '.join(missing)}",
            "`tallyd parity-check`, `report` and `shadow-compare` cannot read the table.",
            f"correct replica.{of.name}.label or .shadow: {', '.join(c.name for c in of.table.columns.values())}",
        )
    return ok(", ".join(names) or "none")


def searched(of: Mapped) -> Verdict:
    """The columns that reads ask for: entities by their label, and the columns beside their counts."""
    missing = [name for name in of.mapping.enrich if of.table.column(name) is None]
    if missing:
        return warning(
            f"{of.mapping.table} has no column {', '.join(missing)}",
            "Reads with enrich=1 have no columns of the row.",
            f"correct replica.{of.name}.enrich: {', '.join(c.name for c in of.table.columns.values())}",
        )
    column = of.table.column(of.mapping.label) if of.mapping.label else None
    if column is None:
        return ok("no label")
    if column.data_type not in LABEL_TYPES:
        return ok(f"{column.name} is {column.declared}, so GET entities?label=… is refused")
    if any(index.columns[0] == column.name.lower() for index in of.table.indexes):
        return ok(f"{column.name} has an index")
    table = of.mapping.table
    return ok(
        f"{column.name} has no index, so GET entities?label=… is refused."
        f" To have it: CREATE INDEX `{table}_{column.name}` ON `{table}` (`{column.name}`)"
    )


CHECKS: Mapping[str, Callable[[Mapped], Verdict]] = {
    "mysql.table": present,
    "mysql.key": key,
    "mysql.columns": columns,
    "mysql.reported": reported,
    "mysql.searched": searched,
    "mysql.update": update,
}


def check_tables(facts: MysqlFacts) -> list[Finding]:
    """Runs these checks for each mapped table. A finding's name ends in its domain and type."""
    findings = []
    for name, (mapping, table) in facts.tables.items():
        if table is not None:
            checks = {f"{check}.{name}": function for check, function in CHECKS.items()}
            findings += run_checks(checks, Mapped(facts, name, mapping, table))
            continue
        first, *others = CHECKS
        missing = fatal(
            f"{facts.database} has no table {mapping.table}, or {facts.user} may not see it",
            f"The totals of {name} cannot be written, nor those of the types after it.",
            f"{_grant(facts, mapping)}; or create the table; or correct replica.{name}.table",
        )
        findings.append(Finding(f"{first}.{name}", *missing))
        not_run = f"not run: there is no table {mapping.table}"
        findings += [Finding(f"{check}.{name}", "unknown", not_run) for check in others]
    return findings


def _grant(facts: MysqlFacts, mapping: ReplicaTable) -> str:
    name, _, host = facts.user.rpartition("@")
    return grants.columns(facts.database, (name, host), mapping)
