"""What lies in MongoDB after all that tallyd does is what `rollups/collections.py` says, to the field."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections import defaultdict
from typing import Any

import pytest

from daemon.domain.rollup import DAILY
from daemon.errors import HeldError
from daemon.retention.batch import Batches
from daemon.rollups.collections import DOCTOR, EPOCHS, FIELDS, FLOORS, ROLLUPS
from daemon.rollups.mongo import MongoSink
from tests.kit.system import System, event
from tests.kit.takeover import add_rows, backfill

OLD = dt.date(2020, 2, 19)
COUNTERS = {"view", "download"}
CLAIM = "anl:{0}:claim"
OF_A_CLUSTER = {FLOORS: {"accounted"}, EPOCHS: {"shards"}}
"""What `tests/fault/test_cluster_lost.py` stores."""


def do_everything(system: System) -> dict[str, Any]:
    """Counts, flushes, takes over, buries, retries, compares and expires; leaves a history and an expiry unfinished.
    Returns a dead letter that there was."""
    add_rows(system, {"a": (1_000, 2), "b": (7, 0)})
    days = system.scratch / "days.csv"
    days.write_text(f"entity,date,counter,amount\njav:movie:a,{OLD},view,100\n")
    system.count(*(event(entity_id=id_, occurred_at=f"{OLD}T00:00:00Z") for id_ in ("a", "b")))
    system.flush()
    backfill(system, daily=days)
    daily = system.mongo["analytics_entity_daily"]
    daily.update_one({"entity_id": "b"}, {"$set": {"view": "seven"}})
    system.count(event(entity_id="b", occurred_at=f"{OLD}T00:00:00Z"))
    system.redis.hset("anl:{0}:counters:nonsense", "view", "3")
    system.redis.hset("anl:{0}:counters:jav:movie:a", f"view:{OLD}T05", "1")
    system.redis.sadd("anl:{0}:dirty", "nonsense", "jav:movie:a")
    system.flush()
    daily.update_one({"entity_id": "b"}, {"$set": {"view": 1}})
    letter: dict[str, Any]
    [letter] = system.mongo["analytics_dead_letters"].find({"collection": "analytics_entity_daily"})
    system.tallyd("dead", "retry", "--all", check=False)
    system.tallyd("audit", "--rebuild-domains", check=False)
    system.flush()
    system.tallyd("shadow-compare", "--record", check=False)
    for name in ("daily", "weekly"):
        system.mongo[f"analytics_entity_{name}"].update_many({}, {"$inc": {"flush_seq": -30 * 86_400 * 1_000_000}})
    system.tallyd("expire")
    system.count(event(entity_id="c"))
    system.flush()
    last = system.redis.hget(CLAIM, "last") or b""
    system.redis.hset(CLAIM, "last", 1)
    with pytest.raises(HeldError):
        system.flush()
    system.redis.hset(CLAIM, "last", last)
    system.mongo["analytics_entity_totals"].update_one({"entity_id": "c"}, {"$inc": {"view": 1}})
    system.tallyd("audit", "--accept", "a test", check=False)
    system.mongo["analytics_backfill_marks"].insert_one({"_id": "jav:movie:a"})

    async def begin_an_expiry() -> None:
        async with MongoSink(system.config().mongo) as mongo:
            batches = Batches(mongo, DAILY)
            await batches.begin(await mongo.collection(DAILY).find().to_list())
            await batches.seal(await batches.record())

    asyncio.run(begin_an_expiry())
    return letter


def test_every_stored_field_is_documented_and_every_documented_one_is_stored(system: System) -> None:
    table = {
        "table": "jav", "key": "uuid", "columns": {"view": "views", "download": "downloads"}, "shadow": {"view": "id"},
    }  # fmt: skip
    system.env |= {
        "TALLYD_RETENTION__DAILY_DAYS": "30",
        "TALLYD_RETENTION__WEEKLY_WEEKS": "8",
        "TALLYD_REPLICA__JAV__MOVIE": json.dumps(table),
    }
    letter = do_everything(system)
    system.env["TALLYD_REPLICA__JAV__MOVIE"] = json.dumps({**table, "known": True})
    system.count(event(entity_id="of no row"))
    system.flush()
    system.mongo["analytics_dead_letters"].insert_one({**letter, "retrying": True})
    system.redis.hset(CLAIM, "last", 1)
    for goes_on in (True, False):
        with pytest.raises(HeldError):
            system.flush()
        system.tallyd("shards", "accept", "0", "--reason", "a test")
        if goes_on:
            system.flush()
            system.redis.hset(CLAIM, "last", 1)
    found: dict[str, set[str]] = defaultdict(set)
    for name in system.mongo.list_collection_names():
        for document in system.mongo[name].find():
            found[name] |= document.keys()
    of_rollups = set[str]().union(*(found.pop(name, set()) for name in ROLLUPS))
    assert found == {
        name: set(fields) - OF_A_CLUSTER.get(name, set())
        for name, fields in FIELDS.items()
        if name not in (*ROLLUPS, DOCTOR)
    }
    assert of_rollups == set(FIELDS[ROLLUPS[0]]) | COUNTERS
