"""The flush daemon killed (SIGKILL) at every step of a claim, and the next one finishing: every count exact.

The step is chosen by a proxy that holds the request back, or loses its reply; the process is killed while it waits.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import signal

import pytest

from daemon.buffer import scripts
from daemon.buffer.counters import DUE_PER_CALL
from daemon.read.status import read_status
from tests.kit.proxy import Fault, Proxy, update_of
from tests.kit.system import System, event, expected_rollups, wait_until

LEASE_MS = "1000"
DAYS = [dt.date(2024, 12, 29), dt.date(2024, 12, 30), dt.date(2026, 2, 19)]

CLAIM = scripts.CLAIM.sha.encode()
ACK = scripts.ACK.sha.encode()
STEPS = [
    ("redis", CLAIM, Fault.HOLD_REQUEST, "before the claim"),
    ("redis", CLAIM, Fault.LOSE_REPLY, "after the claim"),
    ("mongo", b"analytics_flush_floors", Fault.HOLD_REQUEST, "before the floor is read"),
    *[
        ("mongo", update_of(f"analytics_entity_{name}"), fault, f"{name}: {fault.value}")
        for name in ("totals", "daily", "weekly", "monthly", "yearly")
        for fault in Fault
    ],
    ("redis", ACK, Fault.HOLD_REQUEST, "after MongoDB, before the ack"),
    ("redis", ACK, Fault.LOSE_REPLY, "after the ack"),
]


def count_some(system: System, times: int = 1) -> list[tuple[str, str, dt.date, int]]:
    """Sends events of several entities, days and counters; returns what must be counted."""
    counted, events = [], []
    for n in range(40):
        for day in DAYS:
            action, value = ("download", 1) if n % 3 == 0 else ("view", n % 7 + 1)
            events += [event(entity_id=f"m{n}", action=action, value=value, occurred_at=f"{day}T01:02:03Z")] * 2
            counted.append((f"jav:movie:m{n}", action, day, value))
    assert system.count(*events) == len(counted)
    return counted


@pytest.mark.parametrize(("store", "marker", "fault"), [step[:3] for step in STEPS], ids=[step[3] for step in STEPS])
def test_a_killed_flusher_loses_and_doubles_nothing(system: System, store: str, marker: bytes, fault: Fault) -> None:
    system.add_movies(*(f"m{n}" for n in range(40)))
    system.env |= {"TALLYD_FLUSH__LEASE_MS": LEASE_MS, "TALLYD_FLUSH__INTERVAL_S": "0.1"}
    counted = count_some(system)
    variable = f"{store.upper()}__URL"
    with (
        Proxy(system.env[f"TALLYD_{variable}"], marker, fault).running() as proxy,
        system.flusher(**{variable: proxy.url()}) as flusher,
    ):
        assert proxy.tripped.wait(20), "the flusher never came to that step"
        flusher.kill()  # SIGKILL, to the whole process group
    system.flush()
    assert system.rollups() == expected_rollups(counted)
    totals = system.rollup("totals")
    for uuid, (views, downloads) in system.replica().items():
        expected = totals[f"jav:movie:{uuid}"]
        assert (views, downloads) == (expected.get("view", 0), expected.get("download", 0))
    ledger = system.ledger()
    for counter in ("view", "download"):
        total = sum(amount for _, name, _, amount in counted if name == counter)
        assert ledger[f"accepted:{counter}"] == ledger[f"flushed:{counter}"] == total
    assert system.redis.hkeys("anl:{0}:claim") in ([b"last", b"acked_at"], [b"acked_at", b"last"])


@pytest.mark.parametrize("taken_over", [False, True], ids=["killed first", "taken over first"])
@pytest.mark.parametrize("fault", Fault, ids=[fault.value for fault in Fault])
def test_a_batch_left_between_two_parts_is_finished_by_the_next(
    system: System, fault: Fault, *, taken_over: bool
) -> None:
    """Events come in meanwhile, of the entities that are frozen already, too."""
    system.env |= {
        "TALLYD_FLUSH__LEASE_MS": LEASE_MS,
        "TALLYD_FLUSH__INTERVAL_S": "0.1",
        "TALLYD_FLUSH__CLAIM_US_MAX": "1",
    }
    counted = count_some(system)
    with (
        Proxy(system.env["TALLYD_REDIS__URL"], CLAIM, fault, nth=5).running() as proxy,
        system.flusher(REDIS__URL=proxy.url()) as flusher,
    ):
        assert proxy.tripped.wait(20), "the flusher never came to that part"
        wait_until(lambda: parts(system) >= 3, "some parts are frozen")
        assert system.redis.hget("anl:{0}:claim", "open") == b"1"
        assert asyncio.run(read_status(system.config())).shards[0].in_flight >= 3
        counted += count_some(system)
        if not taken_over:
            flusher.kill()
        system.flush()
    assert system.rollups() == expected_rollups(counted)
    assert json.loads(system.tallyd("audit", "--json").stdout)["exact"]
    assert parts(system) == 0


def parts(system: System) -> int:
    return sum(field.startswith(b"payload") for field in system.redis.hkeys("anl:{0}:claim"))


@pytest.mark.parametrize("fault", Fault, ids=[fault.value for fault in Fault])
def test_a_flusher_killed_between_two_calls_of_an_ack_leaves_no_row_behind(system: System, fault: Fault) -> None:
    """Some entities are due, synced and settled before the batch is acknowledged, and due once more after."""
    ids = [f"m{n}" for n in range(DUE_PER_CALL + 50)]
    system.add_movies(*ids)
    system.env |= {"TALLYD_FLUSH__LEASE_MS": LEASE_MS, "TALLYD_FLUSH__INTERVAL_S": "0.1"}
    system.count(*(event(entity_id=id_) for id_ in ids))
    with (
        Proxy(system.env["TALLYD_REDIS__URL"], ACK, fault, nth=2).running() as proxy,
        system.flusher(REDIS__URL=proxy.url()) as flusher,
    ):
        assert proxy.tripped.wait(20), "the flusher never came to that call"
        flusher.kill()
    if fault is Fault.HOLD_REQUEST:
        assert "flushed:view" not in system.ledger()
    else:
        wait_until(lambda: "flushed:view" in system.ledger(), "Redis carries the last call out")
    synced = list(system.replica().values()).count((1, 0))
    assert synced + system.redis.zcard("anl:{0}:replica") >= DUE_PER_CALL, "listed before the batch is acknowledged"
    system.flush()
    assert system.replica() == dict.fromkeys(ids, (1, 0))
    assert system.ledger()["flushed:view"] == len(ids)
    assert json.loads(system.tallyd("audit", "--json").stdout)["exact"]


def test_a_frozen_flusher_that_wakes_up_late_changes_nothing(system: System) -> None:
    system.env |= {"TALLYD_FLUSH__LEASE_MS": "300", "TALLYD_FLUSH__INTERVAL_S": "0.1"}
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
