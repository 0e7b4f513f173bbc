"""Old days and weeks given up: whoever dies at whatever step, and whatever comes late, every count is accounted for."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from daemon.domain.rollup import DAILY, Kind
from daemon.retention.batch import Batches, Record
from daemon.retention.history import UndecidedError
from daemon.rollups.collections import EXPIRY
from daemon.rollups.collections import HISTORY_MARKS as MARKS
from daemon.rollups.mongo import Json, MongoSink
from tests.kit.kill import Kill, killed, kills
from tests.kit.system import System, event
from tests.kit.takeover import Recorder, add_rows, audited, backfill, bases

ONE_SYSTEM = True
TODAY = dt.datetime.now(dt.UTC).date()
KEEP = {"RETENTION__DAILY_DAYS": "30", "RETENTION__WEEKLY_WEEKS": "8"}
OLD, RECENT = TODAY - dt.timedelta(days=100), TODAY - dt.timedelta(days=10)


HISTORY = [(f"jav:movie:m{n}", day, 100 + n) for n in range(3) for day in (OLD, OLD + dt.timedelta(days=1), RECENT)]
"""What was taken over of three of the entities, of days on which they are counted, too."""
TAKEN_OVER = sum(amount for _, _, amount in HISTORY)


@pytest.fixture
def aged(system: System) -> System:
    """Twelve entities with three old days and one recent one, all flushed long ago; three of them with a history."""
    system.env |= {f"TALLYD_{key}": value for key, value in KEEP.items()}
    add_rows(system, {f"m{n}": (1_000, 0) for n in range(3)})
    for day in (OLD, OLD + dt.timedelta(days=1), OLD + dt.timedelta(days=30), RECENT):
        system.count(*(event(entity_id=f"m{n}", value=n + 1, occurred_at=f"{day}T00:00:00Z") for n in range(12)))
    system.flush()
    backfill(system, daily=days(system, HISTORY))
    age(system)
    return system


def days(system: System, lines: list[tuple[str, dt.date, int]]) -> Path:
    path = system.scratch / "days.csv"
    path.write_text("entity,date,counter,amount\n" + "".join(f"{key},{day},view,{n}\n" for key, day, n in lines))
    return path


def age(system: System) -> None:
    """As if nobody had written to the rollups for a month."""
    a_month_us = 30 * 86_400 * 1_000_000
    for name in ("daily", "weekly"):
        system.mongo[f"analytics_entity_{name}"].update_many({}, {"$inc": {"flush_seq": -a_month_us}})


def expire(system: System, *options: str, **env: str) -> dict[str, dict[str, Any]]:
    exit_code, printed = system.tallyd_here("expire", "--json", *options, **env)
    assert exit_code == 0
    return {found["rollup"]: found for found in json.loads(printed)}


def holds(system: System) -> None:
    assert audited(system) == set()


def kept_and_expired(system: System, name: str) -> dict[str, int]:
    """Entity → views, of a rollup's documents and of what expired together; `… base` → those taken over."""
    sums: Counter[str] = Counter()
    for collection in (f"analytics_entity_{name}", f"analytics_entity_{name}_expired"):
        for document in system.mongo[collection].find():
            sums[document["entity_id"]] += document["view"]
            for amount in document.get("base", {}).values():
                sums[f"{document['entity_id']} base"] += amount
    return dict(sums)


def nothing_is_lost(system: System) -> None:
    totals = {document["entity_id"]: document["view"] for document in system.mongo["analytics_entity_totals"].find()}
    totals |= {f"m{n} base": 3 * (100 + n) for n in range(3)}
    assert kept_and_expired(system, "daily") == kept_and_expired(system, "weekly") == totals
    holds(system)


def test_old_documents_go_and_their_amounts_stay(aged: System) -> None:
    done = expire(aged)
    assert (done["daily"]["documents"], done["weekly"]["documents"]) == (36, 36 if OLD.weekday() == 6 else 24)
    assert {document["date"] for document in aged.mongo["analytics_entity_daily"].find()} == {RECENT.isoformat()}
    nothing_is_lost(aged)


def test_a_second_run_changes_nothing(aged: System) -> None:
    expire(aged)
    before = {name: list(aged.mongo[name].find()) for name in aged.mongo.list_collection_names()}
    assert [found["documents"] for found in expire(aged).values()] == [0, 0, 0]
    assert {name: list(aged.mongo[name].find()) for name in aged.mongo.list_collection_names()} == before


def test_a_dry_run_says_what_would_go_and_changes_nothing(aged: System) -> None:
    found = expire(aged, "--dry-run")
    assert found["daily"]["documents"] == 36
    assert found["daily"]["amounts"] == {"view": 3 * 78, "download": 0, "base.view": 2 * (100 + 101 + 102)}
    assert found["daily"]["kept_from"] == (TODAY - dt.timedelta(days=29)).isoformat()
    assert aged.mongo["analytics_entity_daily"].count_documents({}) == 48
    assert aged.mongo[EXPIRY].count_documents({}) == 0


def test_without_retention_everything_is_kept(aged: System) -> None:
    found = expire(aged, RETENTION__HOURLY_DAYS="0", RETENTION__DAILY_DAYS="0", RETENTION__WEEKLY_WEEKS="0")
    assert [(each["kept_from"], each["documents"]) for each in found.values()] == [(None, 0)] * 3


def test_empty_stores_have_nothing_to_expire(system: System) -> None:
    assert [each["documents"] for each in expire(system, **KEEP).values()] == [0, 0, 0]


def test_a_late_event_is_added_when_it_is_a_week_old(aged: System) -> None:
    expire(aged)
    aged.count(event(entity_id="m3", value=50, occurred_at=f"{OLD}T00:00:00Z"))
    aged.flush()
    nothing_is_lost(aged)
    assert expire(aged)["daily"]["documents"] == 0, "a claim that was just written could be written again"
    age(aged)
    assert expire(aged)["daily"]["documents"] == 1
    nothing_is_lost(aged)


def test_a_base_expires_with_its_day(aged: System) -> None:
    expire(aged)
    found = aged.mongo["analytics_entity_daily_expired"].find_one({"_id": "jav:movie:m1"})
    assert found is not None
    assert (found["view"], found["base"]) == (6, {"view": 202})


# A history beside it ----------------------------------------------------------------------------------------------


def test_a_history_that_has_begun_to_expire_is_left_as_it_is_and_the_others_are_set(aged: System) -> None:
    add_rows(aged, {"other": (1_000, 0)})
    expire(aged)
    again = backfill(aged, daily=days(aged, [*HISTORY, ("jav:movie:other", OLD, 7)])).history
    assert again is not None
    assert (again.days, again.unchanged, again.problems, again.entities) == (1, 3, 6, 1)
    assert again.problems_listed[0].startswith(f"jav:movie:m0:{OLD}: jav:movie:m0 has begun to expire")
    assert aged.mongo[MARKS].count_documents({}) == 0
    assert bases(aged, "yearly")[f"jav:movie:other:{OLD.year}"] == {"view": 7}
    assert sum(kept_and_expired(aged, "daily").values()) == 4 * 78 + TAKEN_OVER + 7
    holds(aged)


def test_a_history_that_is_half_written_does_not_expire(aged: System) -> None:
    corrected = days(aged, [("jav:movie:m1", OLD, 500), ("jav:movie:m1", OLD + dt.timedelta(days=30), 1)])
    backfill(aged, daily=corrected, recorder=Recorder(stop_after=4))  # the rows, and the first lines
    assert aged.mongo[MARKS].count_documents({}) == 1
    expire(aged)
    left = aged.mongo["analytics_entity_daily"].find({"date": {"$lt": RECENT.isoformat()}})
    assert {document["entity_id"] for document in left} == {"m1"}
    assert kept_and_expired(aged, "daily")["m1 base"] == 500 + 1 + 101 + 101
    done = backfill(aged, daily=corrected).history
    assert done is not None
    assert (done.problems, done.entities) == (0, 1)
    holds(aged)
    age(aged)
    assert expire(aged)["daily"]["documents"] == 3
    holds(aged)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_beside_an_expiry_that_was_cut_off_a_history_waits_for_its_end(aged: System, steps: int) -> None:
    async def begin() -> None:
        batch = Steps(aged)
        await batch.begin()
        for _ in range(steps):
            await batch.next()
        await batch.mongo.close()

    asyncio.run(begin())
    corrected = days(aged, [("jav:movie:m1", RECENT, 500)])
    with pytest.raises(UndecidedError, match="tallyd expire"):
        backfill(aged, daily=corrected)
    expire(aged)
    # Whoever came first: the seal leaves out what is marked by then.
    done = backfill(aged, daily=corrected).history
    assert done is not None
    assert (done.problems, done.entities) == ((0, 1) if steps == 0 else (1, 0))
    assert kept_and_expired(aged, "daily")["m1 base"] == 101 + 101 + (500 if steps == 0 else 101)
    assert aged.mongo[MARKS].count_documents({}) == 0
    holds(aged)


def test_what_a_batch_in_flight_may_write_again_stays(aged: System) -> None:
    [found, *_] = aged.mongo["analytics_entity_daily"].find().sort("flush_seq", 1)
    seq = int(found["flush_seq"])
    aged.redis.hset("anl:{0}:claim", mapping={"seq": seq, f"payload:{seq}": b"\x90", "owner": "x", "until": 0})
    assert [each["documents"] for each in expire(aged).values()] == [0, 0, 0]


@pytest.mark.parametrize("change", [{"dead_applied": ["0:1:x"]}, {"view": "many"}, {"base": {"view": "many"}}])
def test_documents_that_are_no_plain_amounts_stay(aged: System, change: Json) -> None:
    daily = aged.mongo["analytics_entity_daily"]
    daily.update_one({"_id": f"jav:movie:m1:{OLD}"}, {"$set": change})
    assert expire(aged)["daily"]["documents"] == 35
    assert daily.count_documents({"_id": f"jav:movie:m1:{OLD}"}) == 1


# Dying at every step ----------------------------------------------------------------------------------------------


@kills("daemon.retention.batch")
def test_one_that_is_killed_leaves_nothing_that_the_next_does_not_finish(aged: System, kill: Kill) -> None:
    killed(aged, kill, "expire")
    holds(aged)
    expire(aged)
    assert aged.mongo["analytics_entity_daily"].count_documents({"date": {"$lt": RECENT.isoformat()}}) == 0
    nothing_is_lost(aged)


class Steps:
    """The daily batch, a step at a time, with whatever happens in between."""

    def __init__(self, system: System, kind: Kind = DAILY) -> None:
        self.system = system
        self.mongo = MongoSink(system.config().mongo)
        self.batches = Batches(self.mongo, kind)

    async def begin(self) -> None:
        await self.batches.begin(
            [*self.system.mongo["analytics_entity_daily"].find({"date": {"$lt": RECENT.isoformat()}})]
        )

    async def next(self) -> Record:
        """Does the next step; returns the record it began with, so that it can be done again, too late."""
        record = await self.batches.record()
        await self.again(record)
        return record

    async def again(self, record: Record) -> None:
        steps: dict[str, Any] = {
            "sealing": self.batches.seal, "deleting": self.batches.delete, "folding": self.batches.fold,
        }  # fmt: skip
        await steps[record.state](record)


def late_event(system: System) -> None:
    system.count(event(entity_id="m3", value=50, occurred_at=f"{OLD}T00:00:00Z"))
    system.flush()


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_a_late_event_between_any_two_steps_is_counted_once(aged: System, before: int) -> None:
    async def work() -> None:
        steps = Steps(aged)
        await steps.begin()
        for step in range(3):
            if step == before:
                await asyncio.to_thread(late_event, aged)
                await asyncio.to_thread(holds, aged)
            await steps.next()
            await asyncio.to_thread(holds, aged)
        if before == 3:
            await asyncio.to_thread(late_event, aged)
        await steps.mongo.close()

    asyncio.run(work())
    assert sum(kept_and_expired(aged, "daily").values()) == 4 * 78 + TAKEN_OVER + 50
    age(aged)
    expire(aged)
    nothing_is_lost(aged)


def test_steps_repeated_too_late_change_nothing(aged: System) -> None:
    """As by one that was frozen before each step and wakes up after others went on, and after a late event."""

    async def work() -> None:
        steps = Steps(aged)
        await steps.begin()
        old = []
        for _ in range(3):
            old.append(await steps.next())
            for record in old:
                await steps.again(record)
        await asyncio.to_thread(late_event, aged)
        await asyncio.to_thread(age, aged)
        await steps.begin()  # the next batch, of the late event's document
        for _ in range(3):
            for record in old:
                await steps.again(record)
            await asyncio.to_thread(holds, aged)
            await steps.next()
        await steps.mongo.close()

    asyncio.run(work())
    assert sum(kept_and_expired(aged, "daily").values()) == 4 * 78 + TAKEN_OVER + 50
    assert aged.mongo["analytics_entity_daily"].count_documents({"date": {"$lt": RECENT.isoformat()}}) == 0


def test_two_at_once_delete_and_add_once(aged: System) -> None:
    async def work() -> None:
        first, second = Steps(aged), Steps(aged)
        await first.begin()
        await asyncio.gather(first.batches.finish(), second.batches.finish())
        await first.mongo.close()
        await second.mongo.close()

    asyncio.run(work())
    assert sum(kept_and_expired(aged, "daily").values()) == 4 * 78 + TAKEN_OVER
    holds(aged)
