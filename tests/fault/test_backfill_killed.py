"""The backfill, and the sync that takes rows over, killed (SIGKILL) at every step: what runs next ends in the same
numbers, and nothing of before is overwritten."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from daemon.rollups.collections import BACKFILLS
from daemon.rollups.collections import HISTORY_MARKS as MARKS
from tests.kit.daemons import Daemon
from tests.kit.proxy import Fault, Proxy, update_of
from tests.kit.system import System, event
from tests.kit.takeover import add_rows, audited, backfill, bases, everything

MOVIES = [f"m{n:02}" for n in range(30)]
LEGACY = {id_: (100 + n, n) for n, id_ in enumerate(MOVIES)}
BASES = {f"jav:movie:{id_}": {"view": views, "download": downloads} for id_, (views, downloads) in LEGACY.items()}
TOTALS = update_of("analytics_entity_totals")
BASE_SET = b"base.view\x00"

BACKFILL_STEPS = [
    ("mysql", b"ORDER BY `uuid`", Fault.HOLD_REQUEST, "before the first page"),
    ("redis", b"ZADD", Fault.HOLD_REQUEST, "before entities are made due"),
    ("redis", b"ZADD", Fault.LOSE_REPLY, "after entities were made due"),
    ("mongo", TOTALS, Fault.HOLD_REQUEST, "before the bases"),
    ("mongo", TOTALS, Fault.LOSE_REPLY, "after the bases"),
    ("mongo", update_of(BACKFILLS), Fault.HOLD_REQUEST, "before the run is recorded"),
    ("mongo", update_of(BACKFILLS), Fault.LOSE_REPLY, "after the run was recorded"),
]
SYNC_STEPS = [
    ("mysql", b"SELECT CAST(d.k", Fault.HOLD_REQUEST, "before the rows are read"),
    ("mysql", b"SELECT CAST(d.k", Fault.LOSE_REPLY, "after the rows were read"),
    ("mongo", BASE_SET, Fault.HOLD_REQUEST, "before the bases"),
    ("mongo", BASE_SET, Fault.LOSE_REPLY, "after the bases"),
    ("mysql", b"UPDATE `jav`", Fault.HOLD_REQUEST, "before the columns"),
    ("mysql", b"UPDATE `jav`", Fault.LOSE_REPLY, "after the columns"),
]
DAILY_STEPS = [
    (update_of(MARKS), Fault.LOSE_REPLY, "after the marks"),
    (update_of("analytics_entity_daily"), Fault.HOLD_REQUEST, "before the days"),
    (update_of("analytics_entity_daily"), Fault.LOSE_REPLY, "after the days"),
    (update_of("analytics_entity_weekly"), Fault.LOSE_REPLY, "after the weeks"),
    (update_of("analytics_entity_yearly"), Fault.HOLD_REQUEST, "before the years"),
    (b"delete\x00", Fault.HOLD_REQUEST, "before the marks go"),
]


def ids(steps: list[tuple[str, bytes, Fault, str]]) -> list[str]:
    return [f"{step[0]}, {step[3]}" for step in steps]


@pytest.fixture
def legacy(system: System) -> System:
    """Every other movie has counts of tallyd's own, in MongoDB only."""
    system.env |= {"TALLYD_FLUSH__LEASE_MS": "1000", "TALLYD_FLUSH__INTERVAL_S": "0.1"}
    add_rows(system, LEGACY)
    system.count(*(event(entity_id=id_, value=2) for id_ in MOVIES[::2]))
    system.flush(MYSQL__URL="")
    return system


def total_views(twice: int = 0) -> dict[str, tuple[int, int]]:
    """The rows as they have to be in the end; `twice`: what was counted besides."""
    return {id_: (views + (2 + twice) * (n % 2 == 0), down) for n, (id_, (views, down)) in enumerate(LEGACY.items())}


@contextmanager
def killed_at(system: System, store: str, marker: bytes, fault: Fault, *arguments: str) -> Iterator[None]:
    """A `tallyd` that is killed at this step."""
    variable = f"{store.upper()}__URL"
    with (
        Proxy(system.env[f"TALLYD_{variable}"], marker, fault).running() as proxy,
        Daemon(system, *arguments, **{variable: proxy.url()}) as process,
    ):
        assert proxy.tripped.wait(20), process.text()
        process.send(signal.SIGKILL)
        process.process.wait()
        yield


@pytest.mark.parametrize(("store", "marker", "fault"), [step[:3] for step in BACKFILL_STEPS], ids=ids(BACKFILL_STEPS))
def test_a_killed_backfill_run_again_ends_in_the_same_numbers(
    legacy: System, store: str, marker: bytes, fault: Fault
) -> None:
    """With a sync before it is run again where the killed one's request was carried out, without where it was not."""
    synced = fault is Fault.LOSE_REPLY
    with killed_at(legacy, store, marker, fault, "backfill", "--chunk", "10"):
        pass
    if synced:
        legacy.count(*(event(entity_id=id_, value=5) for id_ in MOVIES[::2]))
        legacy.flush()
    (tally,) = backfill(legacy).tables
    assert tally.rows_before + tally.processed == len(MOVIES)
    assert bases(legacy) == BASES
    legacy.flush()
    assert legacy.replica() == total_views(5 if synced else 0)
    assert audited(legacy) == set()


@pytest.mark.parametrize(("store", "marker", "fault"), [step[:3] for step in SYNC_STEPS], ids=ids(SYNC_STEPS))
def test_a_killed_sync_overwrites_nothing_of_before(legacy: System, store: str, marker: bytes, fault: Fault) -> None:
    legacy.count(*(event(entity_id=id_, value=5) for id_ in MOVIES[::2]))
    with killed_at(legacy, store, marker, fault, "flush"):
        pass
    backfill(legacy)
    legacy.flush()
    assert legacy.replica() == total_views(5)
    assert bases(legacy) == BASES
    assert audited(legacy) == set()


@pytest.mark.parametrize("fault", list(Fault), ids=["before the bases", "after the bases"])
def test_a_killed_reconcile_run_again_ends_in_the_same_numbers(legacy: System, fault: Fault) -> None:
    backfill(legacy)
    legacy.flush()
    legacy.sql("UPDATE jav SET views = views + 1000")
    with killed_at(legacy, "mongo", BASE_SET, fault, "backfill", "--reconcile", "--chunk", "10"):
        pass
    (tally,) = backfill(legacy, reconcile=True).tables
    assert tally.problems == 0
    assert {key: base["view"] - 1000 for key, base in bases(legacy).items()} == {
        key: base["view"] for key, base in BASES.items()
    }
    assert audited(legacy) == set()


@pytest.mark.parametrize(("marker", "fault"), [step[:2] for step in DAILY_STEPS], ids=[step[2] for step in DAILY_STEPS])
def test_a_killed_history_run_again_ends_in_the_same_numbers(legacy: System, marker: bytes, fault: Fault) -> None:
    path = legacy.scratch / "days.csv"
    lines = [f"jav:movie:{id_},2024-12-{day},view,{day % 5}" for id_ in MOVIES for day in range(20, 32)]
    path.write_text("\n".join(["entity,date,counter,amount", *lines]))
    backfill(legacy)
    with killed_at(legacy, "mongo", marker, fault, "backfill", "--daily", str(path)):
        pass
    backfill(legacy, daily=path)
    assert bases(legacy, "weekly")["jav:movie:m01:2025-W01"] == {"view": 1}
    killed = everything(legacy)
    for name in ("daily", "weekly", "monthly", "yearly"):
        legacy.mongo[f"analytics_entity_{name}"].delete_many({"entity_id": {"$in": MOVIES[1::2]}})
        legacy.mongo[f"analytics_entity_{name}"].update_many({}, {"$unset": {"base": 0, "source": 0}})
    backfill(legacy, daily=path)
    assert everything(legacy) == killed, "as of a run that nobody killed"
    legacy.flush()
    assert audited(legacy) == set()


def test_live_events_flushes_and_backfills_at_the_same_time(system: System) -> None:
    """Two flush daemons, two backfills, and events of the same entities, all of them new."""
    movies = [f"m{n:03}" for n in range(400)]
    add_rows(system, {id_: (1_000 + n, 7) for n, id_ in enumerate(movies)})
    quick = {"FLUSH__INTERVAL_S": "0.02", "FLUSH__POLL_MS": "5", "FLUSH__CLAIM_ENTITIES_MAX": "50"}
    with system.flusher(**quick), system.flusher(**quick), ThreadPoolExecutor(2) as pool:
        seeding = [pool.submit(system.tallyd, "backfill", "--chunk", chunk) for chunk in "37"]
        for start in range(0, len(movies), 40):
            system.count(*(event(entity_id=id_, value=2) for id_ in movies[start : start + 40]))
        for each in seeding:
            each.result(60)
    (tally,) = backfill(system).tables
    assert tally.upserted == 0
    system.flush()
    assert system.replica() == {id_: (1_002 + n, 7) for n, id_ in enumerate(movies)}
    assert bases(system) == {f"jav:movie:{id_}": {"view": 1_000 + n, "download": 7} for n, id_ in enumerate(movies)}
    assert audited(system) == set()
