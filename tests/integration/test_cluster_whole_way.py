"""The daemons and the commands on a real Redis Cluster of six nodes."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest

from daemon.buffer.connection import Connection
from daemon.buffer.dedupe import Forgetting
from daemon.buffer.imports import Checkpoint, RestartedError
from daemon.buffer.layout import Layout
from daemon.doctor import checks
from daemon.importer.store import opened_store
from daemon.ingest.decode import Batch, Decoder, build_catalogue
from tests.kit.cluster import Cluster
from tests.kit.load import Load
from tests.kit.system import BATCH, System, event, wait_until
from tests.kit.takeover import add_rows, backfill

SHARDS = 8
ONE_SYSTEM = True


def events(begin: int, end: int) -> list[dict[str, Any]]:
    return [event(event_id=f"event-{number}", entity_id=f"m{number % 20}") for number in range(begin, end)]


def views(system: System) -> int:
    return sum(document["view"] for document in system.mongo.analytics_entity_totals.find())


COMMANDS = (
    "status", "audit --deep", "parity-check", "doctor", "expire", "spools list", "shards list", "key list", "dead list",
    "explain jav movie m0", "top --domain jav --type movie", "report generate --days 2",
    "report verify", "export totals",
)  # fmt: skip
"""Each succeeds, if it reaches every node that it needs."""


def test_every_command_reaches_the_nodes(cluster: Cluster, system: System) -> None:
    movies = {f"m{number}": (100 + number, number) for number in range(20)}
    add_rows(system, movies)
    assert backfill(system).tables[0].upserted == 20
    assert system.count(*events(0, 200)) == 200
    assert system.count(*events(0, 200)) == 0
    assert system.audit()["holds"]
    system.flush()
    assert views(system) == 200
    assert set(system.sql("SELECT uuid, views, downloads FROM jav")) == {
        (uuid, views_of + 10, downloads) for uuid, (views_of, downloads) in movies.items()
    }
    for command in COMMANDS:
        done = system.tallyd(*command.split(), check=False)
        assert done.returncode == 0, (command, done.stdout + done.stderr)

    spoiled = {"_id": "jav:movie:m3"}
    system.mongo.analytics_entity_totals.update_one(spoiled, {"$set": {"view": "seven"}})
    system.count(*events(200, 400))
    system.flush()
    (letter,) = json.loads(system.tallyd("dead", "list", "--json").stdout)
    system.mongo.analytics_entity_totals.update_one(spoiled, {"$set": {"view": 10}})
    system.tallyd("dead", "retry", letter["id"])
    assert system.tallyd("audit", "--repair-replica").returncode == 0
    assert set(system.sql("SELECT uuid, views FROM jav")) == {(uuid, n + 20) for uuid, (n, _) in movies.items()}
    assert system.audit("--deep")["deep"]


def test_a_user_with_the_rights_that_init_names_may_do_all(cluster: Cluster, system: System) -> None:
    with_user = {"REDIS__URL": cluster.url.replace("//", "//tallyd:secret@")}
    said = system.tallyd("init", "--grants", "redis", **with_user).stdout
    (grant,) = [line for line in said.splitlines() if line.startswith("ACL SETUSER")]
    for node in cluster.nodes:
        with node.client() as client:
            client.execute_command(*grant.split())
    system.env |= system.environ(**with_user)
    assert system.count(*events(0, 200)) == 200
    system.flush()
    assert views(system) == 200
    assert system.audit("--deep")["holds"]
    assert [each for each in asyncio.run(checks.of_redis(system.config())) if each.severity != "ok"] == []


def test_a_file_is_imported_once_into_all_shards(cluster: Cluster, system: System) -> None:
    lines = [json.dumps(each) + "\n" for each in events(0, 500)]
    file = system.scratch / "events.ndjson"
    file.write_text("".join(lines[:300]))
    system.tallyd("import", str(file))
    system.tallyd("import", str(file))
    file.write_text("".join(lines))
    said = json.loads(system.tallyd("import", "--json", str(file)).stdout)
    assert said["files"][0]["counted"] == 200
    system.flush()
    assert views(system) == 500


def test_an_import_that_outlived_a_node_saves_no_place(cluster: Cluster, system: System) -> None:
    """The checkpoint lies beside shard 0, and the events of another node may be gone."""
    config = system.config()

    async def restarted_between(shard: int) -> None:
        stopping = threading.Event()
        async with opened_store(config, stopping, dry_run=False) as store:
            decoder = Decoder(build_catalogue(config), batch_events_max=200, clock=time.time)
            batch = decoder.batch(json.dumps(events(0, 200)).encode())
            assert isinstance(batch, Batch)
            await store.reached("first")
            assert (await store.count(batch.events)).events == 200
            place = Checkpoint(bytes=10, lines=1, digest="digest", name="file", at="now")
            await store.save("first", place, None)
            node = cluster.primary(shard)
            await asyncio.to_thread(node.kill)
            await asyncio.to_thread(cluster.wait_taken_over, shard, node)
            with pytest.raises(RestartedError):
                await store.save("first", place, None)

    asyncio.run(restarted_between(1))


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
        cluster.wait_replicated()
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


def test_of_a_cluster_each_node_is_looked_at_and_named_with_its_fix(cluster: Cluster, system: System) -> None:
    system.count(event())

    def found() -> dict[str, list[str]]:
        lines: dict[str, list[str]] = {}
        for each in asyncio.run(checks.of_redis(system.config())):
            if each.severity != "ok":
                assert each.fix
                lines.setdefault(each.check, []).append(f"{each.severity} {each.found}")
        return lines

    assert found() == {}
    evicting, refusing, *_ = cluster.primaries()
    dead = next(node for node in cluster.nodes if node not in cluster.primaries())
    with evicting.client() as first, refusing.client() as second:
        first.config_set("maxmemory-policy", "allkeys-lru")
        second.config_set("min-replicas-to-write", "2")
        try:
            assert found() == {
                "redis.eviction": [f"fatal redis://127.0.0.1:{evicting.port}: maxmemory-policy is allkeys-lru"],
                "redis.nodes": [f"fatal redis://127.0.0.1:{refusing.port}: 1 replicas, and min-replicas-to-write is 2"],
            }
            done = system.tallyd("ingest", check=False)
            assert done.returncode == 2
            assert f"127.0.0.1:{evicting.port}: maxmemory-policy" in done.stderr
        finally:
            first.config_set("maxmemory-policy", "noeviction")
            second.config_set("min-replicas-to-write", "0")
    dead.kill()
    (away, *more) = found()["redis.nodes"]
    assert f"{dead.port} does not answer" in away
    assert all("a primary without a replica" in each for each in more)  # once it has noticed


def test_a_redis_url_with_one_node_of_a_cluster_is_refused_at_the_start(cluster: Cluster, system: System) -> None:
    done = system.tallyd("ingest", check=False, REDIS__URL=f"redis://127.0.0.1:{cluster.primary(0).port}")
    assert done.returncode == 2
    assert "name two or more nodes of the cluster" in done.stderr
