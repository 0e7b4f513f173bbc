"""The legitimate senders: single events on an even timetable, whatever the server does, each from a new address.

A process of its own (`Legit` starts it), so that neither the attackers nor the measuring hold it up. A latency counts
from the planned moment: an event that had to wait for a stalled server, or for this process, is a late one.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import uvloop

from tests.kit.commands import ROOT
from tests.kit.events import EVENTS, event

PER_SECOND = 150
TIMEOUT_S = 10.0
"""An ordinary client gives up then."""
MOVIES = tuple(f"legit-{n}" for n in range(50))
ADDRESS_FIRST = 0x7F01_0001
"""127.1.0.1; attackers come from 127.0.x.y."""
LOST = 0
"""In place of a status: the connection ended, or the time ran out, without an answer."""


class Answered(NamedTuple):
    """One event, and when (`time.monotonic`) it was due and answered."""

    event_id: str
    due_s: float
    answered_s: float
    status: int

    @property
    def ms(self) -> float:
        return (self.answered_s - self.due_s) * 1000


class Legit:
    """The process. Enter the context to start it; `stop` ends it and returns what became of each event."""

    def __init__(self, port: int, results: Path, *, block: int = 0) -> None:
        """`results`: a file of its own. `block`: of its addresses, 0 to 100; another for each run on one daemon."""
        self._results = results
        self._command = [sys.executable, "-m", "tests.attack.legit", str(port), str(results), str(block)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, cwd=ROOT)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> list[Answered]:
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(3 * TIMEOUT_S) == 0
        return msgspec.msgpack.decode(self._results.read_bytes(), type=list[Answered])


def address(number: int, block: int = 0) -> str:
    """The address of the event with this number: none comes twice."""
    return socket.inet_ntoa((ADDRESS_FIRST + (block << 16) + number).to_bytes(4, "big"))


def good(event_id: str, number: int = 0) -> dict[str, Any]:
    """A view of one of `MOVIES`, now."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return event(event_id=event_id, entity_id=MOVIES[number % len(MOVIES)], occurred_at=now)


async def send(port: int, source: str, body: bytes) -> int:
    """Sends one event on a connection of its own. Returns the status, or LOST."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((source, 0))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await loop.sock_connect(sock, ("127.0.0.1", port))
                head = f"POST {EVENTS} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: "
                await loop.sock_sendall(sock, head.encode() + b"%d\r\n\r\n%b" % (len(body), body))
                answer = await loop.sock_recv(sock, 4096)
        except (OSError, TimeoutError):
            return LOST
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else LOST


async def _run(port: int, block: int) -> list[Answered]:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    tag, begun_s, number = secrets.token_hex(4), time.monotonic(), 0
    answered: list[Answered] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one(number: int, due_s: float) -> None:
        event_id = f"{tag}-{number}"
        status = await send(port, address(number, block), json.dumps(good(event_id, number)).encode())
        answered.append(Answered(event_id, due_s, time.monotonic(), status))

    while not stopping.is_set():
        due_s = begun_s + number / PER_SECOND
        if (early_s := due_s - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), early_s)
                break
        task = asyncio.create_task(one(number, due_s))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
    await asyncio.gather(*tasks)
    return answered


if __name__ == "__main__":
    found = uvloop.run(_run(int(sys.argv[1]), int(sys.argv[3])))
    Path(sys.argv[2]).write_bytes(msgspec.msgpack.encode(found))
