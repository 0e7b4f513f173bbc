"""A TCP proxy that can hold a request back or lose its reply at a chosen moment, so that a process can be killed just
there.

It forwards bytes and knows nothing of the protocol but what the test's markers say: the first request chunk that
contains all of them, or the `nth`, trips it. What it then does is the `Fault`.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from urllib.parse import urlsplit


def command_of(name: str, collection: str) -> bytes:
    """What only this command on this collection of MongoDB has in it: `name: "collection"` in BSON."""
    return b"\x02" + name.encode() + b"\x00" + struct.pack("<i", len(collection) + 1) + collection.encode() + b"\x00"


def update_of(collection: str) -> bytes:
    return command_of("update", collection)


class Fault(Enum):
    HOLD_REQUEST = "the server never sees the request"
    LOSE_REPLY = "the server carries the request out, the client never hears of it"


class Proxy:
    """Between a client and the server of `url`. `tripped` is set once the marked request is held, or answered."""

    def __init__(self, url: str, markers: bytes | tuple[bytes, ...], fault: Fault, *, nth: int = 1) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        self._parts = parts
        self._markers = (markers,) if isinstance(markers, bytes) else markers
        self._fault = fault
        self._to_come = nth
        self._met = False
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._open = threading.Event()
        self.tripped = threading.Event()

    def url(self) -> str:
        """The server's URL, by way of the proxy."""
        user = f"{self._parts.username}@" if self._parts.username else ""
        return self._parts._replace(netloc=f"{user}127.0.0.1:{self._port}").geturl()

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        thread = threading.Thread(target=self._serve, daemon=True)
        thread.start()
        assert self._open.wait(5)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._server.close)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(5)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", 0))
        self._port = self._server.sockets[0].getsockname()[1]
        self._open.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    def _is_marked(self, data: bytes) -> bool:
        return all(marker in data for marker in self._markers)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            mute = asyncio.Event()
            await asyncio.gather(
                self._requests(reader, server_writer, mute), self._replies(server_reader, writer, mute)
            )

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mute: asyncio.Event) -> None:
        holding = False
        try:
            while data := await reader.read(65_536):
                self._to_come -= self._is_marked(data)
                if self._to_come == 0 and not self._met:
                    self._met = True
                    mute.set()
                    if self._fault is Fault.HOLD_REQUEST:
                        holding = True
                        self.tripped.set()
                if not holding:
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mute: asyncio.Event) -> None:
        try:
            while data := await reader.read(65_536):
                if mute.is_set():
                    self.tripped.set()
                else:
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()


class Gate(Proxy):
    """Holds the marked request back, and all behind it on its connection, until `release`."""

    def __init__(self, url: str, marker: bytes) -> None:
        super().__init__(url, marker, Fault.HOLD_REQUEST)
        self._released = asyncio.Event()

    def release(self) -> None:
        self._loop.call_soon_threadsafe(self._released.set)

    def shut(self) -> None:
        """Holds the next marked request back, after a `release`."""
        self.tripped.clear()
        self._loop.call_soon_threadsafe(self._released.clear)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mute: asyncio.Event) -> None:
        try:
            while data := await reader.read(65_536):
                if self._is_marked(data):
                    self.tripped.set()
                    await self._released.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
