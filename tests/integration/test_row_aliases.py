"""An id that is not a row's key, byte for byte, never touches that row: on each kind of key column that MySQL compares
by rules of its own. Such an id is counted, and is missing in MySQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from daemon.config import replica_tables
from daemon.move.backfill.run import ALIASED
from daemon.replica.mysql import MysqlSink
from tests.kit.system import System, event
from tests.kit.takeover import audited, backfill, bases

ONE_SYSTEM = True

REAL = "2955a473-1c2b-4d3e-8f10-a1b2c3d4e5f6"
KINDS = {
    "unicode_ci": "VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci",
    "uca1400_ai_ci": "VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_uca1400_ai_ci",
    "general_ci": "VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
    "latin1": "VARCHAR(64) CHARACTER SET latin1 COLLATE latin1_swedish_ci",
    "utf8mb4_bin": "VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "UUID": "UUID",
    "nopad_bin": "VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
    "VARBINARY": "VARBINARY(255)",
    "BIGINT": "BIGINT",
    "CHAR": "CHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci",
    "utf8mb3": "VARCHAR(64) CHARACTER SET utf8mb3 COLLATE utf8mb3_general_ci",
}
NOT_IN_EVERY_CHARSET = {"latin1": "茶", "utf8mb3": "😀"}
"""MySQL makes "?" of a character that the column lacks."""


def real_id(kind: str) -> str:
    if kind == "BIGINT":
        return "42"
    return "caf?-" + REAL[5:] if kind in NOT_IN_EVERY_CHARSET else REAL


def aliases(kind: str) -> list[str]:
    """Ids that some kind of column takes for the real one, or might."""
    id_ = real_id(kind)
    found = [
        id_.upper(), f"{id_} ", f"{id_}   ", id_.replace("a", "á"), f"{id_}\u00a0", id_.replace("2", "\uff12"),
        f"\u200b{id_}", f"{id_}\u00ad", id_.replace("-", ""), f"{{{id_}}}", f"0{id_}", f"+{id_}", f"{id_}.0",
        id_.replace("?", NOT_IN_EVERY_CHARSET.get(kind, "?")),
    ]  # fmt: skip
    return [each for each in dict.fromkeys(found) if each != id_]


class Keyed:
    """A table with a key column of one kind, and one row that says 1,000."""

    def __init__(self, system: System, kind: str) -> None:
        self.system = system
        self.real, self.aliases = real_id(kind), aliases(kind)
        table = {"table": "keyed", "key": "k", "columns": {"view": "views"}, "enrich": ["title"]}
        system.env["TALLYD_REPLICA__JAV__MOVIE"] = json.dumps(table)
        system.sql("DROP TABLE IF EXISTS keyed")
        system.sql(
            f"CREATE TABLE keyed (k {KINDS[kind]} NOT NULL UNIQUE, views BIGINT UNSIGNED NOT NULL, title VARCHAR(64))"
        )
        system.sql("INSERT INTO keyed VALUES (%s, 1000, 'Real')", self.real)

    def column(self) -> int:
        ((views,),) = self.system.sql("SELECT views FROM keyed")
        return int(views)

    def count(self, real: int, *, of_each_alias: int) -> None:
        """Counts and flushes in one claim, so in one batch of rows."""
        ids = [self.real] * real + self.aliases * of_each_alias
        if ids:
            self.system.count(*(event(entity_id=id_) for id_ in ids))
            done = self.system.flush()
            assert done.replica_error is None
            assert (done.rows, done.missing, done.refused) == (
                bool(real), len(self.aliases) * bool(of_each_alias), 0
            )  # fmt: skip

    def check(self, column: int) -> None:
        """The column is right, the audit is exact and finds nothing, and the aliases are shown as missing."""
        assert self.column() == column
        assert audited(self.system) == set()
        report = self.system.audit()
        assert report["rows_missing"] == len(self.aliases)
        assert report["rows_pending"] == 0
        assert "times MySQL had no row for an entity" in self.system.tallyd_here("status")[1]
        exit_code, printed = self.system.tallyd_here("parity-check", "--all", "--json")
        assert exit_code == 0
        assert json.loads(printed)["types"][0]["missing"] == len(self.aliases)
        assert bases(self.system).keys() == {f"jav:movie:{self.real}"}


@pytest.fixture(params=KINDS)
def keyed(system: System, request: pytest.FixtureRequest) -> Iterator[Keyed]:
    yield Keyed(system, request.param)
    system.sql("DROP TABLE keyed")


def test_an_alias_moves_no_row_before_between_and_after_the_real_id(keyed: Keyed) -> None:
    keyed.count(0, of_each_alias=1)
    assert keyed.column() == 1_000
    keyed.count(20, of_each_alias=0)
    keyed.count(0, of_each_alias=1)
    assert keyed.column() == 1_020
    keyed.count(20, of_each_alias=0)
    keyed.count(0, of_each_alias=1)
    keyed.check(1_040)


def test_real_and_alias_in_one_batch_then_a_repair_and_a_way_back_and_forth(keyed: Keyed) -> None:
    """What was counted under an alias never gets into the base of the row."""
    keyed.count(10, of_each_alias=5)
    assert keyed.column() == 1_010
    for _ in range(2):
        assert audited(keyed.system, "--repair-replica") == set()
    keyed.system.sql("UPDATE keyed SET views = views + 7")  # the application, while tallyd is off
    assert backfill(keyed.system, reconcile=True, ENABLED="false").tables[0].problems == 0
    assert bases(keyed.system) == {f"jav:movie:{keyed.real}": {"view": 1_007}}
    keyed.count(3, of_each_alias=1)
    keyed.check(1_020)


def test_rows_are_read_by_their_own_ids_only(keyed: Keyed) -> None:
    config = keyed.system.config()
    table = replica_tables(config)["jav", "movie"]

    async def work() -> tuple[object, object]:
        async with MysqlSink(config.mysql) as mysql:
            ids = [*keyed.aliases, keyed.real]
            return await mysql.read(table, ids), await mysql.describe(table, ids)

    assert asyncio.run(work()) == ({keyed.real: {"view": 1_000}}, {keyed.real: {"title": "Real"}})


@pytest.fixture
def written_by_an_alias(system: System) -> Iterator[System]:
    """What a former version left: of 40 real views and 2 of an alias, the alias' sync came last."""
    keyed = Keyed(system, "unicode_ci")
    keyed.count(40, of_each_alias=0)
    system.count(*(event(entity_id=REAL.upper()) for _ in range(2)))
    system.flush()
    system.mongo["analytics_entity_totals"].update_one(
        {"_id": f"jav:movie:{REAL.upper()}"}, {"$set": {"base": {"view": 1_020}, "synced": {"view": 2}}}
    )
    system.sql("UPDATE keyed SET views = 1022")
    yield system
    system.sql("DROP TABLE keyed")


def test_an_alias_that_wrote_a_row_in_a_former_version_is_named_and_mended(written_by_an_alias: System) -> None:
    system, alias = written_by_an_alias, f"jav:movie:{REAL.upper()}"
    report = system.audit(check=False)
    assert {(found["law"], found["difference"]) for found in report["broken"]} == {("alias", 1_020), ("replica", -18)}
    (named,) = [found["detail"] for found in report["broken"] if found["law"] == "alias"]
    assert named.startswith(f"{alias}: its base is of the row of jav:movie:{REAL}")
    assert "--repair-replica" in named

    report = system.audit("--repair-replica")
    assert (report["repaired"], report["aliases_mended"]) == (1, 1)
    assert system.sql("SELECT views FROM keyed") == [(1_040,)]
    assert bases(system) == {f"jav:movie:{REAL}": {"view": 1_000}}
    assert system.rollup("totals")[alias] == {"view": 2}
    assert audited(system) == set()


def test_a_row_that_an_alias_wrote_is_not_reconciled(written_by_an_alias: System) -> None:
    system = written_by_an_alias
    (tally,) = backfill(system, reconcile=True).tables
    assert tally.problems_listed == [f"jav:movie:{REAL}: {ALIASED}"]
    assert bases(system)[f"jav:movie:{REAL}"] == {"view": 1_000}


def test_a_row_that_only_an_alias_wrote_goes_back_to_what_it_said(system: System) -> None:
    """Nothing was ever counted under the row's own id, so no sync of its own can set it."""
    Keyed(system, "unicode_ci")
    alias = f"jav:movie:{REAL.upper()}"
    system.count(*(event(entity_id=REAL.upper()) for _ in range(22)))
    system.flush()
    system.mongo["analytics_entity_totals"].update_one(
        {"_id": alias}, {"$set": {"base": {"view": 1_000}, "synced": {"view": 22}}}
    )
    system.sql("UPDATE keyed SET views = 1022")  # as a former version did

    report = system.audit("--repair-replica")
    assert report["aliases_mended"] == 1
    assert system.sql("SELECT views FROM keyed") == [(1_000,)]
    system.count(event(entity_id=REAL))
    system.flush()
    assert system.sql("SELECT views FROM keyed") == [(1_001,)]
    assert bases(system) == {f"jav:movie:{REAL}": {"view": 1_000}}
    assert audited(system) == set()
    system.sql("DROP TABLE keyed")
