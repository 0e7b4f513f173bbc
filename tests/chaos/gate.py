"""A gate on the line between one daemon and one store: open, shut, losing replies, or holding one request back.

`proxy.Proxy` is made for one fault and thrown away; a gate stays for the whole run and is told what to do, so that the
daemons behind it live on from one fault to the next. It forwards bytes and knows nothing of the protocols but what a
trap's marker says.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable

import uvloop

CHUNK_BYTES = 65_536
START_TIMEOUT_S = 5.0


class Trap:
    """Waits for a request that contains `marker`.

    `hold`: it does not reach the store until `release`, which delivers it, however late, or drops it. Otherwise the
    store carries it out, and its reply is lost.
    """

    def __init__(self, marker: bytes, *, hold: bool, loop: asyncio.AbstractEventLoop) -> None:
        self.marker = marker
        self.hold = hold
        self.tripped = threading.Event()
        self.released = asyncio.Event()
        self.deliver = False
        self._loop = loop

    def release(self, *, deliver: bool) -> None:
        self.deliver = deliver
        self._loop.call_soon_threadsafe(self.released.set)


class Line:
    """One connection through a gate."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.writers = writers
        self.mute = False

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


class Gate:
    """The methods are called from any thread; the work is done in the keeper's."""

    def __init__(self, keeper: Keeper, target: Callable[[], int]) -> None:
        """`target`: the store's port on loopback, asked for each connection."""
        self._keeper = keeper
        self._target = target
        self._lines: set[Line] = set()
        self._trap: Trap | None = None
        self._shut = False
        self._loss = 0.0
        self._random = random.Random()
        self.port = 0
        self.lost = 0
        """Replies that were lost by `lossy`."""

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def end(self) -> None:
        self._server.close()
        for line in list(self._lines):
            line.close()

    def trap(self, marker: bytes, *, hold: bool) -> Trap:
        self._trap = Trap(marker, hold=hold, loop=self._keeper.loop)
        return self._trap

    def shut(self) -> None:
        """Ends every connection, and each new one at once."""
        self._shut = True
        self.cut()

    def cut(self) -> None:
        """Ends every connection; new ones are let through."""
        self._keeper.loop.call_soon_threadsafe(lambda: [line.close() for line in list(self._lines)])

    def lossy(self, share: float, seed: int) -> None:
        """Loses this share of the replies: half of them in silence, half with the connection."""
        self._random = random.Random(seed)
        self._loss = share

    def reset(self) -> None:
        """Open again. Lines that were made silent stay so: a daemon's time-out ends them."""
        self._shut, self._loss, self._trap = False, 0.0, None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._shut:
            writer.close()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target())
        except OSError:
            writer.close()
            return
        line = Line(writer, server_writer)
        self._lines.add(line)
        try:
            await asyncio.gather(
                self._requests(line, reader, server_writer), self._replies(line, server_reader, writer)
            )
        finally:
            line.close()
            self._lines.discard(line)

    async def _requests(self, line: Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                trap = self._trap
                if trap is not None and not trap.tripped.is_set() and trap.marker in data:
                    trap.tripped.set()
                    if trap.hold:
                        # Nothing is closed meanwhile: the store doesn't learn that its client is gone.
                        await trap.released.wait()
                        if not trap.deliver:
                            break
                    else:
                        line.mute = True
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _replies(self, line: Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
        writer.close()


class Keeper:
    """The thread all gates work in."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self._gates: list[Gate] = []
        self._thread = threading.Thread(target=self._run, name="gates", daemon=True)
        self._thread.start()

    def gate(self, target: Callable[[], int]) -> Gate:
        gate = Gate(self, target)
        asyncio.run_coroutine_threadsafe(gate.open(), self.loop).result(START_TIMEOUT_S)
        self._gates.append(gate)
        return gate

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(START_TIMEOUT_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.run_until_complete(self._end())
        self.loop.close()

    async def _end(self) -> None:
        for gate in self._gates:
            await gate.end()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # closed transports give up their sockets in the next turn
