"""The scripts on a Redis in Cluster mode: all keys of a shard lie in one slot."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from daemon.buffer.connection import Connection, RefusedError
from daemon.buffer.counters import Counters, Limits
from daemon.buffer.dedupe import Forgetting
from daemon.buffer.layout import Layout
from daemon.buffer.pending import Pending
from daemon.buffer.wire import Limit, Request
from daemon.config import load
from daemon.devstack import process
from daemon.domain.action import Action
from daemon.domain.claim import NO_CLAIM, ClaimName
from daemon.domain.event import Event
from daemon.rollups.build import Builder
from tests.kit.servers import RedisServer
from tests.kit.shard import DAY, Ev, Shard
from tests.kit.system import wait_until

SLOTS = 16_384
CLUSTER = ("--cluster-enabled", "yes")
M = "jav:movie:m"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """A cluster of one node that has every slot."""
    folder: Path = tmp_path_factory.mktemp("cluster")
    bus = str(process.free_port())  # by default 10,000 above the other, which may be too high
    with RedisServer(7, folder, *CLUSTER, "--cluster-port", bus) as server, server.client() as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, SLOTS - 1)
        wait_until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok", "the cluster is up")
        yield client


@pytest.fixture
def shard(cluster: redis.Redis) -> Shard:
    cluster.flushall()
    return Shard(cluster)


def port_of(client: redis.Redis) -> int:
    return int(client.connection_pool.connection_kwargs["port"])


def slots_in_use(client: redis.Redis) -> dict[int, int]:
    """Slot → number of keys."""
    slots = {int(client.execute_command("CLUSTER KEYSLOT", key)) for key in client.scan_iter(count=1_000)}
    return {slot: client.execute_command("CLUSTER COUNTKEYSINSLOT", slot) for slot in slots}


def test_a_shard_lies_in_one_slot_from_first_event_to_last_ack(shard: Shard) -> None:
    requests = [(f"198.51.100.{n}", [Ev(f"e{n}", f"jav:movie:{{{n}}}:{n}"), Ev("twice")]) for n in range(50)]
    assert sum(shard.ingest(*requests, rate=60)) == 51
    shard.redis.set(f"{shard.tag}:counters:jav:movie:foreign", "x")
    shard.redis.sadd(shard.dirty_key, "jav:movie:foreign")
    slot = int(shard.redis.execute_command("CLUSTER KEYSLOT", "anl:{3}:anything"))
    assert slots_in_use(shard.redis) == {slot: shard.redis.dbsize()}
    claimed = shard.claim()
    assert sum(amount for fields in claimed.by_entity.values() for amount in fields.values()) == 51
    assert shard.pending(claimed.amounts[0][0]).seq == claimed.seq
    assert shard.ack(claimed.seq, {"flushed:view": 51}, [entity for entity, _ in claimed.amounts]) == 1
    assert shard.settle(*((entity, str(claimed.seq)) for entity, _ in claimed.amounts)) == len(claimed.amounts)
    assert slots_in_use(shard.redis) == {slot: shard.redis.dbsize()}
    assert shard.ledger() == {"accepted:view": 51, "duplicate:view": 49, "aside": 1, "flushed:view": 51}


def test_two_shards_lie_in_two_slots(shard: Shard) -> None:
    other = Shard(shard.redis, 4)
    shard.count(Ev("e1"))
    other.count(Ev("e1"))
    assert len(slots_in_use(shard.redis)) == 2
    assert shard.live() == other.live() == {"jav:movie:m": {f"view:{DAY}": 1}}


def test_the_dedupe_memory_of_several_shards_is_forgotten(shard: Shard) -> None:
    over = [f"anl:{{{number}}}:seen:7:{bucket}" for number in range(3) for bucket in range(20)]
    for name in over:
        shard.redis.sadd(name, 1)
    config = load(environ={"TALLYD_REDIS__URL": f"redis://127.0.0.1:{port_of(shard.redis)}/0"})

    async def work() -> int:
        connection = Connection(config.redis, Layout(config))
        deleted = await Forgetting([connection], config.dedupe.window_s).run()
        await connection.close()
        return deleted

    assert asyncio.run(work()) == len(over)
    assert not shard.redis.exists(over[0])


@pytest.fixture
def moving(cluster: redis.Redis, tmp_path: Path) -> Iterator[Shard]:
    """A shard whose slot moves to a second node. It has every key a script may touch, and all are on the first node."""
    cluster.flushall()
    shard = Shard(cluster)
    for number in range(3):
        shard.count(Ev(f"e{number}"))
        if number < 2:
            claimed = shard.claim_whole()
        if number < 1:
            shard.ack(claimed.seq, {}, [M])
    keys = (shard.dirty_key, shard.claim_key, shard.replica_key, shard.ledger_key, shard.seen_key)
    assert cluster.exists(*keys) == len(keys)
    slot = int(cluster.execute_command("CLUSTER KEYSLOT", shard.dirty_key))
    bus = process.free_port()
    with RedisServer(7, tmp_path, *CLUSTER, "--cluster-port", str(bus)) as second, second.client() as other:
        name = other.execute_command("CLUSTER MYID").decode()
        cluster.execute_command("CLUSTER MEET", "127.0.0.1", port_of(other), bus)
        wait_until(lambda: name in str(cluster.execute_command("CLUSTER NODES")), "the nodes know each other")
        cluster.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", name)
        yield shard
        cluster.execute_command("CLUSTER SETSLOT", slot, "STABLE")
        cluster.execute_command("CLUSTER FORGET", name)


def test_a_script_with_a_prefix_is_refused_while_its_slot_moves(moving: Shard) -> None:
    """All keys that exist are still there, so it is the prefixes among the KEYS that protect them."""
    before = moving.everything()
    config = load(environ={"TALLYD_REDIS__URL": f"redis://127.0.0.1:{port_of(moving.redis)}/0"})
    event = Event("new", M, Action("view", 1, 100, {"view": "value"}).effect(1, DAY))
    limits = {"owner": "a", "floor": NO_CLAIM, "lease_ms": 1, "entities_max": 1, "fields_max": 1, "us_max": 1}

    async def work() -> None:
        connection = Connection(config.redis, Layout(config))
        counters = Counters(connection, 3, Limits.of(config))
        for call in (
            counters.ingest([Request("198.51.100.7", Limit(60, 0), 1, [event])]),
            counters.claim(Builder, **limits),
            counters.ack(ClaimName(int(moving.redis.hget(moving.claim_key, "seq")), ""), 0, [], [M]),
            counters.amend(ClaimName(1, ""), 0, [], [], []),
            Pending(connection, 3, 1_000).of(M),
        ):
            with pytest.raises(RefusedError, match="TRYAGAIN") as refused:
                await call
            assert refused.value.passing
        assert await counters.settle([]) == 0, "its only key is there"
        await connection.close()

    asyncio.run(work())
    assert {key: moving.redis.dump(key) for key in before} == {key: dump for key, (dump, _) in before.items()}
