"""A real Redis Cluster of a test's own: three primaries and their replicas, made without redis-cli.

A primary with a replica can be killed, a replica takes over, and a slot can be moved with its keys.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from pathlib import Path
from typing import Any, Self

import psutil
import redis

from daemon.buffer.topology import SLOTS, slot_of
from daemon.devstack import process
from daemon.devstack.start import start_all
from tests.kit.pair import Stream
from tests.kit.servers import RedisServer
from tests.kit.wait import wait_until

PRIMARIES = 3
NODE_TIMEOUT_MS = 2_000
"""Below that, a loaded machine lets replicas take over for no reason."""
OPTIONS = (
    "--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--appendonly", "yes",
    "--cluster-require-full-coverage", "no",
    "--repl-ping-replica-period", "1", "--repl-diskless-sync", "no",
    "--cluster-announce-ip", "127.0.0.1",
)  # fmt: skip
"""A node tells of a replica only once something was replicated to it: the first ping does it."""


class Cluster:
    """Six nodes. `nodes[:3]` begin as primaries, `nodes[3:]` as their replicas, in the same order.

    `gated`: clients and replicas reach each node through a line of its own, which can be held and cut.
    """

    def __init__(self, folder: Path, *, gated: bool = False) -> None:
        self.nodes: list[RedisServer] = []
        self.gates = [Stream(partial(self._url_of, number)) for number in range(2 * PRIMARIES if gated else 0)]
        for gate in self.gates:
            gate.start()
        for number in range(2 * PRIMARIES):
            at = folder / f"node{number}"
            at.mkdir(parents=True)
            announced = ("--cluster-announce-port", str(self.gates[number].port)) if gated else ()
            bus = ("--cluster-port", str(process.free_port()))
            self.nodes.append(RedisServer(7, at, *OPTIONS, *bus, *announced))

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as started:
            jobs = [node.job() for node in self.nodes]
            asyncio.run(start_all(jobs))
            for node, job in zip(self.nodes, jobs, strict=True):
                node.has_started(job)
                started.enter_context(node)
            self._join()
            self._started = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()
        for gate in self.gates:
            gate.stop()

    def _url_of(self, number: int) -> str:
        return self.nodes[number].url

    def port_of(self, node: RedisServer) -> int:
        """Where others reach the node, as it tells them."""
        return self.gates[self.nodes.index(node)].port if self.gates else node.port

    @property
    def url(self) -> str:
        """As `redis.url` names two of its nodes."""
        return f"redis://127.0.0.1:{self.port_of(self.nodes[0])},127.0.0.1:{self.port_of(self.nodes[1])}"

    def primary(self, shard: int) -> RedisServer:
        """The node that has a shard's slot, as a majority of the nodes that answer says."""
        return self.primary_of(slot_of(str(shard)))

    def primary_of(self, slot: int) -> RedisServer:
        said = []
        for node in self.nodes:
            with contextlib.suppress(redis.ConnectionError, redis.ResponseError, redis.TimeoutError):
                said += [_port(found) for first, last, *found in _slots(node) if first <= slot <= last]
        port = max(said, key=said.count)
        return next(node for node in self.nodes if self.port_of(node) == port)

    def replica(self, shard: int) -> RedisServer:
        """The replica of the shard's primary. The nodes tell of one only once it is in step."""
        self._wait_replicas()
        primary, slot = self.primary(shard), slot_of(str(shard))
        (port,) = (found[1] for first, last, _, *others in _slots(primary) if first <= slot <= last for found in others)
        return next(node for node in self.nodes if self.port_of(node) == port)

    def primaries(self) -> list[RedisServer]:
        """The nodes that have slots."""
        return list(dict.fromkeys(self.primary_of(slot) for slot in range(0, SLOTS, SLOTS // (4 * PRIMARIES))))

    def wait_ready(self) -> None:
        """Until every node that answers knows a primary for each slot."""
        wait_until(lambda: all(_state(node) == "ok" for node in self._answering), "the cluster is up", 60)

    @property
    def _answering(self) -> list[RedisServer]:
        """Those that run, and are not frozen."""
        processes = [(node, node.process) for node in self.nodes if node.running]
        return [node for node, process in processes if process and process.status() != psutil.STATUS_STOPPED]

    def wait_taken_over(self, shard: int, killed: RedisServer) -> None:
        """Until every node that answers names another primary for the shard than the killed or frozen one."""
        slot = slot_of(str(shard))

        def named(node: RedisServer) -> list[int]:
            return [_port(found) for first, last, *found in _slots(node) if first <= slot <= last]

        alive, before = self._answering, [list[int](), [self.port_of(killed)]]
        wait_until(lambda: all(named(node)[:1] not in before for node in alive), "a replica took over", 60)
        self.wait_ready()

    def fall_behind(self, shard: int) -> RedisServer:
        """From now on the replicas of the shard's primary get nothing. Returns the primary. Needs gates."""
        primary = self.primary(shard)
        self.gates[self.nodes.index(primary)].hold()
        return primary

    def lose(self, shard: int, primary: RedisServer) -> None:
        """SIGKILL to a primary, and a replica takes over without what it lacks. The killed one becomes its replica."""
        gate = self.gates[self.nodes.index(primary)]
        primary.kill()
        gate.drop()
        self.wait_taken_over(shard, primary)
        gate.deliver()
        gate.restore()
        primary.start()
        self.wait_ready()
        with self.primary(shard).client() as client, primary.client() as replica:
            reached = client.info("replication")["master_repl_offset"]
            wait_until(lambda: replica.info("replication").get("slave_repl_offset", 0) > reached, "its replica is back")

    def begin_move(self, shard: int, target: RedisServer, keys_max: int = 2**31) -> None:
        """Moves the keys of the shard's slot to another primary. The slot stays open: neither node runs a script."""
        slot, source = slot_of(str(shard)), self.primary(shard)
        with source.client() as old, target.client() as new:
            new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", _id(old))
            old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", _id(new))
            while keys_max > 0 and (keys := old.execute_command("CLUSTER GETKEYSINSLOT", slot, min(100, keys_max))):
                old.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *keys)
                keys_max -= len(keys)

    def end_move(self, shard: int, target: RedisServer) -> None:
        source = self.primary(shard)
        with source.client() as old, target.client() as new:
            for client in (new, old):
                client.execute_command("CLUSTER SETSLOT", slot_of(str(shard)), "NODE", _id(new))

    def give_up_move(self, shard: int, target: RedisServer) -> None:
        """Ends a move of which no key was moved. Once one was, it can only be finished."""
        with self.primary(shard).client() as old, target.client() as new:
            for client in (old, new):
                client.execute_command("CLUSTER SETSLOT", slot_of(str(shard)), "STABLE")

    def wait_replicated(self) -> None:
        """Until the replicas have all that the primaries wrote so far."""
        for node in self.primaries():
            with node.client() as client:  # WAIT is about what its own client wrote
                reached, info = client.info("replication")["master_repl_offset"], client.info
                wait_until(lambda: info("replication")["slave0"]["offset"] >= reached, "the replica has all", 60)  # noqa: B023

    def move(self, shard: int, target: RedisServer) -> None:
        """Moves the shard's slot with all its keys to another primary."""
        self.begin_move(shard, target)
        self.end_move(shard, target)

    def restore(self) -> None:
        """All nodes run, each shard has a primary with a replica, and nothing is stored."""
        for node in self.nodes:
            node.start()
        self.wait_ready()
        self.flushall()
        self._wait_replicas()

    def flushall(self) -> None:
        for node in self.nodes:
            with node.client() as client, contextlib.suppress(redis.ReadOnlyError):
                client.flushall()

    def _join(self) -> None:
        with contextlib.ExitStack() as clients:
            asked = [clients.enter_context(node.client()) for node in self.nodes]
            for number, client in enumerate(asked[:PRIMARIES]):
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                low, high = (SLOTS * each // PRIMARIES for each in (number, number + 1))
                client.execute_command("CLUSTER ADDSLOTSRANGE", low, high - 1)
            buses = [int(client.config_get("cluster-port")["cluster-port"]) for client in asked]
            for node, bus in zip(self.nodes[1:], buses[1:], strict=True):
                asked[0].execute_command("CLUSTER MEET", "127.0.0.1", node.port, bus)
            ids = [_id(client) for client in asked]
            for client in asked:
                wait_until(lambda: all(id_ in str(client.execute_command("CLUSTER NODES")) for id_ in ids), "all met")  # noqa: B023
            for number, client in enumerate(asked[PRIMARIES:]):
                client.execute_command("CLUSTER REPLICATE", ids[number])
            wait_until(
                lambda: all(client.info("replication")["connected_slaves"] == 1 for client in asked[:PRIMARIES]),
                "each primary has its replica",
            )
            for client in asked[PRIMARIES:]:
                wait_until(lambda: client.info("replication")["master_link_status"] == "up", "replicas are in step")  # noqa: B023
        self.wait_ready()
        self._wait_replicas()

    def _wait_replicas(self) -> None:
        wait_until(lambda: all(_replicas(node) == PRIMARIES for node in self.nodes), "all know all replicas", 60)


def _id(client: redis.Redis) -> str:
    id_: str = client.execute_command("CLUSTER MYID").decode()  # type: ignore[no-untyped-call]
    return id_


def _slots(node: RedisServer) -> list[list[Any]]:
    with redis.Redis(port=node.port, socket_timeout=2) as client:
        client.response_callbacks.clear()
        found: list[list[Any]] = client.execute_command("CLUSTER SLOTS")
    return found


def _port(servers: list[Any]) -> int:
    return int(servers[0][1])


def _replicas(node: RedisServer) -> int:
    return len({_port([server]) for _, _, _, *servers in _slots(node) for server in servers})


def _state(node: RedisServer) -> str:
    with redis.Redis(port=node.port, socket_timeout=2) as client:
        state: str = client.execute_command("CLUSTER INFO")["cluster_state"]
    return state
