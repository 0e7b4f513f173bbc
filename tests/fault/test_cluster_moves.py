"""Shards that move between the nodes of a Redis Cluster while clients send events: each event counts once, no answer
of 500 or above (C8, C5)."""

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
        wait_until(lambda: views(system) == expected, f"all {expected} are flushed", 60)
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


def test_replicas_that_take_over_on_command(cluster: Cluster, system: System) -> None:
    """In step with their primary, without asking it, and without asking anyone."""
    with loaded(system) as load:
        for how in ("", "FORCE", "TAKEOVER"):
            cluster.fail_over(SHARD, how)
            load.wait_for_more(50)


def test_a_primary_that_is_frozen_and_thaws_when_another_leads(cluster: Cluster, system: System) -> None:
    """What it answers then is of a history that was given up. The workers send again what it had answered before."""
    with loaded(system) as load:
        frozen = cluster.primary(SHARD)
        frozen.freeze()
        try:
            cluster.wait_taken_over(SHARD, frozen)
            load.wait_for_more(50)
        finally:
            frozen.thaw()
        cluster.wait_ready()
