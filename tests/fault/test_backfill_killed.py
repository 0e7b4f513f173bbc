"""The backfill, and the sync that takes rows over, killed (SIGKILL) at every step: what runs next ends in the same
numbers, and nothing of before is overwritten."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kit.kill import Kill, killed, kills
from tests.kit.system import System, event
from tests.kit.takeover import add_rows, audited, backfill, bases, everything

ONE_SYSTEM = True
MOVIES = [f"m{n:02}" for n in range(30)]
LEGACY = {id_: (100 + n, n) for n, id_ in enumerate(MOVIES)}
BASES = {f"jav:movie:{id_}": {"view": views, "download": downloads} for id_, (views, downloads) in LEGACY.items()}


SYNCED = {"synced.view": 7, "synced.download": 0}
"""What a document says whose row holds all that was counted."""


@pytest.fixture
def legacy(system: System) -> System:
    """Every other movie has counts of tallyd's own, in MongoDB only."""
    system.env |= {"TALLYD_FLUSH__LEASE_MS": "300", "TALLYD_FLUSH__INTERVAL_S": "0.1"}
    add_rows(system, LEGACY)
    system.count(*(event(entity_id=id_, value=2) for id_ in MOVIES[::2]))
    system.flush(MYSQL__URL="")
    return system


def total_views(twice: int = 0) -> dict[str, tuple[int, int]]:
    """The rows as they have to be in the end; `twice`: what was counted besides."""
    return {id_: (views + (2 + twice) * (n % 2 == 0), down) for n, (id_, (views, down)) in enumerate(LEGACY.items())}


# The backfill -----------------------------------------------------------------------------------------------------


@kills("daemon.move.backfill.run", "page", "make_due", "adopt", "record")
def test_a_killed_backfill_run_again_ends_in_the_same_numbers(legacy: System, kill: Kill) -> None:
    """With a sync before it is run again where the killed one's request was carried out, without where it was not."""
    killed(legacy, kill, "backfill", "--chunk", "10")
    if kill.after:
        legacy.count(*(event(entity_id=id_, value=5) for id_ in MOVIES[::2]))
        legacy.flush()
    (tally,) = backfill(legacy).tables
    assert tally.rows_before + tally.processed == len(MOVIES)
    assert bases(legacy) == BASES
    legacy.flush()
    assert legacy.replica() == total_views(5 if kill.after else 0)
    assert audited(legacy) == set()


@kills("daemon.move.backfill.run", "rebase")
def test_a_killed_reconcile_run_again_ends_in_the_same_numbers(legacy: System, kill: Kill) -> None:
    backfill(legacy)
    legacy.flush()
    legacy.sql("UPDATE jav SET views = views + 1000")
    killed(legacy, kill, "backfill", "--reconcile", "--chunk", "10")
    (tally,) = backfill(legacy, reconcile=True).tables
    assert tally.problems == 0
    assert {key: base["view"] - 1000 for key, base in bases(legacy).items()} == {
        key: base["view"] for key, base in BASES.items()
    }
    assert audited(legacy) == set()


@kills("daemon.move.backfill.history")
def test_a_killed_history_run_again_ends_in_the_same_numbers(legacy: System, kill: Kill) -> None:
    path = legacy.scratch / "days.csv"
    lines = [f"jav:movie:{id_},2024-12-{day},view,{day % 5}" for id_ in MOVIES for day in range(20, 32)]
    path.write_text("\n".join(["entity,date,counter,amount", *lines]))
    backfill(legacy)
    killed(legacy, kill, "backfill", "--daily", str(path))
    backfill(legacy, daily=path)
    assert bases(legacy, "weekly")["jav:movie:m01:2025-W01"] == {"view": 1}
    found = everything(legacy)
    for name in ("daily", "weekly", "monthly", "yearly"):
        legacy.mongo[f"analytics_entity_{name}"].delete_many({"entity_id": {"$in": MOVIES[1::2]}})
        legacy.mongo[f"analytics_entity_{name}"].update_many({}, {"$unset": {"base": 0, "source": 0}})
    backfill(legacy, daily=path)
    assert everything(legacy) == found, "as of a run that nobody killed"
    legacy.flush()
    assert audited(legacy) == set()


# The sync ---------------------------------------------------------------------------------------------------------


def marked(system: System) -> int:
    return system.redis.scard("anl:{0}:syncing")


def due(system: System) -> int:
    return system.redis.zcard("anl:{0}:replica")


def noted(system: System) -> bool:
    return system.mongo["analytics_entity_totals"].find_one(SYNCED) is not None


HOLDS: dict[str, Callable[[System], object]] = {
    "lock": lambda system: not marked(system) and bases(system) == {},
    "read": lambda system: not marked(system) and bases(system) == {},
    "adopt": lambda system: bases(system) and not marked(system),
    "begin_sync": lambda system: marked(system) and system.replica() == LEGACY,
    "update": lambda system: marked(system) and system.replica() == total_views(5) and not noted(system),
    "note": lambda system: marked(system) and noted(system),
    "end_sync": lambda system: not marked(system) and due(system),
    "unlock": lambda system: not marked(system) and due(system),
    "settle": lambda system: not due(system),
}
"""Step → what shows in the stores after it."""


def kill_a_sync(system: System, kill: Kill) -> None:
    system.count(*(event(entity_id=id_, value=5) for id_ in MOVIES[::2]))
    killed(system, kill, "flush")
    if kill.after:
        assert HOLDS[kill.step](system)


def the_rows_are_set(system: System) -> None:
    assert system.flush().replica_error is None
    assert system.replica() == total_views(5)
    assert marked(system) == due(system) == 0
    assert len(list(system.mongo["analytics_entity_totals"].find(SYNCED))) == len(MOVIES[::2])
    assert audited(system) == set()


@kills("daemon.replica.sync")
def test_a_killed_sync_overwrites_nothing_of_before(legacy: System, kill: Kill) -> None:
    kill_a_sync(legacy, kill)
    the_rows_are_set(legacy)
    assert bases(legacy) == dict(list(BASES.items())[::2])


@kills("daemon.replica.sync", "adopt", "begin_sync", "update")
def test_a_backfill_after_a_killed_sync_takes_no_written_column_for_a_base(legacy: System, kill: Kill) -> None:
    kill_a_sync(legacy, kill)
    backfill(legacy)
    the_rows_are_set(legacy)
    assert bases(legacy) == BASES


def test_live_events_flushes_and_backfills_at_the_same_time(system: System) -> None:
    """Two flush daemons, two backfills, and events of the same entities, all of them new."""
    movies = [f"m{n:03}" for n in range(400)]
    add_rows(system, {id_: (1_000 + n, 7) for n, id_ in enumerate(movies)})
    quick = {"FLUSH__INTERVAL_S": "0.02", "FLUSH__POLL_MS": "5", "FLUSH__CLAIM_ENTITIES_MAX": "50"}
    with system.flusher(**quick), system.flusher(**quick), ThreadPoolExecutor(2) as pool:
        seeding = [pool.submit(system.tallyd_apart, "backfill", "--chunk", chunk) for chunk in "37"]
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
