"""One line to a Redis: bytes of commands out, replies in. `connection.py` and `topology.py` open it.

It is no more than hiredis on an asyncio protocol. It never sends anything twice, and never connects again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, cast

import hiredis
from redis.asyncio.connection import parse_url

from daemon.config import hosts_of, is_cluster, tls_of, url_at
from daemon.errors import RedisStoreError

Arg = str | bytes | int


def pack(command: tuple[Arg, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub knows one-element tuples only
    return packed


class Protocol(asyncio.Protocol):
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
            if self.lost is not None and not self._waiting:
                self.drop(self.lost)
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

    def retire(self, why: str) -> None:
        """Takes no more commands, and closes once all have their replies: those that were sent are not lost."""
        if self.lost is None:
            self.lost = why
        if not self._waiting:
            self.drop(why)

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


def options_to(url: str) -> dict[str, Any]:
    """A `redis.url` as redis-py reads it; of a cluster, with the first host."""
    return dict(parse_url(url_at(url, *hosts_of(url)[0]) if is_cluster(url) else url))


async def open_protocol(url: str, options: Mapping[str, Any], host: str = "", port: int = 0) -> Protocol:
    """A line to the server of these options (as redis-py's `parse_url` reads them), or to another host and port with
    the same user and TLS. Raises OSError, StoreError if the user is refused. The caller bounds its time."""
    loop = asyncio.get_running_loop()
    if "path" in options:
        _, protocol = await loop.create_unix_connection(Protocol, options["path"])
    else:
        host, port = host or options.get("host", "localhost"), port or options.get("port", 6379)
        _, protocol = await loop.create_connection(Protocol, host, port, ssl=tls_of(url))
    try:
        if options.get("password"):
            user = (options["username"],) if options.get("username") else ()
            await _handshake(protocol, "AUTH", *user, options["password"])
        if options.get("db"):
            await _handshake(protocol, "SELECT", str(options["db"]))
    except BaseException:
        protocol.drop("handshake failed")
        raise
    return protocol


async def _handshake(protocol: Protocol, *command: str) -> None:
    reply = await protocol.send(pack(command))
    if isinstance(reply, hiredis.ReplyError):
        raise RedisStoreError(f"{command[0]} was refused: {reply}")
