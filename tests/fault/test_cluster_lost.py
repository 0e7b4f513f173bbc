"""A node of a Redis Cluster that loses its memory, its replica's too: only its shards begin anew (C7)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon.domain.rollup import COMPLETE, DAILY, TOTALS
from daemon.rollups.collections import EPOCHS, FLOORS
from tests.kit.cluster import Cluster
from tests.kit.kill import Kill, Stop, killed
from tests.kit.proxy import Fault, update_of
from tests.kit.system import System, event

ONE_SYSTEM = True
SHARDS = range(8)


def events(begin: int, end: int) -> list[dict[str, Any]]:
    return [
        event(event_id=f"event-{number}", entity_id=f"0f8fad5b-d9cb-469f-a165-{number % 40:012}")
        for number in range(begin, end)
    ]


def views(system: System, collection: str = TOTALS.collection) -> int:
    return sum(document["view"] for document in system.mongo[collection].find())


def wipe(cluster: Cluster, shard: int) -> list[int]:
    """Empties the pair that has a shard. Returns its shards."""
    node = cluster.primary(shard)
    with node.client() as client:
        client.flushall()
    return [each for each in SHARDS if cluster.primary(each) is node]


def lives(system: System) -> dict[int, int]:
    """What `tallyd status` says each shard has counted, and not flushed."""
    shards = json.loads(system.tallyd("status", "--json").stdout)["shards"]
    ledgers = {shard["shard"]: shard["ledger"] for shard in shards}
    return {number: each.get("accepted:view", 0) - each.get("flushed:view", 0) for number, each in ledgers.items()}


def epochs(system: System) -> dict[int, int]:
    return {each["shard"]: each["epoch"] for each in json.loads(system.tallyd("status", "--json").stdout)["shards"]}


@pytest.mark.parametrize("shard", [0, 1])  # the layout of shard 0 names the epoch of the others
def test_only_the_live_counts_of_its_shards_are_lost(cluster: Cluster, system: System, shard: int) -> None:
    system.count(*events(0, 200))
    system.flush()
    assert system.count(*events(200, 300)) == 100
    live, before = lives(system), epochs(system)
    lost = wipe(cluster, shard)
    assert 0 < len(lost) < len(SHARDS)
    left = 100 - sum(live[number] for number in lost)
    assert system.audit()["exact"]  # also before a flusher comes
    system.flush()
    assert views(system) == 200 + left
    assert system.audit("--deep")["deep"]
    after = epochs(system)
    assert [number for number in SHARDS if after[number] != before[number]] == lost
    assert system.count(*events(300, 400)) == 100
    system.flush()
    assert views(system) == 300 + left == views(system, DAILY.collection)
    (line,) = (line for line in system.audit()["lines"] if line["counter"] == "view")
    assert line["accepted"] + line["baseline"] == line["applied"] == 300 + left
    assert all("accounted" in floor for floor in system.mongo[FLOORS].find())
    assert {int(each) for epoch in system.mongo[EPOCHS].find() for each in epoch.get("shards", ())} == set(lost)


def test_it_may_happen_again_and_elsewhere(cluster: Cluster, system: System) -> None:
    expected = 0
    for round_, shard in enumerate((0, 1, 0, 1, 2, 2)):
        system.count(*events(100 * round_, 100 * round_ + 100))
        system.flush()
        expected += 100
        wipe(cluster, shard)
        assert system.audit()["exact"]
    assert views(system) == expected
    system.flush()
    assert system.audit("--deep")["deep"]


def test_a_claim_that_is_half_written_is_finished_from_the_journal(cluster: Cluster, system: System) -> None:
    system.count(*events(0, 200))
    system.flush()
    before = lives(system)
    system.count(*(each | {"entity_id": event()["entity_id"]} for each in events(200, 300)))  # all of one shard
    (half,) = (number for number, live in lives(system).items() if live != before[number])
    written = Kill("write", Stop("mongo", update_of(DAILY.collection)), Fault.HOLD_REQUEST)
    killed(system, written, "flush", "--once")
    wipe(cluster, half)
    assert views(system, DAILY.collection) == 200  # others may have it
    system.flush()
    assert [views(system, kind.collection) for kind in COMPLETE] == [300] * len(COMPLETE)
    assert system.audit("--deep")["deep"]


def test_all_nodes_at_once(cluster: Cluster, system: System) -> None:
    system.count(*events(0, 100))
    system.flush()
    cluster.flushall()
    system.count(*events(100, 150))
    system.flush()
    assert views(system) == 150
    assert system.audit("--deep")["deep"]
