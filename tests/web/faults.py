"""The line between a browser and the daemon: what becomes of a request is decided request by request.

Faults come to POST only, so a page and its script always load. Each connection carries one request: Chromium sends a
request anew by itself when a connection breaks that it has used before.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import chain, repeat
from typing import Any
from urllib.parse import urlsplit

from tests.kit.proxy import START_TIMEOUT_S, Proxy, _Line
from tests.kit.wait import WAIT_TIMEOUT_S, wait_until

HEAD_END = b"\r\n\r\n"


class Fate(Enum):
    """What becomes of a request."""

    PASS = "the daemon answers it"
    CUT = "the connection ends, the daemon never sees the request"
    LOSE_REPLY = "the daemon answers, the connection ends in place of the reply"
    HOLD_REQUEST = "the daemon sees it after `release`"
    HOLD_REPLY = "the daemon sees it, the browser gets the reply after `release`"
    BUSY = "503 with Retry-After, the daemon never sees the request"
    LIMITED = "429 with Retry-After, the daemon never sees the request"


STATUS = {Fate.BUSY: "503 Service Unavailable", Fate.LIMITED: "429 Too Many Requests"}


@dataclass
class Exchange:
    """One request, and the status of the daemon's answer to it: 0 while there is none."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    fate: Fate
    status: int = 0

    def events(self) -> list[dict[str, Any]]:
        """Those that it carries, of a single event or of a batch."""
        found = json.loads(self.body)
        return found if isinstance(found, list) else [found]


class FaultProxy(Proxy):
    """In front of the daemon at `target`. Until it is told otherwise it passes everything on."""

    def __init__(self, target: str | Callable[[], str]) -> None:
        super().__init__(target)
        self.exchanges: list[Exchange] = []
        """All requests so far, in the order of their arrival."""
        self.retry_after_s = 1
        """What 503 and 429 say."""
        self.hold_s: float | None = None
        """After which what is held is let go by itself; None: never."""
        self._plan: Iterator[Fate] = repeat(Fate.PASS)
        self._released = asyncio.Event()
        self._deliver = True

    # Faults -----------------------------------------------------------------------------------------------------

    def script(self, *fates: Fate) -> None:
        """The next requests meet these, one each. Those after them pass."""
        self._set(chain(fates, repeat(Fate.PASS)))

    def every(self, fate: Fate) -> None:
        """All requests meet this, until `restore`."""
        self._set(repeat(fate))

    def at_random(self, seed: int, shares: Mapping[Fate, float]) -> None:
        """Each request meets one of these with its share of 1; the others pass."""
        chance = random.Random(seed)
        fates = [*shares, Fate.PASS]
        weights = [*shares.values(), 1 - sum(shares.values())]
        self._set(iter(lambda: chance.choices(fates, weights)[0], None))

    def refuse(self) -> None:
        """Nothing listens any more: connections are refused, and those there are end, until `restore`."""
        super().cut()
        self._in_loop(self._stop_listening)

    def release(self, *, deliver: bool = True) -> None:
        """Lets go what is held, and all to come: it is delivered, or its connection ends."""
        self._deliver = deliver
        self._plan = repeat(Fate.PASS)
        self._loop.call_soon_threadsafe(self._released.set)

    def restore(self) -> None:
        """No fault any more. What was held is delivered."""
        super().restore()
        self.release()
        self._in_loop(self._listen)

    # What came --------------------------------------------------------------------------------------------------

    def posts(self, fate: Fate | None = None) -> list[Exchange]:
        """The events and batches so far; with `fate` those that met it."""
        return [each for each in self.exchanges if each.method == "POST" and fate in (None, each.fate)]

    def wait_for(self, fate: Fate, count: int = 1, timeout_s: float = WAIT_TIMEOUT_S) -> None:
        """Returns once so many requests met it; those that the daemon sees are answered by then."""
        sees = fate in (Fate.PASS, Fate.LOSE_REPLY, Fate.HOLD_REPLY)

        def met() -> bool:
            return sum(bool(each.status) or not sees for each in self.posts(fate)) >= count

        wait_until(met, f"{count} requests of which is true: {fate.value}", timeout_s)

    def _set(self, plan: Iterator[Fate]) -> None:
        self._plan, self._deliver = plan, True
        self._loop.call_soon_threadsafe(self._released.clear)

    # In the proxy's thread --------------------------------------------------------------------------------------

    def _in_loop(self, work: Callable[[], Any]) -> None:
        asyncio.run_coroutine_threadsafe(work(), self._loop).result(START_TIMEOUT_S)

    async def _stop_listening(self) -> None:
        self._listener.close()

    async def _listen(self) -> None:
        if not self._listener.is_serving():
            self._listener = await asyncio.start_server(self._connected, "127.0.0.1", self._port)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = _Line(writer)
        self._lines.add(line)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if not self._cut:
                await self._exchange(reader, writer)
        line.close()
        self._lines.discard(line)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(HEAD_END)
        request, *lines = head.decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        method, path, _ = request.split(" ")
        fate = next(self._plan) if method == "POST" else Fate.PASS
        exchange = Exchange(method, path, headers, body, fate)
        self.exchanges.append(exchange)
        if fate is Fate.CUT:
            return
        if fate in STATUS:
            writer.write(self._own_answer(fate, headers.get("origin", "")))
            await writer.drain()
            return
        if fate is Fate.HOLD_REQUEST and not await self._let_go():
            return
        reply = await self._ask(head, body)
        if reply:
            exchange.status = int(reply.split(b" ", 2)[1])
        if fate is Fate.LOSE_REPLY or (fate is Fate.HOLD_REPLY and not await self._let_go()):
            return
        writer.write(reply)
        await writer.drain()

    async def _ask(self, head: bytes, body: bytes) -> bytes:
        """The daemon's whole answer, empty if it does not answer."""
        parts = urlsplit(self._server())
        try:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            return b""
        line = _Line(writer)
        self._lines.add(line)
        try:
            kept = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", head.removesuffix(HEAD_END))
            writer.write(kept + b"\r\nconnection: close" + HEAD_END + body)
            await writer.drain()
            return await reader.read(-1)
        except OSError:
            return b""
        finally:
            line.close()
            self._lines.discard(line)

    async def _let_go(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.hold_s):
                await self._released.wait()
        return self._deliver

    def _own_answer(self, fate: Fate, origin: str) -> bytes:
        headers = {
            "retry-after": str(self.retry_after_s),
            "content-length": "0",
            "connection": "close",
            # As the daemon says: else the page cannot read the status.
            "access-control-allow-origin": origin or "*",
            "access-control-expose-headers": "retry-after",
        }
        lines = [f"HTTP/1.1 {STATUS[fate]}", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode() + HEAD_END
