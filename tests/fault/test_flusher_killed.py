"""The flush daemon killed (SIGKILL) before and after every step of a claim, and the next one finishing: every count
exact, and what `STEPS` says is what the stores hold."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import signal
from collections.abc import Callable
from typing import Any

from daemon.buffer.counters import DUE_PER_CALL
from daemon.domain.rollup import DAILY, KINDS
from daemon.read.status import read_status
from daemon.rollups.collections import DEAD_LETTERS, EPOCHS, FLOORS, JOURNAL
from tests.kit.kill import BY_HOURS, Kill, held, killed, kills
from tests.kit.proxy import Fault, Proxy
from tests.kit.system import System, event, expected_rollups, wait_until
from tests.kit.takeover import audited

ONE_SYSTEM = True
QUICK = {"TALLYD_FLUSH__LEASE_MS": "300", "TALLYD_FLUSH__INTERVAL_S": "0.1"}
ONE_AN_ENTITY = {"FLUSH__CLAIM_US_MAX": "1"}
"""Each part of a claim holds one entity."""
ONE_IN_ALL = {"FLUSH__CLAIM_US_MAX": "1000000"}
KNOWN = {"table": "jav", "key": "uuid", "columns": {"view": "views", "download": "downloads"}, "known": True}
MOVIES = [f"m{n}" for n in range(12)]
DAYS = [dt.date(2024, 12, 29), dt.date(2024, 12, 30), dt.date(2026, 2, 19)]
SPOILED = f"jav:movie:m1:{DAYS[0]}"
CLAIM = "anl:{0}:claim"

Counted = list[tuple[str, str, dt.date, int]]


def count_some(system: System, movies: list[str] = MOVIES) -> Counted:
    """Sends events of several entities, days and counters, each twice; returns what must be counted."""
    counted, events = [], []
    for n, movie in enumerate(movies):
        for day in DAYS if movie in MOVIES else DAYS[:1]:
            action, value = ("download", 1) if n % 3 == 0 else ("view", n % 7 + 1)
            events += [event(entity_id=movie, action=action, value=value, occurred_at=f"{day}T01:02:03Z")] * 2
            counted.append((f"jav:movie:{movie}", action, day, value))
    assert system.count(*events) == len(counted)
    return counted


def spoil(system: System, view: object) -> None:
    system.mongo[DAILY.collection].update_one({"_id": SPOILED}, {"$set": {"view": view}})


def seq(system: System) -> int:
    """Of the claim in flight."""
    return int(system.redis.hget(CLAIM, "seq") or 0)


def written(system: System) -> int:
    """How many of the rollups hold the claim in flight, in some document."""
    return sum(system.mongo[kind.collection].find_one({"flush_seq": seq(system)}) is not None for kind in KINDS)


def epochs(system: System) -> list[dict[str, Any]]:
    return list(system.mongo[EPOCHS].find().sort("at", 1))


HOLDS: dict[str, Callable[[System], object]] = {
    "floor": lambda system: not seq(system),
    "open_epoch": lambda system: len(epochs(system)) == 2 and not seq(system),
    "amend": lambda system: not seq(system) and int(system.redis.hget(CLAIM, "last") or 0),
    "freeze": lambda system: system.redis.hget(CLAIM, "open") == b"1",
    "seal": lambda system: seq(system) and system.redis.hget(CLAIM, "open") != b"1" and not written(system),
    "confirm": lambda system: seq(system) and not system.mongo[FLOORS].find_one({"seq": seq(system)}),
    "look_up": lambda system: seq(system) and not system.mongo[FLOORS].find_one({"seq": seq(system)}),
    "journal": lambda system: (
        system.mongo[JOURNAL].find_one({"seq": seq(system)}) and not system.mongo[FLOORS].find_one({"seq": seq(system)})
    ),
    "advance": lambda system: system.mongo[FLOORS].find_one({"seq": seq(system)}) and not written(system),
    "write": written,
    "bury": lambda system: system.mongo[DEAD_LETTERS].find_one({"seq": seq(system)}),
    "list_due": lambda system: seq(system) and written(system) == len(KINDS),
    "ack": lambda system: not seq(system),
}
"""Step → what shows in the stores after it."""


@kills(
    "daemon.flush.drain", "floor", "open_epoch", "amend", "freeze", "seal", "confirm", "look_up", "journal", "advance",
    "write", "bury", "list_due", "ack",
)  # fmt: skip
def test_a_killed_flusher_loses_and_doubles_nothing(system: System, kill: Kill) -> None:
    """On top of what another Redis counted, which was lost with its memory; one document takes no amounts.

    MySQL is asked about every id, and has all of them."""
    system.env |= QUICK | BY_HOURS | {"TALLYD_REPLICA": json.dumps({"jav": {"movie": KNOWN}})}
    movies = MOVIES + [f"many{n}" for n in range(DUE_PER_CALL if kill.step == "list_due" else 0)]
    system.add_movies(*movies)
    counted = count_some(system)
    system.flush()
    before = system.rollup("totals")
    system.redis.flushall()
    system.mongo[JOURNAL].delete_many({})  # else the documents of its last claim are written first
    spoil(system, "many")
    counted += count_some(system, movies)

    killed(system, kill, "flush", **ONE_AN_ENTITY if kill.step == "freeze" else ONE_IN_ALL)
    if kill.after:
        assert HOLDS[kill.step](system)
    assert system.flush().replica_error is None

    [letter] = system.mongo[DEAD_LETTERS].find()
    assert (letter["document"], letter["deltas"]) == (SPOILED, {"view": 2})
    spoil(system, 2)
    system.tallyd_here("dead", "retry", "--all")
    assert system.mongo[DEAD_LETTERS].count_documents({}) == 0
    assert system.rollups() == (expected := expected_rollups(counted))
    assert system.rollup("hourly") == {f"{id_}T01": counters for id_, counters in expected["daily"].items()}
    totals = system.rollup("totals")
    assert system.replica() == {
        movie: (totals[f"jav:movie:{movie}"].get("view", 0), totals[f"jav:movie:{movie}"].get("download", 0))
        for movie in movies
    }
    baseline = {name: sum(document.get(name, 0) for document in before.values()) for name in ("view", "download")}
    assert [epoch["baseline"] for epoch in epochs(system)] == [{"view": 0, "download": 0}, baseline]
    assert system.redis.keys("anl:{0}:counters:*") == system.redis.keys("anl:{0}:dirty") == []
    assert system.redis.zcard("anl:{0}:replica") == system.redis.scard("anl:{0}:syncing") == 0
    assert sorted(system.redis.hkeys(CLAIM)) == [b"acked_at", b"last"]
    ledger = system.ledger()
    assert all(ledger[f"accepted:{name}"] == ledger[f"flushed:{name}"] for name in baseline)
    assert audited(system) == set()


@kills("daemon.flush.drain", "freeze")
def test_a_claim_left_between_two_parts_is_finished_while_its_flusher_waits(system: System, kill: Kill) -> None:
    """Events come in meanwhile, of the entities that are frozen already, too."""
    system.env |= QUICK
    counted = count_some(system)
    with held(system, kill, "flush", **ONE_AN_ENTITY) as frozen:
        frozen.wait()
        wait_until(lambda: parts(system) >= 3, "some parts are frozen")
        assert asyncio.run(read_status(system.config())).shards[0].in_flight >= 3
        counted += count_some(system)
        system.flush()
    assert system.rollups() == expected_rollups(counted)
    assert audited(system) == set()
    assert parts(system) == 0


def parts(system: System) -> int:
    return sum(field.startswith(b"payload") for field in system.redis.hkeys("anl:{0}:claim"))


def test_a_frozen_flusher_that_wakes_up_late_changes_nothing(system: System) -> None:
    system.env |= QUICK
    counted = count_some(system)
    with system.flusher(LOG__LEVEL="debug") as frozen:
        wait_until(
            lambda: system.mongo["analytics_flush_floors"].find_one() is not None, "the first claim is being applied"
        )
        frozen.process.send_signal(signal.SIGSTOP)
        counted += count_some(system)
        system.flush()
        counted += count_some(system)
        frozen.process.send_signal(signal.SIGCONT)
        wait_until(lambda: system.redis.scard("anl:{0}:dirty") == 0, "it goes on")
    system.flush()
    assert system.rollups() == expected_rollups(counted)


def test_a_reply_that_is_lost_while_a_flusher_says_goodbye_holds_nothing_up(system: System) -> None:
    """MongoDB's driver waits for the answer to `endSessions` without a time-out, already at the start."""
    counted = count_some(system)
    with (
        Proxy(system.env["TALLYD_MONGO__URL"], b"endSessions", Fault.LOSE_REPLY).running() as proxy,
        system.flusher(MONGO__URL=proxy.url(), FLUSH__INTERVAL_S="0.1"),
    ):
        assert proxy.tripped.wait(20)
        wait_until(lambda: system.redis.scard("anl:{0}:dirty") == 0, "it flushes")
    system.flush()
    assert system.rollups() == expected_rollups(counted)
