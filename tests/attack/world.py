"""The system that is attacked: the real stores and both daemons, with the configuration's defaults."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.attack.legit import MOVIES
from tests.kit.daemon import Daemon, Ingest
from tests.kit.servers import Stack
from tests.kit.system import System
from tests.kit.wait import wait_until

START_TIMEOUT_S = 180.0
"""The flusher makes its indexes first, also of what was planted."""
DRAIN_TIMEOUT_S = 300.0
SAMPLE_S = 0.1


class World(System):
    """Enter `raised`. It is a `System` with no setting but where the stores and the spool are."""

    ingest: Ingest
    flush: Daemon

    def __init__(self, stack: Stack, scratch: Path) -> None:
        super().__init__(stack, scratch)
        places = ("TALLYD_REDIS__URL", "TALLYD_MONGO__URL", "TALLYD_MYSQL__URL", "TALLYD_SPOOL__DIR")
        self.env = {name: self.env[name] for name in places}
        self.add_movies(*MOVIES)

    @contextmanager
    def daemons(self, command: tuple[str, ...]) -> Iterator[None]:
        """Both, for the block. `command`: how the ingest daemon is started."""
        with Ingest(self, port=_free_port(), command=command) as self.ingest, Daemon(self, "flush") as self.flush:
            self.flush.says("Flushing every", START_TIMEOUT_S)
            yield
            self.flush.end()

    @contextmanager
    def frozen(self, store: str) -> Iterator[None]:
        """This server does not answer while the context lasts."""
        server = self.stack.servers[store]
        server.freeze()
        try:
            yield
        finally:
            server.thaw()

    def left(self) -> int:
        """How much is on its way: segments of the spool, dirty entities, a claim, due entities.

        Asked for in this order, which is that of an event's way: none slips past.
        """
        spool = Path(self.env["TALLYD_SPOOL__DIR"])
        left = len([*spool.glob("*.open"), *spool.glob("*.seg")]) if spool.exists() else 0
        left += self.redis.scard("anl:{0}:dirty")
        left += int(bool(self.redis.hget("anl:{0}:claim", "seq")))
        return left + self.redis.zcard("anl:{0}:replica")

    def drain(self) -> None:
        """Waits until everything accepted has arrived everywhere."""
        wait_until(lambda: not self.left(), "everything has arrived", DRAIN_TIMEOUT_S)

    def legit_views(self) -> dict[str, int]:
        """What the totals have of the legitimate events."""
        wanted = {"entity_type": "movie", "entity_id": {"$in": list(MOVIES)}}
        found = self.mongo["analytics_entity_totals"].find(wanted)
        return {document["entity_id"]: document["view"] for document in found}


def _free_port() -> int:
    """One that no address of this machine uses, so that a daemon may listen on all of them."""
    with socket.socket(socket.AF_INET6) as everywhere:
        everywhere.bind(("::", 0))
        return int(everywhere.getsockname()[1])


class Memory(threading.Thread):
    """Samples the resident memory of the ingest daemon's workers."""

    def __init__(self, ingest: Ingest) -> None:
        super().__init__(daemon=True)
        self._workers = ingest.workers()
        self._ended = threading.Event()
        self.samples: list[tuple[float, float]] = []
        """When (`time.monotonic`), and how many MiB."""

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            try:
                rss = sum(each.memory_info().rss for each in self._workers)
            except psutil.NoSuchProcess:
                continue
            self.samples.append((time.monotonic(), rss / (1 << 20)))

    def end(self) -> None:
        self._ended.set()
        self.join()

    def peak_mib(self, begun_s: float, ended_s: float) -> float:
        return max((mib for at_s, mib in self.samples if begun_s <= at_s <= ended_s), default=0.0)

    def last_mib(self, at_s: float) -> float:
        """The last sample until then."""
        return [mib for sampled_s, mib in self.samples if sampled_s <= at_s][-1]


@contextmanager
def raised(stack: Stack, scratch: Path) -> Iterator[World]:
    """Clean stores; the daemons are started by `daemons`."""
    world = World(stack, scratch)
    try:
        yield world
    finally:
        world.close()
