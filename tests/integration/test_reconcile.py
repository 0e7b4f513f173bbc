"""What the application added to the columns while tallyd was switched off becomes part of the bases; and nothing does
where that can't be told from what tallyd itself has not written yet."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from daemon.buffer import scripts
from daemon.move.backfill.run import LOST_COUNTS, PENDING
from daemon.replica.adopt import NO_NUMBER
from tests.kit.proxy import Fault, Gate, Proxy
from tests.kit.system import System, event
from tests.kit.takeover import (
    Recorder,
    add_rows,
    audited,
    backfill,
    bases,
    drain_until,
    everything,
    legacy_adds,
    taken_over,
)

LEGACY = {"a": (100, 5), "b": (10, 0), "c": (7, 1)}


@pytest.fixture
def counted(system: System) -> System:
    """Three movies that were taken over, counted on, and are in step."""
    taken_over(system, LEGACY)
    return system


def test_what_the_application_added_becomes_part_of_the_base(counted: System) -> None:
    legacy_adds(counted, a=20, downloads=2)
    legacy_adds(counted, c=1)
    counted.count(event(entity_id="a", value=4))  # taken again, not flushed yet
    (tally,) = backfill(counted, reconcile=True).tables
    assert (tally.upserted, tally.unchanged, tally.problems) == (2, 1, 0)
    assert bases(counted)["jav:movie:a"] == {"view": 120, "download": 7}
    before = everything(counted)
    (tally,) = backfill(counted, reconcile=True).tables
    assert (tally.upserted, tally.unchanged) == (0, 3)
    assert everything(counted) == before
    drain_until(counted, {"a": (127, 7), "b": (10, 1), "c": (8, 1)})
    assert audited(counted) == set()


def forget_what_the_columns_hold(system: System) -> None:
    """As an operator's edit may leave the documents."""
    system.mongo["analytics_entity_totals"].update_many({}, {"$unset": {"synced": 0}})


def test_a_dry_run_shows_what_it_would_change(counted: System) -> None:
    legacy_adds(counted, a=20)
    before, recorder = everything(counted), Recorder()
    backfill(counted, reconcile=True, dry_run=True, recorder=recorder)
    assert [str(change) for change in recorder.changes] == ["jav:movie:a view base 100 → 120"]
    assert everything(counted) == before


def test_rows_that_are_new_or_were_never_written_are_taken_over_whole(counted: System) -> None:
    add_rows(counted, {"new": (50, 0)})
    counted.count(event(entity_id="late", value=2))
    counted.flush()
    add_rows(counted, {"late": (9, 0)})
    (tally,) = backfill(counted, reconcile=True).tables
    assert (tally.upserted, tally.due, tally.problems) == (2, 1, 0)
    assert bases(counted)["jav:movie:late"] == {"view": 9, "download": 0}
    assert counted.flush().replica_error is None
    assert counted.replica()["late"] == (11, 0)
    assert audited(counted) == set()


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("state", ["on the list", "in flight", "a dead letter"])
def test_of_a_row_that_is_behind_it_has_to_be_known_what_it_holds(counted: System, state: str, *, noted: bool) -> None:
    if not noted:
        forget_what_the_columns_hold(counted)
    legacy_adds(counted, a=20, c=1)
    if state == "on the list":
        counted.redis.zadd("anl:{0}:replica", {"jav:movie:a": 1})
    elif state == "in flight":
        counted.count(event(entity_id="a", value=4))
        with (
            Proxy(counted.stack.redis, scripts.ACK.sha.encode(), Fault.HOLD_REQUEST).running() as proxy,
            counted.flusher(FLUSH__INTERVAL_S="0.05", REDIS__URL=proxy.url()) as flusher,
        ):
            assert proxy.tripped.wait(20), "MongoDB has the claim"
            flusher.kill()
    else:
        totals = counted.mongo["analytics_entity_totals"]
        totals.update_one({"_id": "jav:movie:a"}, {"$set": {"view": "seven"}})
        counted.count(event(entity_id="a", value=4))
        counted.flush()
        totals.update_one({"_id": "jav:movie:a"}, {"$set": {"view": 3}})
    outcome = backfill(counted, reconcile=True)
    assert bases(counted)["jav:movie:c"] == {"view": 8, "download": 1}
    if noted:
        assert outcome.tables[0].problems == 0
        assert bases(counted)["jav:movie:a"] == {"view": 120, "download": 5}
        return
    assert outcome.tables[0].problems_listed == [f"jav:movie:a: {PENDING}"]
    assert bases(counted)["jav:movie:a"] == {"view": 100, "download": 5}
    done = counted.tallyd("backfill", "--reconcile", check=False)
    assert done.returncode == 1
    assert f"jav:movie:a: {PENDING}" in done.stdout


def test_another_column_is_not_written_before_it_was_taken_over(system: System) -> None:
    """tallyd counted beside the application into a column of its own, and is now to take over the real one."""
    shadow = '{"jav": {"movie": {"table": "jav", "key": "uuid", "columns": {"view": "shadow"}}}}'
    system.sql("ALTER TABLE jav ADD shadow BIGINT NOT NULL DEFAULT 0")
    add_rows(system, {"a": (100, 0), "b": (10, 0)})
    system.count(event(entity_id="a", value=3))
    system.flush(REPLICA=shadow)
    legacy_adds(system, a=3)
    system.count(event(entity_id="a", value=4))
    assert "names other columns than before (jav.shadow → jav.views)" in str(system.flush().replica_error)
    refused = system.tallyd("backfill", check=False)
    assert refused.returncode == 2
    assert "names other columns than before" in " ".join(refused.stderr.split())
    assert backfill(system, reconcile=True).tables[0].problems == 1, "due, by the former mapping"
    system.flush(REPLICA=shadow)
    legacy_adds(system, a=4)
    assert backfill(system, reconcile=True).tables[0].problems == 0
    system.count(event(entity_id="a"))
    drain_until(system, {"a": (108, 0), "b": (10, 0)})
    assert system.sql("SELECT shadow FROM jav WHERE uuid = 'a'") == [(7,)]
    assert audited(system) == set()


@pytest.mark.parametrize(("field", "named"), [("view", {("conservation", "view", -3)}), ("base.view", set())])
def test_an_edited_document_holds_up_neither_the_sync_nor_the_others(
    counted: System, field: str, named: set[tuple[str, str, int]]
) -> None:
    counted.mongo["analytics_entity_totals"].update_one({"_id": "jav:movie:a"}, {"$set": {field: "seven"}})
    legacy_adds(counted, a=20, c=1)
    assert backfill(counted, reconcile=True).tables[0].problems_listed == [f"jav:movie:a: {NO_NUMBER}"]
    assert bases(counted)["jav:movie:c"] == {"view": 8, "download": 1}
    counted.count(event(entity_id="a", action="download"), event(entity_id="b"))
    done = counted.flush()
    assert (done.rows, done.refused) == (1, 1)
    assert counted.replica()["b"] == (11, 1)
    assert named <= audited(counted)


def test_a_column_that_lost_counts_is_listed_and_left_alone(counted: System) -> None:
    counted.sql("UPDATE jav SET views = 2 WHERE uuid = 'a'")
    (tally,) = backfill(counted, reconcile=True).tables
    assert tally.problems_listed == [f"jav:movie:a: {LOST_COUNTS} (view: -1)"]
    assert bases(counted)["jav:movie:a"] == {"view": 100, "download": 5}


@pytest.mark.parametrize("noted", [True, False])
def test_a_claim_applied_after_the_documents_were_read_is_not_overlooked(counted: System, *, noted: bool) -> None:
    """The update asks for the very amounts the base was computed from."""
    if not noted:
        forget_what_the_columns_hold(counted)
    legacy_adds(counted, a=20)
    with Gate(counted.env["TALLYD_MONGO__URL"], b"base.view").running() as gate, ThreadPoolExecutor(1) as pool:
        assert isinstance(gate, Gate)
        reconciling = pool.submit(backfill, counted, reconcile=True, MONGO__URL=gate.url())
        assert gate.tripped.wait(20)
        counted.count(event(entity_id="a", value=4))
        assert counted.flush(MYSQL__LOCK_TIMEOUT_S="1").replica_error is not None, "the rows are the other's now"
        gate.release()
        problems = reconciling.result(30).tables[0].problems_listed
    assert problems == ([] if noted else [f"jav:movie:a: {PENDING}"])
    assert bases(counted)["jav:movie:a"] == {"view": 120 if noted else 100, "download": 5}
