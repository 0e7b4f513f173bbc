"""`ingest.lua` alone: prepared calls written to Redis with several under way, so that it never waits for us."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import hiredis

from daemon.buffer import scripts

CALLS_UNDER_WAY = 8


class Pipeline:
    """One blocking connection. A context manager."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        command: tuple[str, ...] = ("SCRIPT", "LOAD", scripts.INGEST.source)
        self._socket.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]
        self._reply()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def run(self, calls: Sequence[bytes]) -> tuple[float, int]:
        """Sends them all. Returns the seconds it took and the events that were counted."""
        started, counted = time.perf_counter(), 0
        for number, call in enumerate(calls):
            if number >= CALLS_UNDER_WAY:
                counted += sum(self._reply())
            self._socket.sendall(call)
        for _ in range(min(CALLS_UNDER_WAY, len(calls))):
            counted += sum(self._reply())
        return time.perf_counter() - started, counted

    def _reply(self) -> list[int]:
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(65_536))
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply  # type: ignore[no-any-return]
