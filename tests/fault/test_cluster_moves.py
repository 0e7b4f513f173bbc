"""Shards that move between the nodes of a Redis Cluster while clients send events: each event counts once, no answer
of 500 or above (C8)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.kit.cluster import Cluster
from tests.kit.load import Load
from tests.kit.system import System, wait_until

ONE_SYSTEM = True
SHARD = 1


def views(system: System) -> int:
    return sum(document["view"] for document in system.mongo.analytics_entity_totals.find())


@contextmanager
def loaded(system: System) -> Iterator[Load]:
    """Four clients send meanwhile. At the end everything they sent is counted once, and nobody was refused."""
    with system.ingest() as ingest, system.flusher(FLUSH__INTERVAL_S="0.2"):
        load = Load(ingest.url, clients=4, spread=True)
        with load.running():
            load.wait_for_more()
            yield load
            load.wait_for_more()
        assert load.failures == []
        expected = load.count("acked")
        wait_until(lambda: views(system) == expected, f"all {expected} are flushed", 120)
    assert system.audit("--deep")["holds"]
    assert views(system) == expected


def test_a_shard_that_moves_there_and_back_under_load(cluster: Cluster, system: System) -> None:
    home = cluster.primary(SHARD)
    others = [node for node in cluster.primaries() if node is not home]
    with loaded(system) as load:
        for target in (*others, home, others[0], home):
            cluster.begin_move(SHARD, target)
            load.wait_for_more(20)
            cluster.end_move(SHARD, target)
            load.wait_for_more(50)


def test_a_move_that_is_given_up_and_one_that_stops_half_way_and_is_finished(cluster: Cluster, system: System) -> None:
    home = cluster.primary(SHARD)
    other = next(node for node in cluster.primaries() if node is not home)
    with loaded(system) as load:
        cluster.begin_move(SHARD, other, keys_max=0)
        load.wait_for_more(20)
        cluster.give_up_move(SHARD, other)
        load.wait_for_more(20)
        cluster.begin_move(SHARD, other, keys_max=5)
        load.wait_for_more(20)
        cluster.move(SHARD, other)  # what `redis-cli --cluster fix` does
