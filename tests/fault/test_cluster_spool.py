"""One pair of a Redis Cluster is away: its shards' events wait in the spool, the others are counted at once."""

from __future__ import annotations

import json
from typing import Any

from daemon.buffer.keys import shard_of
from tests.kit.cluster import Cluster
from tests.kit.daemon import answer_of
from tests.kit.servers import RedisServer
from tests.kit.system import BATCH, System, event, wait_until

ONE_SYSTEM = True
SHARDS = range(8)
AWAY = 1


def events(begin: int, end: int) -> list[dict[str, Any]]:
    return [event(event_id=f"event-{number}", entity_id=f"m{number % 40}") for number in range(begin, end)]


def views(system: System) -> int:
    return sum(document["view"] for document in system.mongo.analytics_entity_totals.find())


def kill_pair(cluster: Cluster, shard: int) -> tuple[list[RedisServer], set[int]]:
    """The replica first, so that nobody takes over. Returns both nodes, and their shards."""
    primary, replica = cluster.primary(shard), cluster.replica(shard)
    shards = {each for each in SHARDS if cluster.primary(each) is primary}
    replica.kill()
    primary.kill()
    return [primary, replica], shards


def of(shards: set[int], some: list[dict[str, Any]]) -> int:
    return sum(shard_of(f"jav:movie:{each['entity_id']}", len(SHARDS)) in shards for each in some)


def test_only_the_events_of_its_shards_wait(cluster: Cluster, system: System) -> None:
    """A batch that has some of them is answered 202 as a whole."""
    with system.ingest() as ingest, system.flusher(FLUSH__INTERVAL_S="0.2"):
        assert ingest.post(events(0, 100), BATCH).status_code == 202
        wait_until(lambda: views(system) == 100, "all is flushed")
        nodes, away = kill_pair(cluster, AWAY)
        here = set(SHARDS) - away
        counted = 100
        for begin in range(100, 500, 100):
            some = events(begin, begin + 100)
            assert ingest.post(some, BATCH).status_code == 202
            counted += of(here, some)
            wait_until(lambda: views(system) == counted, "the others are flushed", 60)  # noqa: B023
        assert 200 < counted < 400
        assert answer_of(ingest.url, "/readyz")["status"] == "spooling"
        for node in nodes:
            node.start()
        wait_until(lambda: views(system) == 500, "the rest is replayed and flushed", 60)
        wait_until(lambda: answer_of(ingest.url, "/readyz")["status"] == "ready", "nothing is spooled any more", 60)
        assert ingest.post(events(0, 500), BATCH).status_code == 202  # all are known
    cluster.wait_ready()
    assert system.audit("--deep")["holds"]
    assert views(system) == 500


def test_a_replay_sends_what_the_others_take(cluster: Cluster, system: System) -> None:
    """Also of segments that were written while all nodes were away."""
    for node in cluster.nodes:
        node.freeze()
    with system.ingest(REDIS__TIMEOUT_MS="300") as ingest:
        assert ingest.post(events(0, 100), BATCH).status_code == 202
        ingest.end()
    for node in cluster.nodes:
        node.thaw()
    cluster.wait_ready()
    system.count(*events(1_000, 1_001))
    nodes, away = kill_pair(cluster, AWAY)
    wait_until(lambda: system.tallyd("replay", check=False).returncode == 1, "the map is read")
    ledger = {shard: accepted(cluster, shard) for shard in set(SHARDS) - away}
    assert sum(ledger.values()) == of(set(SHARDS) - away, events(0, 100) + events(1_000, 1_001))
    for node in nodes:
        node.start()
    cluster.wait_ready()
    assert json.loads(system.tallyd("replay", "--json").stdout)["segments"] >= 1
    assert sum(accepted(cluster, shard) for shard in SHARDS) == 101


def accepted(cluster: Cluster, shard: int) -> int:
    with cluster.primary(shard).client() as client:
        return int(client.hget(f"anl:{{{shard}}}:ledger", "accepted:view") or 0)
