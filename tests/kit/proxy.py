"""The line between a process and a store, as a TCP proxy through which faults come at a chosen moment.

It forwards bytes. It knows nothing of the protocols: a trap's markers, all of which are parts of one chunk of bytes,
say which request is meant. Methods are called from any thread; the work is done in a thread of the proxy's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Self
from urllib.parse import urlsplit

import uvloop

CHUNK_BYTES = 65_536
START_TIMEOUT_S = 5.0


def command_of(name: str, collection: str) -> bytes:
    """What only this command on this collection of MongoDB has in it: `name: "collection"` in BSON."""
    return b"\x02" + name.encode() + b"\x00" + struct.pack("<i", len(collection) + 1) + collection.encode() + b"\x00"


def update_of(collection: str) -> bytes:
    """The marker of a bulk write to this collection of MongoDB."""
    return command_of("update", collection)


class Fault(Enum):
    HOLD_REQUEST = "the server never sees the request"
    LOSE_REPLY = "the server carries the request out, the client never hears of it"


Markers = bytes | tuple[bytes, ...]


class Trap:
    """Does its fault to the `nth` request with the markers in it; with `every`, also to all such requests after it.

    `tripped` is set once the request is held, or the reply is lost. A held request is dropped, with all that follows on
    its connection, until the client is gone. With `keep` they wait for `release` instead, which delivers or drops them.
    Nothing is closed meanwhile: the store does not learn that its client is gone.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        markers: Markers,
        fault: Fault,
        *,
        nth: int = 1,
        keep: bool = False,
        every: bool = False,
    ) -> None:
        self.fault = fault
        self.keep = keep
        self.tripped = threading.Event()
        self.released = asyncio.Event()
        self.deliver = True
        self._loop = loop
        self._markers = (markers,) if isinstance(markers, bytes) else markers
        self._to_come = nth
        self._every = every

    def meets(self, request: bytes) -> bool:
        """Whether this request is one to do the fault to."""
        if not all(marker in request for marker in self._markers):
            return False
        self._to_come -= 1
        met = self._to_come == 0 or (self._every and self._to_come < 0)
        if met and self.fault is Fault.HOLD_REQUEST:
            self.tripped.set()
        return met

    def release(self, *, deliver: bool = True) -> None:
        """Delivers the held request to the store, however late, or drops it with its connection."""
        self.deliver = deliver
        self._loop.call_soon_threadsafe(self.released.set)


class _Line:
    """One connection through a proxy. `deaf`: requests on it are dropped; `mute`: replies are, perhaps by `trap`."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.writers = writers
        self.deaf = self.mute = False
        self.trap: Trap | None = None

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


class Proxy:
    """In front of the server at `target`, an URL or a function that is asked for it before each connection.

    With `markers` there is a trap from the beginning; `trap` sets another one.
    """

    def __init__(
        self,
        target: str | Callable[[], str],
        markers: Markers | None = None,
        fault: Fault = Fault.HOLD_REQUEST,
        *,
        nth: int = 1,
        keep: bool = False,
        every: bool = False,
    ) -> None:
        self._target = target
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="proxy", daemon=True)
        self._listening = threading.Event()
        self._port = 0
        self._lines: set[_Line] = set()
        self._cut = False
        self._loss = self._refusal = 0.0
        self._random = random.Random()
        self._trap: Trap | None = None
        if markers is not None:
            self.trap(markers, fault, nth=nth, keep=keep, every=every)
        self.lost = 0
        """Replies that were lost by `lossy`."""
        self.refused = 0
        """Connections that were refused by `lossy`."""
        self.connections = 0
        """Connections that came, the refused ones included."""

    @property
    def port(self) -> int:
        """Where it listens, once it is started."""
        return self._port

    def url(self) -> str:
        """The server's URL, by way of the proxy."""
        parts = urlsplit(self._server())
        user, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}{at}127.0.0.1:{self._port}").geturl()

    def start(self) -> None:
        """Returns once it listens."""
        self._thread.start()
        assert self._listening.wait(START_TIMEOUT_S), "the proxy does not listen"

    def stop(self) -> None:
        """Ends every connection, and itself."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_TIMEOUT_S)

    @contextmanager
    def running(self) -> Iterator[Self]:
        self.start()
        try:
            yield self
        finally:
            self.stop()

    # Faults -----------------------------------------------------------------------------------------------------

    def trap(self, markers: Markers, fault: Fault, *, nth: int = 1, keep: bool = False, every: bool = False) -> Trap:
        """Sets a trap in place of the one there was."""
        self._trap = Trap(self._loop, markers, fault, nth=nth, keep=keep, every=every)
        return self._trap

    @property
    def tripped(self) -> threading.Event:
        """Of the trap."""
        assert self._trap is not None
        return self._trap.tripped

    def release(self) -> None:
        """Delivers the request that the trap holds."""
        assert self._trap is not None
        self._trap.release()

    def cut(self) -> None:
        """Ends every connection, and each new one at once, until `restore`."""
        self._cut = True
        self._loop.call_soon_threadsafe(self._close_lines)

    def lossy(self, share: float, seed: int, *, refused: float = 0.0) -> None:
        """Loses this share of the replies: half of them in silence, half with the connection. `refused`: of the new
        connections, this share is reset."""
        self._random = random.Random(seed)
        self._loss, self._refusal = share, refused

    def restore(self) -> None:
        """No fault any more. Lines that were made silent stay so: a daemon's time-out ends them."""
        self._cut, self._loss, self._refusal, self._trap = False, 0.0, 0.0, None

    # In its own thread ------------------------------------------------------------------------------------------

    def _server(self) -> str:
        return self._target if isinstance(self._target, str) else self._target()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._listener = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self._port = self._listener.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        self._listener.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    def _close_lines(self) -> None:
        for line in list(self._lines):
            line.close()

    async def _end(self) -> None:
        self._close_lines()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # closed transports give up their sockets in the next turn

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._cut:
            writer.close()
            return
        if self._refusal and self._random.random() < self._refusal:
            self.refused += 1
            with contextlib.suppress(OSError):  # it is gone already
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            return
        parts = urlsplit(self._server())
        try:
            server_reader, server_writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            writer.close()
            return
        line = _Line(writer, server_writer)
        self._lines.add(line)
        with contextlib.suppress(asyncio.CancelledError):  # by `_end`; asyncio would print it
            await asyncio.gather(
                self._requests(line, reader, server_writer), self._replies(line, server_reader, writer)
            )
        line.close()
        self._lines.discard(line)

    async def _requests(self, line: _Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # uvloop raises that if the other end was closed meanwhile
            while data := await reader.read(CHUNK_BYTES):
                trap = self._trap
                if trap is not None and trap.meets(data):
                    if trap.keep:
                        await trap.released.wait()
                        line.deaf = not trap.deliver
                    else:
                        line.mute, line.trap = True, trap
                        line.deaf = trap.fault is Fault.HOLD_REQUEST
                if not line.deaf:
                    writer.write(data)
                    await writer.drain()
        writer.close()

    async def _replies(self, line: _Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if self._loss and not line.mute and self._random.random() < self._loss:
                    self.lost += 1
                    if self._random.random() < 0.5:
                        line.close()
                        return
                    line.mute = True
                if not line.mute:
                    writer.write(data)
                    await writer.drain()
                elif line.trap is not None:
                    line.trap.tripped.set()
        writer.close()


class Gate(Proxy):
    """Holds every request with `marker` in it until `release`; after `shut` again."""

    def __init__(self, target: str | Callable[[], str], marker: bytes) -> None:
        super().__init__(target, marker, keep=True, every=True)
        self._marker = marker

    def shut(self) -> None:
        self.trap(self._marker, Fault.HOLD_REQUEST, keep=True, every=True)
