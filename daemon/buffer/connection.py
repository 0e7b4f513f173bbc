"""Connections to Redis: ours for the scripts, redis-py's for all other commands.

`Connection` speaks RESP itself (hiredis packs and parses). The hot path has one command, and redis-py's layers cost as
much as the rest of it together. If a reply is late, the connection is dropped, so no later caller gets an earlier
caller's reply. Nothing is sent twice, except after NOSCRIPT and MOVED, which Redis answers before it runs anything.

A failure raises StoreError. It is then unknown whether the script ran, unless the error is a `RefusedError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from typing import Any

import hiredis
import msgspec
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError
from redis.maint_notifications import MaintNotificationsConfig

from daemon.buffer import confirm, scripts
from daemon.buffer.confirm import Confirmation, Memory
from daemon.buffer.layout import MARK_INTERVAL_MS, Layout, begin_epoch, lost_transactions
from daemon.buffer.protocol import Arg, Protocol, open_protocol, options_to, pack
from daemon.buffer.scripts import Script
from daemon.buffer.topology import Node, reached_at, slot_of
from daemon.config import RedisSection, address_of, hosts_of, is_cluster, url_at
from daemon.errors import LayoutError, RedisStoreError, StoreError
from daemon.retry import jittered

PASSING = frozenset((
    "OOM", "READONLY", "LOADING", "MISCONF", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN", "UNBLOCKED",
    "BUSY", "NOREPLICAS", "NOAUTH", "NOPERM",
))  # fmt: skip
"""Codes of refusals that end by themselves: memory is freed, the disk works again, another server leads."""
_CODE = re.compile(r"(?:ERR .*?user_script: ?\d+: -?(?=[A-Z]))?([A-Z]+)\b", re.DOTALL)
"""The first word of an error; of one that a script passes on, the first one behind the script's line."""


FAILURES = (RedisError, RedisClusterException)
"""What redis-py raises. A cluster of which no node answers is no RedisError."""


class RefusedError(RedisStoreError):
    """Redis answered with an error before it wrote anything. `passing`: the same call may be taken later."""

    def __init__(self, what: str, error: object) -> None:
        super().__init__(f"{what}: {error}")
        found = _CODE.match(str(error))
        self.code = found[1] if found else ""
        self.passing = self.code in PASSING


class MovedError(RefusedError):
    """Another node of the cluster has the shard."""


@contextlib.asynccontextmanager
async def opened(section: RedisSection) -> AsyncIterator[Redis]:
    """A redis-py client. It sends every command once, and is closed at the end.

    Raises StoreError if anything goes wrong between it and the server.
    """
    redis = client_of(section)
    try:
        with answered(section):
            yield redis
    finally:
        await redis.aclose()


@contextlib.contextmanager
def answered(section: RedisSection) -> Iterator[None]:
    """Raises StoreError for whatever goes wrong between a client and the server."""
    try:
        yield
    except FAILURES as error:
        raise RedisStoreError(f"Redis at {address_of(section.url)}: {error}") from None


def client_of(section: RedisSection) -> Redis:
    """A redis-py client that sends every command once. It connects when it is first used. Close it once."""
    if is_cluster(section.url):
        return _client_of_cluster(section)
    options: dict[str, Any] = {}
    if not section.url.startswith("unix:"):
        # On TCP with RESP3, redis-py 8 skips its stale-connection check while these are on.
        options["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    timeout_s = section.timeout_ms / 1000
    return Redis.from_url(
        section.url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0), **options
    )


def _client_of_cluster(section: RedisSection) -> Redis:
    """The same for all nodes: a command goes to the node of its key, a transaction to that of its keys."""

    timeout_s = section.timeout_ms / 1000
    options = {name: value for name, value in options_to(section.url).items() if name not in ("host", "port", "db")}
    secure = options.pop("connection_class", None) is not None
    cluster: Any = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in hosts_of(section.url)],
        address_remap=lambda said: reached_at(section, Node(*said)),
        require_full_coverage=False, ssl=secure, socket_timeout=timeout_s, socket_connect_timeout=timeout_s,
        maint_notifications_config=MaintNotificationsConfig(enabled=False), **options,
    )  # fmt: skip
    client: Redis = cluster  # it has the commands that tallyd uses
    return client


async def infos_of(redis: Redis, section: str) -> list[dict[str, Any]]:
    """INFO of this Redis, or of each primary of a cluster. Raises RedisError."""
    client: Any = redis
    if not isinstance(client, RedisCluster):
        return [await client.info(section)]
    await client.initialize()
    return [await client.info(section, target_nodes=node) for node in client.get_primaries()]


async def nodes_of(section: RedisSection) -> list[RedisSection]:
    """Of a cluster, a section for each of its nodes, primaries first: as if it were a single Redis. Raises
    StoreError."""
    async with opened(section) as redis:
        client: Any = redis
        await client.initialize()
        nodes = sorted(client.get_nodes(), key=lambda node: (node.server_type != "primary", node.host, node.port))
        return [msgspec.structs.replace(section, url=url_at(section.url, node.host, node.port)) for node in nodes]


class Connection:
    """Runs scripts and commands over one connection. It opens when it is first needed, and again after a loss.

    Each new connection checks the layout first. After a failed attempt to connect, calls fail at once for up to
    `reconnect_ms`. A call without a reply within `timeout_ms` fails, and with it every other call on the connection.

    In a cluster it leads to the node that has its shard, and follows the shard when that moves.
    """

    def __init__(self, redis: RedisSection, layout: Layout, shard: int = 0) -> None:
        """`shard`: the one whose keys it is used for. Without a cluster one connection serves all."""
        self._redis = redis
        self._url = redis.url
        self._layout = layout
        self._topology = layout.topology
        self._shard = shard
        self._slot = slot_of(str(shard))
        self._layout_key = layout.keys.layout_of(shard)
        self._others: list[Connection] = []
        self.keys = layout.keys
        self._options: dict[str, Any] = options_to(redis.url)
        self.node = Node("", 0)
        """Of a cluster, where it leads to."""
        self._timeout_s = redis.timeout_ms / 1000
        self._reconnect_s = redis.reconnect_ms / 1000
        self._protocol: Protocol | None = None
        self._connecting = asyncio.Lock()
        self._retry_at = -1e9
        self._failure = RedisStoreError("")
        self._replicas = redis.replicas
        """How many there are, by its last confirmation."""
        self.memory = Memory("", 0)
        """What answers on the current connection. It is another object once the connection was opened again, or Redis
        was seen emptied: it may have lost what an earlier reply said. An epoch of 0: it was never open."""

    @property
    def epoch(self) -> int:
        """When the Redis of the current connection began to count (µs). It differs once Redis has lost its memory."""
        return self.memory.epoch

    @property
    def is_open(self) -> bool:
        return self._protocol is not None and self._protocol.lost is None

    @property
    def is_of_cluster(self) -> bool:
        return self._topology is not None

    @property
    def call_s_max(self) -> float:
        """The longest that one call can take: it connects, calls, and calls again after NOSCRIPT, or after MOVED."""
        return (5 if self._topology else 3) * self._timeout_s

    def for_shards(self, shards: int) -> list[Connection]:
        """A connection for each shard: this one, or in a cluster one more for each other shard. `close` closes all."""
        if self._topology is None:
            return [self] * shards
        self._others = [Connection(self._redis, self._layout, shard) for shard in range(shards) if shard != self._shard]
        return [*self._others[: self._shard], self, *self._others[self._shard :]]

    async def confirm(self, timeout_ms: int) -> Confirmation:
        """Whether the replicas hold all that this Redis has executed by now. Waits for that for up to `timeout_ms`.
        Raises StoreError."""
        told = await self._confirm(self._replicas, timeout_ms)
        if told.wanted > self._replicas and not told.held:
            told = await self._confirm(told.wanted, timeout_ms)
        self._replicas = told.wanted
        return told

    async def _confirm(self, replicas: int, timeout_ms: int) -> Confirmation:
        protocol = self._protocol
        if protocol is None or protocol.lost is not None:
            protocol = await self.connect()
        # WAIT compares the replicas with where the log of Redis stood after this client's last command: after INFO.
        about = asyncio.ensure_future(self._call(protocol, pack(("INFO", "replication"))))
        # For WAIT, 0 ms are for ever.
        waiting = pack(("WAIT", str(replicas if timeout_ms else 0), str(timeout_ms)))
        held = self._call(protocol, waiting, timeout_ms / 1000)
        told, reached = await asyncio.gather(about, held)
        if isinstance(told, hiredis.ReplyError) or isinstance(reached, hiredis.ReplyError):
            failed = told if isinstance(told, hiredis.ReplyError) else reached
            raise RefusedError(f"Redis at {address_of(self._url)} refused INFO or WAIT", failed)
        return confirm.read(told, int(reached), self._redis.replicas)

    async def command(self, *command: Arg) -> Any:
        """Runs one command and returns its reply (bulk strings as bytes). Raises StoreError."""
        protocol = self._protocol
        if protocol is None or protocol.lost is not None:
            protocol = await self.connect()
        reply = await self._call(protocol, pack(command))
        if isinstance(reply, hiredis.ReplyError) and self._has_moved(protocol, reply):
            reply = await self._call(await self.connect(), pack(command))
        if isinstance(reply, hiredis.ReplyError):
            raise RefusedError(f"Redis at {address_of(self._url)} refused {command[0]!r}", reply)
        return reply

    async def run(self, script: Script, names: Sequence[str], args: Sequence[Arg]) -> Any:
        """Runs a script with these KEYS and ARGV and returns its reply (bulk strings as bytes). Raises StoreError."""
        protocol = self._protocol
        if protocol is None or protocol.lost is not None:
            protocol = await self.connect()
        try:
            return await self._run(protocol, script, names, args)
        except MovedError:
            return await self._run(await self.connect(), script, names, args)

    async def ping(self) -> None:
        """Raises StoreError unless Redis answers and its layout is ours."""
        reply = await self.run(scripts.LAYOUT, (self._layout_key,), self._layout.script_args)
        epoch = self._layout.verify(reply, self._layout_key)
        if epoch != self.epoch:
            self.memory = Memory(self.memory.history, epoch)

    async def mark(self, good_for_ms: int = MARK_INTERVAL_MS) -> None:
        """Renews the marks that tell whether Redis lost its transactions, if they are older. Raises StoreError."""
        if mark := await self.run(scripts.MARK, (self._layout_key,), ("", good_for_ms)):
            await self.run(scripts.MARK, (self._layout_key,), (mark, good_for_ms))
            self._layout.has_marked(int(mark), self._layout_key)

    async def close(self) -> None:
        if self._protocol is not None:
            self._protocol.drop("closed")
            self._protocol = None
        for other in self._others:
            await other.close()

    async def _run(self, protocol: Protocol, script: Script, names: Sequence[str], args: Sequence[Arg]) -> Any:
        reply = await self._call(protocol, pack(("EVALSHA", script.sha, len(names), *names, *args)))
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
            reply = await self._call(protocol, pack(("EVAL", script.source, len(names), *names, *args)))
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("READONLY"):
                protocol.drop("has become a replica")  # the next connection may reach the new primary
            if self._has_moved(protocol, reply):
                raise MovedError(f"Redis at {address_of(self._url)} has moved shard {self._shard}", reply)
            raise RefusedError(f"Redis at {address_of(self._url)} refused {script.name}", reply)
        return reply

    def _has_moved(self, protocol: Protocol, reply: hiredis.ReplyError) -> bool:
        """Whether a node of a cluster says that another one has the shard. The next connection leads there."""
        if self._topology is None or not str(reply).startswith("MOVED "):
            return False
        if protocol.lost is None:  # the first of several calls that were under way
            self._topology.moved(str(reply), self.node)
        protocol.retire("has the shard no more")
        return True

    async def _call(self, protocol: Protocol, packed: bytes, more_s: float = 0.0) -> Any:
        """`more_s`: how much longer than others the command may take."""
        loop, timeout_s = asyncio.get_running_loop(), self._timeout_s + more_s
        deadline = loop.call_later(timeout_s, protocol.drop, f"no reply within {timeout_s:g} s")
        try:
            return await protocol.send(packed)
        except ConnectionError as error:
            raise RedisStoreError(f"Redis at {address_of(self._url)}: {error}") from None
        finally:
            deadline.cancel()

    async def connect(self) -> Protocol:
        """Opens the connection unless it is open. Raises StoreError, LayoutError if Redis is laid out differently."""
        async with self._connecting:
            if self._protocol is not None and self._protocol.lost is None:
                return self._protocol
            now = asyncio.get_running_loop().time()
            if now < self._retry_at:
                raise self._failure
            try:
                async with asyncio.timeout(self._timeout_s):
                    try:
                        self._protocol, self.memory = await self._open()
                    except MovedError:  # the map was old
                        self._protocol, self.memory = await self._open()
            except LayoutError as error:
                self._retry_at, self._failure = now + jittered(self._reconnect_s), error
                raise
            except (OSError, TimeoutError, StoreError) as error:
                why = str(error) or "no answer in time"
                self._retry_at = now + jittered(self._reconnect_s)
                self._failure = RedisStoreError(f"Redis at {address_of(self._url)} cannot be reached: {why}")
                raise self._failure from None
            return self._protocol

    async def _open(self) -> tuple[Protocol, Memory]:
        """A new connection, and what answers on it."""
        if self._topology is not None:
            if self.epoch or self._retry_at > 0:
                self._topology.suspect()
            self.node = await self._topology.node(self._slot)
        protocol = await open_protocol(self._url, self._options, *self.node)
        try:
            reply = await self._lay_out(protocol)
            epoch = self._layout.verify(reply, self._layout_key)
            told = await self._call(protocol, pack(("INFO", "replication")))
            if lost_transactions(reply):
                shards = range(self._layout.shards) if self._topology is None else (self._shard,)
                run = partial(self._run, protocol)
                await begin_epoch(run, self.keys, self._layout_key, shards, address_of(self._url))
                reply = await self._run(protocol, scripts.LAYOUT, (self._layout_key,), self._layout.script_args)
                epoch = self._layout.verify(reply, self._layout_key)
        except BaseException:
            protocol.drop("handshake failed")
            raise
        return protocol, Memory("" if isinstance(told, hiredis.ReplyError) else confirm.history_of(told), epoch)

    async def _lay_out(self, protocol: Protocol) -> Any:
        """The layout of this connection's shard. It is written if there is none.

        In a cluster, each shard has a layout, with the epoch of shard 0. `made` says that shard 0 knows it. So a shard
        whose layout is gone, and which shard 0 knows, has lost its memory: its epoch is a new one.
        """
        args = self._layout.script_args
        if self._topology is None or self._shard == 0:
            return await self._run(protocol, scripts.LAYOUT, (self._layout_key,), args)
        if not await self._call(protocol, pack(("HEXISTS", self._layout_key, "made"))):
            first, made = Connection(self._redis, self._layout), f"made:{self._shard}"
            try:
                known = await first.command("HEXISTS", first._layout_key, made)
                epoch = [] if known else ["epoch", str(first.epoch)]
                await self._run(protocol, scripts.LAYOUT, (self._layout_key,), [*args, *epoch])
                await first.command("HSET", first._layout_key, made, 1)
                await self._call(protocol, pack(("HSET", self._layout_key, "made", 1)))
            finally:
                await first.close()
        return await self._run(protocol, scripts.LAYOUT, (self._layout_key,), args)
