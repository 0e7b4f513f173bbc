"""MySQL answers, but does not do as asked: rows it refuses, locks of others, a server that takes no writes.

What MySQL does not take waits on the list; MongoDB is never held up, and one row never holds up another.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncmy
import pytest

from tests.kit.system import System, event, wait_until

REPLICA, REFUSED = "anl:{0}:replica", "anl:{0}:refused"
BAD = [event(entity_id="bad", value=100) for _ in range(3)]
"""300 together, which a TINYINT does not hold."""


@contextmanager
def stranger(system: System) -> Iterator[Callable[[str], None]]:
    """Another client of the database, with a transaction of its own: runs a statement."""
    parts = urlsplit(system.stack.mysql)

    async def connect() -> Any:
        return await asyncmy.connect(host=parts.hostname, port=parts.port, user=parts.username, db=system.database)

    async def execute(statement: str) -> None:
        async with connection.cursor() as cursor:
            await cursor.execute(statement)

    with asyncio.Runner() as runner:
        connection = runner.run(connect())
        try:
            yield lambda statement: runner.run(execute(statement))
        finally:
            runner.run(connection.ensure_closed())


def waits_for_a_lock(system: System) -> bool:
    time.sleep(0.15)  # the server shows this table as it was, to whoever asks again within 0.1 s
    rows = system.sql("SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'", database="")
    return bool(rows[0][0])


def due(system: System) -> set[bytes]:
    return set(system.redis.zrange(REPLICA, 0, -1))


@pytest.mark.parametrize(
    ("spoil", "mend"),
    [
        ("ALTER TABLE jav MODIFY views TINYINT UNSIGNED NOT NULL", "ALTER TABLE jav MODIFY views BIGINT NOT NULL"),
        ("ALTER TABLE jav ADD CONSTRAINT small CHECK (views < 200)", "ALTER TABLE jav DROP CONSTRAINT small"),
        (
            "CREATE TRIGGER no BEFORE UPDATE ON jav FOR EACH ROW IF NEW.views > 9 THEN SIGNAL SQLSTATE '45000'; END IF",
            "DROP TRIGGER no",
        ),
        ("ALTER TABLE jav ADD few TINYINT UNSIGNED AS (views) STORED", "ALTER TABLE jav DROP few"),
    ],
    ids=["a column too small", "a check", "a trigger", "a column computed from it"],
)  # fmt: skip
def test_a_row_that_mysql_refuses_does_not_hold_up_the_others(system: System, spoil: str, mend: str) -> None:
    good = [f"g{n}" for n in range(20)]
    system.add_movies("bad", *good)
    system.sql(spoil)
    system.count(*BAD, *(event(entity_id=id_, value=2) for id_ in good))
    done = system.flush()
    assert (done.rows, done.refused, done.missing) == (20, 1, 0)
    assert "jav bad" in str(done.replica_error)
    assert system.replica() == {"bad": (0, 0)} | dict.fromkeys(good, (2, 0))
    assert due(system) == {b"jav:movie:bad"}
    assert system.redis.hkeys(REFUSED) == [b"jav:movie:bad"]
    assert json.loads(system.tallyd("audit", "--json").stdout)["rows_pending"] == 1
    status = system.tallyd("status").stdout
    assert "MySQL refuses the rows of 1 entity." in status

    once = system.tallyd("flush", "--once", "--json", check=False)
    assert once.returncode == 1
    assert json.loads(once.stdout)["refused"] == 1

    system.sql(mend)
    done = system.flush()
    assert (done.rows, done.refused, done.replica_error) == (1, 0, None)
    assert system.replica()["bad"] == (300, 0)
    assert not due(system)
    assert not system.redis.exists(REFUSED)


def test_many_refused_rows_do_not_starve_the_ones_behind_them(system: System) -> None:
    bad, good = [f"b{n}" for n in range(30)], [f"g{n}" for n in range(5)]
    system.add_movies(*bad, *good)
    system.sql("ALTER TABLE jav MODIFY views TINYINT UNSIGNED NOT NULL DEFAULT 0")
    system.count(*(event(entity_id=id_, value=100) for id_ in bad for _ in range(3)))
    with system.flusher(MYSQL__ROWS_MAX="10", FLUSH__INTERVAL_S="0.1"):
        wait_until(lambda: system.redis.hlen(REFUSED) == 30, "all of them were tried")
        for round_ in (1, 2):
            system.count(*(event(entity_id=id_) for id_ in (*good, *bad[:3])))
            wait_until(lambda n=round_: system.replica()["g4"] == (n, 0), "the good ones are set")
            wait_until(lambda: len(due(system)) == 30, "the good ones leave the list")
    rows = system.replica()
    assert [rows[id_] for id_ in good] == [(2, 0)] * 5
    assert [rows[id_] for id_ in bad] == [(0, 0)] * 30


def test_a_total_out_of_range_is_refused_not_cut_by_a_lenient_server(system: System) -> None:
    system.add_movies("bad")
    system.sql("ALTER TABLE jav MODIFY views TINYINT UNSIGNED NOT NULL DEFAULT 0")
    ((mode,),) = system.sql("SELECT @@GLOBAL.sql_mode", database="")
    system.sql("SET GLOBAL sql_mode = ''", database="")
    try:
        system.count(*BAD)
        assert system.flush().refused == 1
    finally:
        system.sql("SET GLOBAL sql_mode = %s", mode, database="")
    assert system.replica() == {"bad": (0, 0)}


def test_a_deadlock_is_tried_again_at_once(system: System) -> None:
    system.add_movies("a", "z")
    system.sql("CREATE TABLE heavy (n INT)")
    system.count(event(entity_id="a"), event(entity_id="z"))
    with stranger(system) as other, ThreadPoolExecutor(1) as pool:
        other("BEGIN")
        # Makes it the heavier of the two, so that the other is the one to give way.
        other("INSERT INTO heavy SELECT seq FROM seq_1_to_1000")
        other("UPDATE jav SET code = 'x' WHERE uuid = 'z'")
        flushing = pool.submit(system.flush)
        wait_until(lambda: waits_for_a_lock(system), "our UPDATE waits for the row")
        other("UPDATE jav SET code = 'x' WHERE uuid = 'a'")
        other("COMMIT")
        done = flushing.result(30)
    assert done.replica_error is None
    assert system.replica() == {"a": (1, 0), "z": (1, 0)}


@pytest.mark.parametrize("waits_s", [0, 50], ids=["MySQL gives up first", "we give up first"])
def test_rows_that_another_holds_wait_and_an_older_total_never_comes_last(system: System, waits_s: int) -> None:
    system.add_movies("a")
    system.count(event(entity_id="a"))
    system.sql(f"SET GLOBAL innodb_lock_wait_timeout = {waits_s}", database="")
    try:
        with stranger(system) as other:
            other("BEGIN")
            other("SELECT * FROM jav FOR UPDATE")
            started_s = time.monotonic()
            assert system.flush(MYSQL__TIMEOUT_MS="1000").replica_error is not None
            assert time.monotonic() - started_s < 20
            # What we gave up may still be waiting inside the server, with the older total, and our lock.
            system.count(event(entity_id="a"))
            system.flush(MYSQL__TIMEOUT_MS="500", MYSQL__LOCK_TIMEOUT_S="1")
            other("ROLLBACK")
            wait_until(lambda: system.flush().replica_error is None, "the lock is free again")
        assert system.replica() == {"a": (2, 0)}
        assert not due(system)
    finally:
        system.sql("SET GLOBAL innodb_lock_wait_timeout = 50", database="")


def test_a_server_that_takes_no_writes_delays_only_itself(system: System) -> None:
    system.add_movies("a")
    parts = urlsplit(system.env["TALLYD_MYSQL__URL"])
    user = f"u{system.database[1:]}"
    system.sql(f"CREATE USER '{user}'@'%%' IDENTIFIED BY 'p'", database="")
    system.sql(f"GRANT SELECT, UPDATE ON `{system.database}`.* TO '{user}'@'%%'", database="")
    system.env["TALLYD_MYSQL__URL"] = parts._replace(netloc=f"{user}:p@{parts.hostname}:{parts.port}").geturl()
    system.count(event(entity_id="a"))
    system.sql("SET GLOBAL read_only = 1", database="")
    try:
        done = system.flush()
        assert "read-only" in str(done.replica_error)
        assert done.documents == 5
        assert due(system) == {b"jav:movie:a"}
    finally:
        system.sql("SET GLOBAL read_only = 0", database="")
    assert system.flush().replica_error is None
    assert system.replica() == {"a": (1, 0)}
    system.sql(f"DROP USER '{user}'@'%%'", database="")


def test_a_missing_table_is_named_and_filled_once_it_is_there(system: System) -> None:
    system.add_movies("a")
    system.flush()
    system.count(event(entity_id="a"))
    system.sql("RENAME TABLE jav TO gone")
    done = system.flush()
    assert "jav" in str(done.replica_error)
    assert done.documents == 5
    system.sql("RENAME TABLE gone TO jav")
    assert system.flush().replica_error is None
    assert system.replica() == {"a": (1, 0)}


def test_rows_of_long_ids_take_several_statements_where_packets_are_small(system: System) -> None:
    """Anybody may send such ids. They hold up no row."""
    system.add_movies("real")
    [(before,)] = system.sql("SELECT @@GLOBAL.max_allowed_packet", database="")
    system.sql("SET GLOBAL max_allowed_packet = 1048576", database="")
    try:
        quotes = [f"{n:05}" + "'\"" * 125 for n in range(2_000)]
        system.count(*(event(entity_id=id_) for id_ in quotes), event(entity_id="real", value=7))
        done = system.flush()
        assert (done.replica_error, done.rows, done.missing) == (None, 1, 2_000)
        assert system.replica() == {"real": (7, 0)}
        assert system.audit()["rows_missing"] == 2_000
    finally:
        system.sql("SET GLOBAL max_allowed_packet = %s", before, database="")


def test_a_connection_that_breaks_during_a_statement_halves_the_next_one(system: System) -> None:
    movies = ["a", "b", "c", "d"]
    system.add_movies(*movies)
    system.count(*(event(entity_id=movie) for movie in movies))
    with stranger(system) as other, system.flusher(FLUSH__INTERVAL_S="0.05", FLUSH__RETRY_MS="100") as flusher:
        other("BEGIN")
        other("SELECT * FROM jav FOR UPDATE")
        for tried in (4, 2):
            wait_until(lambda: waits_for_a_lock(system), "the UPDATE waits for the rows")
            [(waiting,)] = system.sql(
                "SELECT trx_mysql_thread_id FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'"
            )
            system.sql(f"KILL CONNECTION {waiting}")
            flusher.says(f"The next sync tries {tried // 2} rows in place of {tried}.")
        other("ROLLBACK")
        wait_until(lambda: not due(system), "all rows are set")
    assert system.replica() == dict.fromkeys(movies, (1, 0))
