"""A Redis that comes back older: one whose append-only file is cut back, and a pair whose replica lacks the last bytes.

The pair's clients know one fixed address, as of a virtual IP. Its replica is always a proper one: what it lacks is what
the line between the two did not deliver.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import redis

from tests.kit.proxy import CHUNK_BYTES, Proxy
from tests.kit.servers import RedisServer
from tests.kit.wait import wait_until

NEVER_REWRITTEN = ("--auto-aof-rewrite-percentage", "0")
HELD_POLL_S = 0.002
WAIT_MS = 100


class CutBack(RedisServer):
    """A single Redis with `everysec` (or `appendfsync`). A loss of power leaves it a prefix of its append-only file.

    It is told to `remember` how long the file is, and `fall_back` leaves so much of it.
    """

    def __init__(self, folder: Path, *, appendfsync: str = "everysec") -> None:
        super().__init__(7, folder, "--appendonly", "yes", "--appendfsync", appendfsync, *NEVER_REWRITTEN)

    @property
    def file(self) -> Path:
        (found,) = self.data.glob("appendonlydir/*.incr.aof")
        return found

    def remember(self) -> int:
        """The length of what it has written (bytes). What was answered by now is in it, unless a slow fsync keeps the
        rest back."""
        return self.file.stat().st_size

    def fall_back(self, length: int) -> None:
        """SIGKILL; the file is cut back, maybe in the middle of a transaction, which Redis leaves out; and a start."""
        self.kill()
        self.come_back(length)

    def come_back(self, length: int) -> None:
        """The second half of `fall_back`."""
        os.truncate(self.file, length)
        self.start()


class Stream(Proxy):
    """A line to a Redis whose replication stream can be held: `hold` keeps what comes from now on until `deliver` or
    `drop`. What clients ask through it is not held."""

    def __init__(self, target: Callable[[], str]) -> None:
        super().__init__(target)
        self._flows = threading.Event()
        self._flows.set()

    def hold(self) -> None:
        self._flows.clear()

    def deliver(self) -> None:
        self._flows.set()

    def drop(self) -> None:
        """Ends the line. What was held is never delivered."""
        self.cut()

    async def _replies(self, line: Any, reader: Any, writer: Any) -> None:
        replicates = False
        with contextlib.suppress(OSError, RuntimeError):
            while data := await reader.read(CHUNK_BYTES):
                replicates = replicates or data.startswith((b"+FULLRESYNC", b"+CONTINUE"))
                while replicates and not self._flows.is_set() and not self._cut:  # noqa: ASYNC110  (other threads change it)
                    await asyncio.sleep(HELD_POLL_S)
                if self._cut:
                    break
                writer.write(data)
                await writer.drain()
        writer.close()


class Pair:
    """A primary and its replica. `url`: where clients find the primary, whichever it is."""

    def __init__(self, folder: Path, *options: str) -> None:
        at_once = ("--repl-diskless-sync", "no")  # else the stream may begin at the replica's next word, 1 s later
        self._servers = [RedisServer(7, folder / name, *at_once, *options) for name in ("one", "two")]
        self._stream: Stream | None = None
        self._address = Proxy(lambda: self.primary.url)
        self._cleanup = ExitStack()
        self.failovers = 0

    @property
    def primary(self) -> RedisServer:
        return self._servers[0]

    @property
    def replica(self) -> RedisServer:
        return self._servers[1]

    @property
    def url(self) -> str:
        return self._address.url()

    @property
    def stream(self) -> Stream:
        """The line from the primary to the replica."""
        assert self._stream is not None
        return self._stream

    @contextmanager
    def running(self) -> Iterator[Pair]:
        """Both run, and the replica has all."""
        with self._cleanup:
            for server in self._servers:
                server.start()
                self._cleanup.callback(server.stop)
            self._cleanup.enter_context(self._address.running())
            self._cleanup.callback(self._end_stream)
            self.attach()
            yield self

    def client(self) -> redis.Redis:
        """Of the primary, past the address."""
        return self.primary.client()

    def lag(self) -> int:
        """Bytes of the stream that the replica lacks."""
        with self.primary.client() as primary, self.replica.client() as replica:
            ahead, behind = (cast("dict[str, Any]", each.info("replication")) for each in (primary, replica))
            return int(ahead["master_repl_offset"]) - int(behind["slave_repl_offset"])

    def attach(self) -> None:
        """The second one becomes the first one's replica anew, and has all of it."""
        server = self.primary
        self._stream = Stream(lambda: server.url)
        self._stream.start()
        host, port = self._stream.url().removeprefix("redis://").split("/")[0].split(":")
        with self.replica.client() as replica, self.primary.client() as primary:
            replica.replicaof(host, port)

            def follows() -> bool:
                # A link that is up says only that the replica has what the primary had when it asked.
                primary.publish("attached", "")
                return bool(primary.wait(1, WAIT_MS) == 1)

            wait_until(follows, "the replica has all")

    def fail_over(self) -> None:
        """SIGKILL to the primary. The replica is promoted with what it has: nothing of what its stream holds back.

        The address leads to it, and connections through the address are ended. `attach` gives it a replica again.
        """
        self.primary.kill()
        self._address.cut()
        self.stream.drop()
        with self.replica.client() as client:
            client.replicaof("NO", "ONE")
        self._end_stream()
        self._servers.reverse()
        self._address.restore()
        self.failovers += 1

    def revive(self) -> None:
        """The one that was killed starts empty, and becomes the replica."""
        shutil.rmtree(self.replica.data, ignore_errors=True)
        self.replica.start()
        self.attach()

    def _end_stream(self) -> None:
        if self._stream is not None:
            self._stream.stop()
            self._stream = None
