"""Connections to Redis: ours for the scripts, redis-py's for all other commands.

`Connection` speaks RESP itself (hiredis packs and parses). The hot path has one command, and redis-py's layers cost as
much as the rest of it together. If a reply is late, the connection is dropped, so no later caller gets an earlier
caller's reply. Nothing is ever sent twice, except after NOSCRIPT, which Redis answers before it runs anything.

A failure raises StoreError. It is then unknown whether the script ran, unless the error is a `RefusedError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from typing import Any, cast

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from daemon.buffer import scripts
from daemon.buffer.layout import MARK_INTERVAL_MS, Layout, begin_epoch, lost_transactions
from daemon.buffer.scripts import Script
from daemon.config import RedisSection, address_of, tls_of
from daemon.errors import LayoutError, RedisStoreError, StoreError
from daemon.retry import jittered

Arg = str | bytes | int


PASSING = frozenset((
    "OOM", "READONLY", "LOADING", "MISCONF", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN", "UNBLOCKED",
    "BUSY", "NOREPLICAS", "NOAUTH", "NOPERM",
))  # fmt: skip
"""Codes of refusals that end by themselves: memory is freed, the disk works again, another server leads."""
_CODE = re.compile(r"(?:ERR .*?user_script: ?\d+: -?(?=[A-Z]))?([A-Z]+)\b", re.DOTALL)
"""The first word of an error; of one that a script passes on, the first one behind the script's line."""


class RefusedError(RedisStoreError):
    """Redis answered with an error before it wrote anything. `passing`: the same call may be taken later."""

    def __init__(self, what: str, error: object) -> None:
        super().__init__(f"{what}: {error}")
        found = _CODE.match(str(error))
        self.passing = found is not None and found[1] in PASSING


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
    except RedisError as error:
        raise RedisStoreError(f"Redis at {address_of(section.url)}: {error}") from None


def client_of(section: RedisSection) -> Redis:
    """A redis-py client that sends every command once. It connects when it is first used. Close it once."""
    options: dict[str, Any] = {}
    if not section.url.startswith("unix:"):
        # On TCP with RESP3, redis-py 8 skips its stale-connection check while these are on.
        options["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    timeout_s = section.timeout_ms / 1000
    return Redis.from_url(
        section.url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0), **options
    )


def _pack(command: tuple[Arg, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub knows one-element tuples only
    return packed


class _Protocol(asyncio.Protocol):
    """Writes commands, and gives their replies, in order, to the futures that wait for them."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._transport: asyncio.Transport | None = None
        self.lost: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none of asyncio's own classes

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                future = self._waiting.popleft()
                if not future.done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            self.drop(f"sent what is no reply ({error})")

    def connection_lost(self, exc: Exception | None) -> None:
        self.drop(str(exc) if exc else "closed the connection")

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        future = self._loop.create_future()
        if self.lost is not None or self._transport is None:
            future.set_exception(ConnectionError(self.lost or "not connected"))
        else:
            self._waiting.append(future)
            self._transport.write(packed)
        return future

    def drop(self, why: str) -> None:
        """Closes the connection, and fails every call that waits for a reply."""
        if self.lost is None:
            self.lost = why
        if self._transport is not None:
            self._transport.abort()
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(ConnectionError(self.lost))


class Connection:
    """Runs scripts and commands over one connection. It opens when it is first needed, and again after a loss.

    Each new connection checks the layout first. After a failed attempt to connect, calls fail at once for up to
    `reconnect_ms`. A call without a reply within `timeout_ms` fails, and with it every other call on the connection.
    """

    def __init__(self, redis: RedisSection, layout: Layout) -> None:
        self._url = redis.url
        self._layout = layout
        self.keys = layout.keys
        self._options: dict[str, Any] = dict(parse_url(redis.url))
        self._timeout_s = redis.timeout_ms / 1000
        self._reconnect_s = redis.reconnect_ms / 1000
        self._protocol: _Protocol | None = None
        self._connecting = asyncio.Lock()
        self._retry_at = -1e9
        self._failure = RedisStoreError("")
        self.epoch = 0
        """When the Redis of the current connection began to count (µs). It differs once Redis has lost its memory."""
        self.opened = 0
        """How often it was opened. Redis may have lost, in between, what an earlier reply said."""

    @property
    def is_open(self) -> bool:
        return self._protocol is not None and self._protocol.lost is None

    @property
    def call_s_max(self) -> float:
        """The longest that one call can take: it connects, calls, and calls again after NOSCRIPT."""
        return 3 * self._timeout_s

    async def command(self, *command: Arg) -> Any:
        """Runs one command and returns its reply (bulk strings as bytes). Raises StoreError."""
        protocol = self._protocol
        if protocol is None or protocol.lost is not None:
            protocol = await self.connect()
        reply = await self._call(protocol, _pack(command))
        if isinstance(reply, hiredis.ReplyError):
            raise RefusedError(f"Redis at {address_of(self._url)} refused {command[0]!r}", reply)
        return reply

    async def run(self, script: Script, names: Sequence[str], args: Sequence[Arg]) -> Any:
        """Runs a script with these KEYS and ARGV and returns its reply (bulk strings as bytes). Raises StoreError."""
        protocol = self._protocol
        if protocol is None or protocol.lost is not None:
            protocol = await self.connect()
        return await self._run(protocol, script, names, args)

    async def ping(self) -> None:
        """Raises StoreError unless Redis answers and its layout is ours."""
        self.epoch = self._layout.verify(await self.run(scripts.LAYOUT, (self.keys.layout,), self._layout.script_args))

    async def mark(self, good_for_ms: int = MARK_INTERVAL_MS) -> None:
        """Renews the marks that tell whether Redis lost its transactions, if they are older. Raises StoreError."""
        if mark := await self.run(scripts.MARK, (self.keys.layout,), ("", good_for_ms)):
            await self.run(scripts.MARK, (self.keys.layout,), (mark, good_for_ms))
            self._layout.has_marked(int(mark))

    async def close(self) -> None:
        if self._protocol is not None:
            self._protocol.drop("closed")
            self._protocol = None

    async def _run(self, protocol: _Protocol, script: Script, names: Sequence[str], args: Sequence[Arg]) -> Any:
        reply = await self._call(protocol, _pack(("EVALSHA", script.sha, len(names), *names, *args)))
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
            reply = await self._call(protocol, _pack(("EVAL", script.source, len(names), *names, *args)))
        if isinstance(reply, hiredis.ReplyError):
            if "READONLY" in str(reply):
                protocol.drop("has become a replica")  # the next connection may reach the new primary
            raise RefusedError(f"Redis at {address_of(self._url)} refused {script.name}", reply)
        return reply

    async def _call(self, protocol: _Protocol, packed: bytes) -> Any:
        loop = asyncio.get_running_loop()
        deadline = loop.call_later(self._timeout_s, protocol.drop, f"no reply within {self._timeout_s:g} s")
        try:
            return await protocol.send(packed)
        except ConnectionError as error:
            raise RedisStoreError(f"Redis at {address_of(self._url)}: {error}") from None
        finally:
            deadline.cancel()

    async def connect(self) -> _Protocol:
        """Opens the connection unless it is open. Raises StoreError, LayoutError if Redis is laid out differently."""
        async with self._connecting:
            if self._protocol is not None and self._protocol.lost is None:
                return self._protocol
            now = asyncio.get_running_loop().time()
            if now < self._retry_at:
                raise self._failure
            try:
                async with asyncio.timeout(self._timeout_s):
                    self._protocol = await self._open()
                    self.opened += 1
            except LayoutError as error:
                self._retry_at, self._failure = now + jittered(self._reconnect_s), error
                raise
            except (OSError, TimeoutError, StoreError) as error:
                why = str(error) or "no answer in time"
                self._retry_at = now + jittered(self._reconnect_s)
                self._failure = RedisStoreError(f"Redis at {address_of(self._url)} cannot be reached: {why}")
                raise self._failure from None
            return self._protocol

    async def _open(self) -> _Protocol:
        loop, options = asyncio.get_running_loop(), self._options
        if "path" in options:
            _, protocol = await loop.create_unix_connection(_Protocol, options["path"])
        else:
            _, protocol = await loop.create_connection(
                _Protocol, options.get("host", "localhost"), options.get("port", 6379), ssl=tls_of(self._url)
            )
        try:
            if options.get("password"):
                user = (options["username"],) if options.get("username") else ()
                await self._handshake(protocol, "AUTH", *user, options["password"])
            if options.get("db"):
                await self._handshake(protocol, "SELECT", str(options["db"]))
            reply = await self._run(protocol, scripts.LAYOUT, (self.keys.layout,), self._layout.script_args)
            self.epoch = self._layout.verify(reply)
            if lost_transactions(reply):
                await begin_epoch(partial(self._run, protocol), self.keys, self._layout.shards, address_of(self._url))
                reply = await self._run(protocol, scripts.LAYOUT, (self.keys.layout,), self._layout.script_args)
                self.epoch = self._layout.verify(reply)
        except BaseException:
            protocol.drop("handshake failed")
            raise
        return protocol

    async def _handshake(self, protocol: _Protocol, *command: str) -> None:
        reply = await protocol.send(_pack(command))
        if isinstance(reply, hiredis.ReplyError):
            raise RedisStoreError(f"{command[0]} was refused: {reply}")
