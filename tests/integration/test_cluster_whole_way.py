"""The daemons and the commands on a real Redis Cluster of six nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from daemon.buffer.connection import Connection
from daemon.buffer.dedupe import Forgetting
from daemon.buffer.layout import Layout
from tests.kit.cluster import Cluster
from tests.kit.load import Load
from tests.kit.system import BATCH, System, event, wait_until

SHARDS = 8
ONE_SYSTEM = True


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(nodes: Cluster, system: System) -> Cluster:
    nodes.flushall()
    system.env |= {"TALLYD_REDIS__URL": nodes.url, "TALLYD_REDIS__SHARDS": str(SHARDS)}
    return nodes


def events(begin: int, end: int) -> list[dict[str, Any]]:
    return [
        event(event_id=f"event-{number}", entity_id=f"0f8fad5b-d9cb-469f-a165-{number % 40:012}")
        for number in range(begin, end)
    ]


def views(system: System) -> int:
    return sum(document["view"] for document in system.mongo.analytics_entity_totals.find())


COMMANDS = (
    "status", "audit", "parity-check", "doctor", "expire", "spools list", "key list", "dead list",
    "explain jav movie m",
)  # fmt: skip


def test_what_all_nodes_counted_is_flushed_and_each_command_reaches_the_nodes(cluster: Cluster, system: System) -> None:
    assert system.count(*events(0, 200)) == 200
    assert system.count(*events(0, 200)) == 0
    assert system.audit()["holds"]
    system.flush()
    assert views(system) == 200
    for command in COMMANDS:
        done = system.tallyd(*command.split(), check=False)
        assert done.returncode == 0, (command, done.stdout + done.stderr)


def test_windows_that_are_over_are_forgotten_on_every_node(cluster: Cluster, system: System) -> None:
    for shard in range(SHARDS):
        with cluster.primary(shard).client() as client:
            client.sadd(f"anl:{{{shard}}}:seen:7:1", 1)
    config = system.config()

    async def forget() -> list[int]:
        layout = Layout(config)
        connections = [Connection(config.redis, layout, shard) for shard in range(SHARDS)]
        memory = Forgetting(connections, config.dedupe.window_s)
        deleted = [await memory.run(), await memory.run()]
        for each in connections:
            await each.close()
        return deleted

    assert asyncio.run(forget()) == [SHARDS, 0]


def test_while_a_primary_is_dead_every_event_is_answered_and_counted_once(cluster: Cluster, system: System) -> None:
    """The replica was in step. What one lacks is another test's."""
    with system.ingest() as ingest, system.flusher(FLUSH__INTERVAL_S="0.2"):
        assert ingest.post(events(0, 200), BATCH).status_code == 202
        for node in cluster.nodes[:3]:
            with node.client() as client:
                client.execute_command("WAIT", 1, 5_000)
        killed = cluster.primary(1)
        killed.kill()
        load = Load(ingest.url, clients=4, spread=True)
        with load.running():
            load.wait_for_more()
            cluster.wait_taken_over(1, killed)
            load.wait_for_more()
        assert load.failures == []
        expected = 200 + load.count("acked")
        wait_until(lambda: views(system) == expected, "all is flushed", 60)
    killed.start()
    cluster.wait_ready()
    assert system.audit()["holds"]
    assert views(system) == expected
