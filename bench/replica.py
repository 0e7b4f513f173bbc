"""The replica UPDATE: 5,000 rows in one statement; against an UPDATE a row, in one transaction and in one each.

All set every row to new totals each round, durable at the end.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncmy
import uvloop
from msgspec.structs import replace

from bench import events
from bench.ground import Ground, GroundError
from bench.measure import Bar, Row, in_turn
from bench.settings import Settings
from daemon.config import replica_tables
from daemon.devstack.demo import CREATE_TABLE
from daemon.replica.mysql import MysqlSink

ROWS = 5_000
ROUND_STEP = 3
"""Writes a round; each writes other totals."""
BARS = (Bar("ratio", "at least", 7),)
ROW_BY_ROW = "UPDATE jav SET views = %s, downloads = %s WHERE uuid = %s"


def measure(ground: Ground, settings: Settings) -> list[Row]:
    """Two rows."""
    config = ground.config(MYSQL__URL=ground.stack.mysql)
    table = replica_tables(config)["jav", "movie"]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sink = MysqlSink(config.mysql)
        ids = runner.run(create_table(ground.stack.mysql))
        plain = runner.run(_connect(ground.stack.mysql))

        def totals(number: int) -> dict[str, dict[str, int]]:
            return {id_: {"view": number * ROWS + at, "download": number} for at, id_ in enumerate(ids)}

        def ours(number: int) -> float:
            wanted = totals(ROUND_STEP * number + 1)
            started = time.perf_counter()
            written = runner.run(sink.write(table, wanted))
            seconds = time.perf_counter() - started
            if written.applied != ROWS or runner.run(sink.read(table, ids)) != wanted:
                raise GroundError(f"{ROWS} rows were to be set; {written}")
            return ROWS / seconds

        def row_by_row(number: int, *, one_transaction: bool) -> float:
            wanted = totals(ROUND_STEP * number + 2 + one_transaction)
            started = time.perf_counter()
            runner.run(_write_each(plain, wanted, one_transaction=one_transaction))
            seconds = time.perf_counter() - started
            if runner.run(sink.read(table, ids)) != wanted:
                raise GroundError("The rows do not hold what was written one by one.")
            return ROWS / seconds

        try:
            rounds = in_turn(
                settings.rounds,
                ours,
                lambda number: row_by_row(number, one_transaction=True),
                lambda number: row_by_row(number, one_transaction=False),
                again_max=settings.again_max,
                warm_up=2,
            )
        finally:
            plain.close()
            runner.run(sink.close())
    row = Row(
        name="replica",
        what=f"setting {ROWS:,} rows of the replica table in MariaDB",
        unit="rows/s",
        ours=rounds.values[0],
        peer=rounds.values[1],
        peer_name="one UPDATE a row, in one transaction",
        bars=BARS,
        others=rounds.others,
    )
    each = replace(
        row,
        name="replica-each",
        peer=rounds.values[2],
        peer_name="one UPDATE a row, each its own transaction, as a page view does it",
        bars=(),
    )
    return [row, each]


async def create_table(url: str) -> list[str]:
    """Fills the replica table of the demo anew; returns the ids of its rows."""
    ids = [str(events.on_the_wire(number, "")["entity_id"]) for number in range(ROWS)]
    connection = await _connect(url)
    async with connection.cursor() as cursor:
        await cursor.execute("DROP TABLE IF EXISTS jav")
        await cursor.execute(CREATE_TABLE)
        await cursor.executemany(
            "INSERT INTO jav (uuid, code, title) VALUES (%s, %s, '')", [(id_, id_[-12:]) for id_ in ids]
        )
    await connection.commit()
    connection.close()
    return ids


async def _connect(url: str) -> Any:
    """A connection like tallyd's own."""
    parts = urlsplit(url)
    return await asyncmy.connect(
        host=parts.hostname,
        port=parts.port,
        user=unquote(parts.username or "root"),
        db=parts.path.strip("/"),
        charset="utf8mb4",
        init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    )


async def _write_each(connection: Any, wanted: dict[str, dict[str, int]], *, one_transaction: bool) -> None:
    await connection.autocommit(not one_transaction)
    async with connection.cursor() as cursor:
        for id_, counts in wanted.items():
            await cursor.execute(ROW_BY_ROW, (counts["view"], counts["download"], id_))
    await connection.commit()
