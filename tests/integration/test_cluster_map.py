"""The map of a real Redis Cluster, and connections that follow it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from redis.crc import key_slot

from daemon.buffer.connection import Connection, RefusedError
from daemon.buffer.counters import Counters, Limits, ingest_events
from daemon.buffer.layout import Layout
from daemon.buffer.topology import SLOTS, Node, SlotMap, Topology, parse_slots, slot_of
from daemon.config import Config, load
from daemon.domain.action import Action
from daemon.domain.event import Event
from daemon.errors import StoreError
from tests.kit.cluster import Cluster
from tests.kit.shard import DAY

SHARDS = 8
EFFECT = Action("view", 1, 100, {"view": "value"}).effect(1, DAY)


@pytest.fixture
def cluster(cluster_nodes: Cluster) -> Cluster:
    cluster_nodes.restore()
    return cluster_nodes


def config_of(url: str, **more: str) -> Config:
    return load(environ={"TALLYD_REDIS__URL": url, "TALLYD_REDIS__SHARDS": str(SHARDS), **more})


def events(begin: int, end: int) -> list[Event]:
    return [Event(f"e{number}", f"jav:movie:m{number % 50}", EFFECT) for number in range(begin, end)]


@asynccontextmanager
async def counting(config: Config) -> AsyncIterator[tuple[Layout, list[Counters], list[Connection]]]:
    layout = Layout(config)
    connections = [Connection(config.redis, layout, shard) for shard in range(SHARDS)]
    try:
        yield layout, [Counters(each, shard, Limits.of(config)) for shard, each in enumerate(connections)], connections
    finally:
        for each in connections:
            await each.close()


async def insist(work: Callable[[], Awaitable[int]]) -> int:
    """Repeats what a daemon would repeat: a store that does not answer."""
    while True:
        try:
            return await work()
        except StoreError as error:
            if isinstance(error, RefusedError) and not error.passing:
                raise
            await asyncio.sleep(0.05)


async def live(counters: list[Counters]) -> int:
    booked = [await each._connection.command("HGET", each._keys.ledger, "accepted:view") for each in counters]
    return sum(int(each or 0) for each in booked)


def test_a_slot_is_that_of_redis() -> None:
    tags = [str(number) for number in range(200)] + ["1.7", ""]
    assert [slot_of(tag) for tag in tags if tag] == [key_slot(tag.encode(), SLOTS) for tag in tags if tag]


def test_a_node_without_an_address_is_the_one_that_was_asked() -> None:
    reply = [[0, 5, [None, 7000, b"a"], [b"10.0.0.2", 7001, b"b"]], [6, 9, [b"", 7002, b"c"]]]
    a, b, c = Node("seed", 7000), Node("10.0.0.2", 7001), Node("seed", 7002)
    assert parse_slots(reply, Node("seed", 1)) == SlotMap(((0, 5, a), (6, 9, c)), frozenset({a, b, c}))


def test_the_map_is_read_from_any_seed_and_a_dead_one_is_passed_over(cluster: Cluster) -> None:
    async def work() -> list[Node]:
        topology = Topology(config_of(f"redis://127.0.0.1:1,127.0.0.1:{cluster.nodes[5].port}").redis)
        together = await asyncio.gather(*(topology.node(slot_of(str(shard))) for shard in range(SHARDS)))
        assert topology.reads == 1, "they wait for one read"
        return list(together)

    found = asyncio.run(work())
    assert found == [("127.0.0.1", cluster.primary(shard).port) for shard in range(SHARDS)]
    assert len(set(found)) == 3


def test_without_any_node_the_error_names_the_seeds() -> None:
    topology = Topology(config_of("redis://user:secret@127.0.0.1:1,127.0.0.1:2").redis)
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1,127\.0\.0\.1:2.*tells its slots") as failed:
        asyncio.run(topology.node(0))
    assert "secret" not in str(failed.value)


def test_an_address_map_says_where_a_node_is_reached(cluster: Cluster) -> None:
    port = cluster.primary(0).port
    said = json.dumps({f"127.0.0.1:{port}": f"localhost:{port}"})
    config = config_of(cluster.url, TALLYD_REDIS__ADDRESS_MAP=said)
    assert asyncio.run(Topology(config.redis).node(slot_of("0"))) == ("localhost", port)


def test_events_of_all_shards_are_counted_on_their_nodes(cluster: Cluster) -> None:
    async def work() -> None:
        async with counting(config_of(cluster.url)) as (layout, counters, connections):
            assert await ingest_events(counters, events(0, 400)) == 400
            assert await ingest_events(counters, events(0, 401)) == 1
            assert await live(counters) == 401
            assert len({each.epoch for each in connections}) == 1, "the shards of a new cluster have one epoch"
            assert layout.topology is not None
            assert layout.topology.reads == 1

    asyncio.run(work())


def test_a_moved_shard_is_followed_without_a_failed_call(cluster: Cluster) -> None:
    async def work() -> None:
        async with counting(config_of(cluster.url)) as (layout, counters, _):
            await ingest_events(counters, events(0, 200))
            old = cluster.primary(3)
            target = next(node for node in cluster.primaries() if node not in (old, cluster.primary(0)))
            await asyncio.to_thread(cluster.move, 3, target)
            try:
                outcomes = await asyncio.gather(
                    *(ingest_events(counters, events(200 + 20 * at, 220 + 20 * at)) for at in range(10))
                )
                assert sum(outcomes) == 200
                assert await ingest_events(counters, events(0, 400)) == 0, "ids moved, too"
                assert await live(counters) == 400
                assert layout.topology is not None
                assert layout.topology.reads <= 2
            finally:
                await asyncio.to_thread(cluster.move, 3, old)

    asyncio.run(work())


def test_a_replica_that_took_over_is_found(cluster: Cluster) -> None:
    async def work() -> None:
        async with counting(config_of(cluster.url, TALLYD_REDIS__RECONNECT_MS="50")) as (_, counters, _):
            await ingest_events(counters, events(0, 200))
            await asyncio.to_thread(cluster.wait_replicated)
            killed = cluster.primary(1)
            killed.kill()
            await asyncio.to_thread(cluster.wait_taken_over, 1, killed)
            assert await insist(lambda: ingest_events(counters, events(0, 300))) <= 100
            assert await insist(lambda: ingest_events(counters, events(0, 300))) == 0
            assert await insist(lambda: live(counters)) == 300

    asyncio.run(work())


def test_a_shard_that_lost_its_memory_has_another_epoch(cluster: Cluster) -> None:
    async def epochs() -> list[int]:
        async with counting(config_of(cluster.url)) as (_, counters, connections):
            await ingest_events(counters, events(0, 200))
            return [each.epoch for each in connections]

    before = asyncio.run(epochs())
    with cluster.primary(1).client() as client:
        lost = {shard for shard in range(SHARDS) if cluster.primary(shard) is cluster.primary(1)}
        client.flushall()
    assert 0 not in lost, "shard 0 lies elsewhere"
    after = asyncio.run(epochs())
    assert {shard for shard in range(SHARDS) if after[shard] != before[shard]} == lost


def test_a_shard_is_refused_for_as_long_as_its_slot_moves(cluster: Cluster) -> None:
    async def work() -> None:
        async with counting(config_of(cluster.url)) as (_, counters, _):
            await ingest_events(counters, events(0, 100))
            old = cluster.primary(2)
            target = next(node for node in cluster.primaries() if node is not old)
            await asyncio.to_thread(cluster.begin_move, 2, target)
            with pytest.raises(RefusedError, match=r"ASK|TRYAGAIN") as refused:
                await ingest_events(counters, events(100, 200))
            assert refused.value.passing
            await asyncio.to_thread(cluster.end_move, 2, target)
            assert await insist(lambda: ingest_events(counters, events(0, 200))) <= 100
            assert await live(counters) == 200
            await asyncio.to_thread(cluster.move, 2, old)

    asyncio.run(work())
