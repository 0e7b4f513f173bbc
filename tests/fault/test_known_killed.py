"""What was decided of a claim's ids stays so (`known = true`): through a kill at each step, and beside a flusher that
wakes late. Meanwhile a row appears and another one goes, so a second look at MySQL would say the opposite."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from daemon.buffer.connection import Connection
from daemon.buffer.layout import Layout
from daemon.config import replica_tables
from daemon.domain.rollup import KINDS
from daemon.replica.known import KnownIds
from daemon.replica.mysql import MysqlSink
from daemon.rollups.collections import DEAD_LETTERS
from daemon.rollups.dead_letters import UNKNOWN_ID
from tests.chaos.steps import Flusher
from tests.kit.kill import BY_HOURS, Kill, killed, kills
from tests.kit.system import System, event, expected_rollups
from tests.kit.takeover import audited

ONE_SYSTEM = True

DAY = dt.date(2026, 2, 19)
TABLE = {"table": "jav", "key": "uuid", "columns": {"view": "views", "download": "downloads"}, "known": True}
QUICK = {"TALLYD_FLUSH__LEASE_MS": "300", "TALLYD_FLUSH__INTERVAL_S": "0.1"}
STAYS, GOES, COMES, GHOST = "stays", "goes", "comes", "ghost"
AMOUNTS = {STAYS: 1, GOES: 2, COMES: 4, GHOST: 8}
DECIDED = ("advance", "write", "bury", "ack")


@pytest.fixture
def knowing(system: System) -> System:
    system.env |= QUICK | BY_HOURS | {"TALLYD_REPLICA": json.dumps({"jav": {"movie": TABLE}})}
    system.add_movies(STAYS, GOES)
    system.flush()  # whole domains are built
    system.count(*(event(entity_id=movie, value=amount) for movie, amount in AMOUNTS.items()))
    return system


def rows_change(system: System) -> None:
    system.sql("DELETE FROM jav WHERE uuid = %s", GOES)
    system.add_movies(COMES)


def rollups(amounts: dict[str, int]) -> object:
    return expected_rollups([(f"jav:movie:{movie}", "view", DAY, amount) for movie, amount in amounts.items()])


def only(*movies: str) -> dict[str, int]:
    return {movie: AMOUNTS[movie] for movie in movies}


def set_aside(system: System) -> dict[str, int]:
    """Movie → the amount of its letter of the totals; there has to be one of each rollup."""
    found = list(system.mongo[DEAD_LETTERS].find())
    assert {letter["reason"] for letter in found} <= {UNKNOWN_ID}
    totals = [letter for letter in found if letter["collection"] == "analytics_entity_totals"]
    assert len(found) == len(KINDS) * len(totals)
    return {letter["document"].removeprefix("jav:movie:"): letter["deltas"]["view"] for letter in totals}


@asynccontextmanager
async def frozen(system: System, call: str) -> AsyncIterator[None]:
    """A flusher that is about to make its next claim's call of this name. It makes it after the block, and goes on."""
    flusher = Flusher(system, 1)
    config = flusher.config
    connection, mysql = Connection(config.redis, Layout(config)), MysqlSink(config.mysql)
    flusher.known = KnownIds(mysql, replica_tables(config))
    flusher.restart(connection)
    try:
        await flusher.actor.begin(flusher.drain.apply_next())
        await flusher.actor.step_until(call)
        assert flusher.actor.running
        yield
        await flusher.actor.finish()
    finally:
        await connection.close()
        await mysql.close()
        await flusher.mongo.close()


@kills("daemon.flush.drain", "look_up", "advance", "write", "bury", "ack")
def test_a_killed_flushers_decision_holds(knowing: System, kill: Kill) -> None:
    decided = kill.step in DECIDED[1:] or (kill.step == "advance" and kill.after)
    killed(knowing, kill, "flush")
    rows_change(knowing)
    assert knowing.flush().replica_error is None

    known = {STAYS, GOES} if decided else {STAYS, COMES}
    assert knowing.rollups() == rollups(only(*known))
    assert set_aside(knowing) == only(*(AMOUNTS.keys() - known))
    assert knowing.replica() == {movie: (only(*known).get(movie, 0), 0) for movie in (STAYS, COMES)}
    assert audited(knowing) == set()
    ledger = knowing.ledger()
    assert ledger["unknown"] == ledger["dead:view"] == sum(only(*(AMOUNTS.keys() - known)).values())

    assert knowing.tallyd_here("dead", "retry", "--all")[0] == 0
    knowing.flush()
    assert knowing.rollups() == rollups(AMOUNTS)
    assert knowing.replica() == {STAYS: (1, 0), COMES: (4, 0)}
    assert audited(knowing) == set()


@pytest.mark.parametrize("before", ["advance", "bulk", "bury", "ack"])
@pytest.mark.parametrize("further", [False, True], ids=["the same claim", "a later claim"])
def test_a_frozen_flusher_obeys_what_another_decided(knowing: System, before: str, *, further: bool) -> None:
    """It looked its ids up before the rows changed, and wakes after another one has applied the claim."""

    def others() -> None:
        rows_change(knowing)
        knowing.flush()
        if further:
            knowing.count(event(entity_id=STAYS), event(entity_id=GHOST))
            knowing.flush()

    async def work() -> None:
        async with frozen(knowing, before):
            await asyncio.to_thread(others)

    asyncio.run(work())
    knowing.flush()
    known = {STAYS, COMES} if before == "advance" else {STAYS, GOES}
    amounts = AMOUNTS | {STAYS: AMOUNTS[STAYS] + further, GHOST: AMOUNTS[GHOST] + further}
    assert knowing.rollups() == rollups({movie: amounts[movie] for movie in known})
    found = list(knowing.mongo[DEAD_LETTERS].find({"collection": "analytics_entity_totals"}))
    waiting = sum(amounts[movie] for movie in AMOUNTS.keys() - known)
    assert sum(letter["deltas"]["view"] for letter in found) == waiting
    assert audited(knowing) == set()

    assert knowing.tallyd_here("dead", "retry", "--all")[0] == 0
    assert knowing.rollups() == rollups(amounts)
    assert audited(knowing) == set()


def test_a_frozen_flusher_that_wakes_after_a_retry_counts_nothing_twice(knowing: System) -> None:
    """It puts the letters back. They are in the documents already, and the next retry says so."""

    def others() -> None:
        knowing.flush()
        assert knowing.tallyd_here("dead", "retry", "--all")[0] == 0

    async def work() -> None:
        async with frozen(knowing, "bury"):
            await asyncio.to_thread(others)

    asyncio.run(work())
    assert set_aside(knowing) == only(COMES, GHOST)
    assert knowing.tallyd_here("dead", "retry", "--all")[0] == 0
    assert set_aside(knowing) == {}
    assert knowing.rollups() == rollups(AMOUNTS)
    assert audited(knowing) == set()
