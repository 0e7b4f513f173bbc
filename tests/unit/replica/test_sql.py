"""The text of statements, and which entity ids can be keys of a column."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import ReplicaTable
from daemon.replica.sql import declared_key, is_key_of, ranked_sql, select_sql, update_sql

TABLE = ReplicaTable(table="jav", key="uuid", columns={"view": "views", "download": "downloads"})


@given(st.integers(0, 2**63 - 1))
def test_an_integer_key_takes_a_number_as_mysql_writes_it(number: int) -> None:
    assert is_key_of("BIGINT")(str(number))


@pytest.mark.parametrize("id_", ["", "01", "1 ", "+1", "-1", "1.0", "٣", "abc", str(2**63), "0x1"])
def test_an_integer_key_takes_nothing_else(id_: str) -> None:
    assert not is_key_of("BIGINT")(id_)
    assert is_key_of("VARCHAR(255)")(id_)


@pytest.mark.parametrize(
    ("found", "declared"),
    [
        (("int", None, None), "BIGINT"),
        (("char", "utf8mb4", "utf8mb4_bin"), "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
        (("binary", None, None), "VARCHAR(255)"),
    ],
)
def test_a_key_is_declared_with_the_type_of_its_column(
    found: tuple[str, str | None, str | None], declared: str
) -> None:
    assert declared_key(*found) == declared


def test_every_statement_has_one_parameter() -> None:
    assert update_sql(TABLE, "BIGINT") == (
        "UPDATE `jav` t JOIN JSON_TABLE(%s, '$[*]' COLUMNS (k BIGINT PATH '$[0]', c1 BIGINT PATH '$[1]',"
        " c2 BIGINT PATH '$[2]')) d ON t.`uuid` = d.k SET t.`views` = d.c1, t.`downloads` = d.c2"
    )
    for statement in (select_sql(TABLE, "BIGINT", ["views"]), ranked_sql(TABLE)):
        assert statement.count("%s") == 1
