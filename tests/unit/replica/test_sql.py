"""The text of statements, and which entity ids can be keys of a column."""

from __future__ import annotations

from uuid import UUID as UUID_

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import ReplicaTable
from daemon.replica.sql import KeyColumn, alike_sql, ranked_sql, select_sql, update_sql

TABLE = ReplicaTable(table="jav", key="uuid", columns={"view": "views", "download": "downloads"})
NUMBER, UUID = KeyColumn("bigint", None, None), KeyColumn("uuid", None, None)
TEXT = KeyColumn("char", "utf8mb4", "utf8mb4_bin")
LATIN1 = KeyColumn("varchar", "latin1", "latin1_swedish_ci")


@given(st.integers(0, 2**63 - 1))
def test_an_integer_key_takes_a_number_as_mysql_writes_it(number: int) -> None:
    assert NUMBER.takes(str(number))


@pytest.mark.parametrize("id_", ["", "01", "1 ", "+1", "-1", "1.0", "٣", "abc", str(2**63), "0x1"])
def test_an_integer_key_takes_nothing_else(id_: str) -> None:
    assert not NUMBER.takes(id_)
    assert TEXT.takes(id_)


@given(st.uuids())
def test_a_uuid_key_takes_a_uuid_as_mariadb_writes_it(uuid: UUID_) -> None:
    assert UUID.takes(str(uuid))
    assert not UUID.takes(uuid.hex)
    assert not UUID.takes(f"{uuid}\n")
    assert UUID.takes(str(uuid).upper()) == (uuid.hex.upper() == uuid.hex)


@pytest.mark.parametrize(
    ("key", "declared"),
    [
        (KeyColumn("int", None, None), "BIGINT"),
        (TEXT, "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
        (KeyColumn("binary", None, None), "VARCHAR(255) CHARACTER SET utf8mb4"),
    ],
)
def test_a_key_is_declared_with_the_type_of_its_column(key: KeyColumn, declared: str) -> None:
    assert key.declared == declared


def test_every_statement_has_one_parameter() -> None:
    assert update_sql(TABLE, NUMBER) == (
        "UPDATE `jav` t JOIN JSON_TABLE(%s, '$[*]' COLUMNS (k BIGINT PATH '$[0]', c1 BIGINT PATH '$[1]',"
        " c2 BIGINT PATH '$[2]')) d ON t.`uuid` = d.k SET t.`views` = d.c1, t.`downloads` = d.c2"
    )
    for statement in (select_sql(TABLE, NUMBER, [], ["views"]), alike_sql(TABLE, TEXT), ranked_sql(TABLE)):
        assert statement.count("%s") == 1


def test_text_is_joined_by_the_index_and_by_its_bytes() -> None:
    by_bytes = "ON t.`uuid` = d.k AND CAST(t.`uuid` AS BINARY) = CAST(d.k AS BINARY)"
    for statement in (update_sql(TABLE, TEXT, ["é"]), select_sql(TABLE, LATIN1, ["e"], ["views"])):
        assert by_bytes in statement


def test_an_id_that_a_charset_may_lack_is_joined_by_its_own_bytes() -> None:
    assert "CAST(CONVERT(t.`uuid` USING utf8mb4) AS BINARY) = CAST(d.u AS BINARY)" in update_sql(TABLE, LATIN1, ["茶"])
