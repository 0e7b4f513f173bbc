"""Which node of a Redis Cluster has a slot. One a process; its connections share it.

The map is `CLUSTER SLOTS`, asked over a line of its own. It is read when it is first needed. It is read again after a
MOVED, after a connection was lost, and when a connection opens while it is older than REFRESH_S. One read goes on at a
time, and at most one a second begins. A MOVED also tells one slot, which counts until the next read.

An open connection does not look at the map: its node answers MOVED once it has the slot no more.
"""

from __future__ import annotations

import asyncio
import binascii
import random
from typing import Any, NamedTuple

import hiredis

from daemon.buffer.protocol import open_protocol, options_to, pack
from daemon.config import RedisSection, address_of, hosts_of
from daemon.errors import RedisStoreError, StoreError
from daemon.retry import jittered

SLOTS = 16_384
REFRESH_S = 15.0
"""A map older than this (± jitter) is read again before a connection opens by it."""
REFRESH_PAUSE_S = 1.0
"""Between the beginnings of two reads."""
ASKED_AT_ONCE = 3
"""Nodes that are asked together. The first good answer counts, so that a frozen node does not delay it."""


class Node(NamedTuple):
    host: str
    port: int


class SlotMap(NamedTuple):
    """One answer to CLUSTER SLOTS. `ranges`: first slot, last slot, primary. `nodes`: replicas, too."""

    ranges: tuple[tuple[int, int, Node], ...]
    nodes: frozenset[Node]

    def primary(self, slot: int) -> Node | None:
        return next((node for first, last, node in self.ranges if first <= slot <= last), None)


def slot_of(tag: str) -> int:
    """The slot of all keys with this hash tag: CRC-16 (XMODEM) modulo 16,384."""
    return binascii.crc_hqx(tag.encode(), 0) % SLOTS


def reached_at(redis: RedisSection, node: Node) -> Node:
    """Where this process reaches a node that says this address: `redis.address_map`."""
    host, _, port = redis.address_map.get(f"{node.host}:{node.port}", "").rpartition(":")
    return Node(host, int(port)) if host else node


def parse_slots(reply: list[Any], asked: Node) -> SlotMap:
    """A node without an address is the one that was asked: it does not know its own."""
    ranges, nodes = [], set()
    for first, last, *servers in reply:
        found = [_node(each[0], each[1], asked) for each in servers]
        ranges.append((int(first), int(last), found[0]))
        nodes.update(found)
    return SlotMap(tuple(ranges), frozenset(nodes))


class Topology:
    """The nodes of a cluster, by slot. Create it anywhere; use it in one loop."""

    def __init__(self, redis: RedisSection) -> None:
        """`redis.url` names some of the nodes."""
        self._url = redis.url
        self._timeout_s = redis.timeout_ms / 1000
        self._redis = redis
        self._seeds = [Node(host, port) for host, port in hosts_of(redis.url)]
        self._options: dict[str, Any] = options_to(redis.url)
        self._map = SlotMap((), frozenset())
        self._moved: dict[int, Node] = {}
        self._suspected = True
        self._old_at = self._begun_at = -1e9
        self._reading: asyncio.Task[None] | None = None
        self.reads = 0
        """How often a map was read."""

    async def node(self, slot: int) -> Node:
        """Where to connect for a slot. Raises StoreError if no node is known to have it."""
        now = asyncio.get_running_loop().time()
        if (self._suspected or now > self._old_at) and (
            self._reading is not None or now >= self._begun_at + REFRESH_PAUSE_S or not self._map.ranges
        ):
            if self._reading is None or self._reading.done():
                self._begun_at = now
                self._reading = asyncio.create_task(self._read())
            await asyncio.shield(self._reading)
        node = self._moved.get(slot) or self._map.primary(slot)
        if node is None:
            raise RedisStoreError(f"Redis at {address_of(self._url)}: no node of the cluster has slot {slot}.")
        return reached_at(self._redis, node)

    def suspect(self) -> None:
        """A node did not answer, or lost its role: another one may have its slots."""
        self._suspected = True

    def moved(self, error: str, sender: Node) -> None:
        """Takes in the text of a MOVED: "MOVED 3999 10.0.0.5:6381". Without a host it means the sender's."""
        _, slot, address = error.split(" ")[:3]
        host, _, port = address.rpartition(":")
        self._moved[int(slot)] = _node(host.encode(), int(port), sender)
        self._suspected = True

    async def _read(self) -> None:
        """Takes the first map that a healthy node tells, or one of an unhealthy node if no other answers."""
        told = list(dict.fromkeys(self._moved.values()))  # who got a slot knows the most
        known = random.sample(sorted(self._map.nodes), len(self._map.nodes))
        nodes = list(dict.fromkeys((*told, *known, *self._seeds)))
        fallback: SlotMap | None = None
        try:
            for at in range(0, len(nodes), ASKED_AT_ONCE):
                asking = [asyncio.create_task(self._ask(node)) for node in nodes[at : at + ASKED_AT_ONCE]]
                try:
                    for answer in asyncio.as_completed(asking):
                        found, healthy = await answer
                        fallback = fallback or found
                        if found is not None and healthy:
                            return self._take(found)
                finally:
                    for each in asking:
                        each.cancel()
            if fallback is None:
                raise RedisStoreError(f"Redis at {address_of(self._url)}: no node of the cluster tells its slots.")
            self._take(fallback)
        finally:
            self._reading = None

    def _take(self, found: SlotMap) -> None:
        self._map, self._moved, self._suspected = found, {}, False
        self._old_at = asyncio.get_running_loop().time() + jittered(REFRESH_S)
        self.reads += 1

    async def _ask(self, node: Node) -> tuple[SlotMap | None, bool]:
        """A node's map, None without an answer, and whether the node takes calls at all."""
        try:
            async with asyncio.timeout(self._timeout_s):
                line = await open_protocol(self._url, self._options, *reached_at(self._redis, node))
                try:
                    slots = await line.send(pack(("CLUSTER", "SLOTS")))
                    info = await line.send(pack(("CLUSTER", "INFO")))
                finally:
                    line.drop("asked")
        except (OSError, TimeoutError, StoreError):
            return None, False
        if isinstance(slots, hiredis.ReplyError) or isinstance(info, hiredis.ReplyError) or not slots:
            return None, False
        return parse_slots(slots, node), b"cluster_state:ok" in info


def _node(host: bytes | None, port: int, asked: Node) -> Node:
    return Node(host.decode() if host and host != b"?" else asked.host, int(port) or asked.port)
