"""Prepared calls written to Redis with several under way, so that it never waits for us: Redis alone at its limit."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import hiredis

from daemon.buffer import scripts
from daemon.buffer.outcome import Counted
from daemon.buffer.wire import decode_outcomes

CALLS_UNDER_WAY = 8


def pack(*command: str) -> bytes:
    """A command as it goes over the wire."""
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub forgets strings
    return packed


class Pipeline:
    """One blocking connection. A context manager."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        self.send([pack("SCRIPT", "LOAD", scripts.INGEST.source)], 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def run(self, calls: Sequence[bytes]) -> tuple[float, int]:
        """Sends calls of `ingest.lua`. Returns the seconds it took and the events that were counted."""
        started = time.perf_counter()
        counted = 0
        for reply in self.send(calls, 1):
            for outcome in decode_outcomes(reply):
                assert isinstance(outcome, Counted), "calls of a benchmark have no limit"
                counted += outcome.new
        return time.perf_counter() - started, counted

    def send(self, packed: Sequence[bytes], commands: int) -> list[Any]:
        """Sends them all, each holding so many commands. Returns the replies."""
        replies = []
        for number, call in enumerate(packed):
            if number >= CALLS_UNDER_WAY:
                replies += [self._reply() for _ in range(commands)]
            self._socket.sendall(call)
        replies += [self._reply() for _ in range(commands * min(CALLS_UNDER_WAY, len(packed)))]
        return replies

    def _reply(self) -> Any:
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(65_536))
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply
