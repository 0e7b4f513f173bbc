"""The attackers' connections: bytes on sockets, from any source address, paced, and counted by what became of them.

A crowd runs in a process of its own (`trial.py` starts it) that gives way to all others: what is measured is what the
requests cost the daemon, and not what making them costs this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Self

import uvloop

from tests.kit.wire import Answer

NICENESS = 10
ANSWER_TIMEOUT_S = 20.0
IPV6_FREEBIND = 78
"""Of linux/in6.h; Python has no name for it."""
PATIENCE_S = 1.0
"""How long an answer is waited for after the end."""
PAUSE_S = 0.05


def source(block: int, number: int = 0) -> str:
    """An attacker's address. Attacks of different blocks share none."""
    return f"127.0.{block}.{2 + number}"


class Sent(NamedTuple):
    """What a crowd did. `outcomes`: status of an answer, or why there was none → requests."""

    outcomes: dict[str, int]
    acked: int
    """Events that were answered as newly counted."""
    unknown: int
    """Events without an answer, or answered 500 or more: they may have been counted."""
    answer_bytes_max: int
    """The largest body of an answer."""
    seconds: float


class Line:
    """One connection. Each error ends it; `OSError` and `TimeoutError` are for the caller."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._left = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await self._loop.sock_sendall(self._sock, data)

    async def answer(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer:
        """Reads one whole answer."""
        async with asyncio.timeout(timeout_s):
            while b"\r\n\r\n" not in self._left:
                await self._more()
            head, _, self._left = self._left.partition(b"\r\n\r\n")
            status, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
            length = int(headers.get("content-length", "0"))
            while len(self._left) < length:
                await self._more()
        body, self._left = self._left[:length], self._left[length:]
        return Answer(int(status.split()[1]), headers, body)

    async def closed(self, timeout_s: float) -> bool:
        """Whether the server ends the connection within this time. What it says before is thrown away."""
        try:
            async with asyncio.timeout(timeout_s):
                while await self._loop.sock_recv(self._sock, 65_536):
                    pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    async def _more(self) -> None:
        data = await self._loop.sock_recv(self._sock, 65_536)
        if not data:
            raise ConnectionResetError
        self._left += data


class Crowd:
    """All attackers of one attack, until `until_s` (`time.monotonic`)."""

    def __init__(self, host: str, port: int, block: int, until_s: float) -> None:
        """`block`: of its addresses, 0 to 255."""
        self.until_s = until_s
        self.outcomes: Counter[str] = Counter()
        self.acked = self.unknown = self.answer_bytes_max = 0
        self._at = (host, port)
        self._block = block
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET

    @property
    def left_s(self) -> float:
        return max(0.0, self.until_s - time.monotonic())

    def sources(self, count: int) -> list[str]:
        """So many addresses, 250 at most."""
        return [source(self._block, n) for n in range(count)]

    async def open(self, address: str, *, receive_bytes: int = 0) -> Line:
        """`receive_bytes`: of the receive buffer, so that a short answer fills it."""
        sock = socket.socket(self._family)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            if self._family == socket.AF_INET6:
                sock.setsockopt(
                    socket.IPPROTO_IPV6, IPV6_FREEBIND, 1
                )  # the network is local, its addresses are not set
            sock.bind((address, 0))
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(sock, self._at)
        except BaseException:
            sock.close()
            raise
        return Line(sock)

    def note(self, answer: Answer, events: int = 0) -> None:
        """Books an answer to a request with so many good, new events."""
        self.outcomes[str(answer.status)] += 1
        self.answer_bytes_max = max(self.answer_bytes_max, len(answer.body))
        if answer.status == 202 and events:
            self.acked += 1 if answer.body == b'{"status":"accepted"}' else answer.json()["accepted"]
        elif answer.status >= 500:
            self.unknown += events

    def lost(self, error: Exception, events: int = 0) -> None:
        """Books a request that got no answer."""
        waited = isinstance(error, TimeoutError)
        self.outcomes["cut off" if not waited else "timed out" if self.left_s else "held"] += 1
        self.unknown += events

    async def flood(
        self, lines: Sequence[str], request: Callable[[int], bytes], *, per_s: float, events: int = 0
    ) -> None:
        """A kept connection from each of these addresses. Each asks when it was answered, all of them at this rate.

        `request`: the bytes of request n. `events`: the new ones in each.
        """
        pace = Pace(per_s, self)
        await asyncio.gather(*(self._ask(address, request, pace, events) for address in lines))

    async def _ask(self, address: str, request: Callable[[int], bytes], pace: Pace, events: int) -> None:
        while self.left_s:
            sent = 0
            try:
                with await self.open(address) as line:
                    while (number := await pace.next()) is not None:
                        sent = events
                        await line.send(request(number))
                        answer = await line.answer(min(ANSWER_TIMEOUT_S, self.left_s + PATIENCE_S))
                        sent = 0
                        self.note(answer, events)
                        if answer.headers.get("connection") == "close":
                            break
            except (OSError, TimeoutError) as error:
                self.lost(error, sent)
                await asyncio.sleep(PAUSE_S)


class Pace:
    """Numbers, as many a second as wanted; those who ask wait for theirs."""

    def __init__(self, per_s: float, crowd: Crowd) -> None:
        self._interval_s = 1 / per_s
        self._next_s = time.monotonic()
        self._number = 0
        self._crowd = crowd

    async def next(self) -> int | None:
        """None when the time of the attack is over."""
        now_s = time.monotonic()
        # Who was held up does not catch up: that would be a burst that no one asked for.
        self._next_s = max(self._next_s + self._interval_s, now_s - 0.25)
        if self._next_s > self._crowd.until_s:
            return None
        if self._next_s > now_s:
            await asyncio.sleep(self._next_s - now_s)
        self._number += 1
        return self._number


def run(
    act: Callable[[Crowd], Awaitable[None]], host: str, port: int, block: int, seconds: float, namespace: str
) -> Sent:
    """Runs an attack to its end, in this process. `namespace`: the network namespace to do so from; "": this one."""
    os.nice(NICENESS)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if namespace:
        with open(f"/run/netns/{namespace}") as entrance:  # noqa: PTH123  (a file descriptor is what is wanted)
            assert ctypes.CDLL(None, use_errno=True).setns(entrance.fileno(), 0) == 0, os.strerror(ctypes.get_errno())

    async def work() -> Sent:
        begun_s = time.monotonic()
        crowd = Crowd(host, port, block, begun_s + seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + seconds + ANSWER_TIMEOUT_S):
                await act(crowd)
        spent_s = time.monotonic() - begun_s
        return Sent(dict(crowd.outcomes), crowd.acked, crowd.unknown, crowd.answer_bytes_max, spent_s)

    return uvloop.run(work())
