"""What every benchmark stands on: an embedded stack of its own, servers really run as processes, and the ledger.

The stack is the one `tallyd stack up` starts (Redis with AOF everysec), in a temporary folder; MariaDB only when asked
for. All that is started here is stopped here.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import redis

from bench import events, pipeline, processes
from daemon.buffer.keys import Keys, ShardKeys
from daemon.devstack import process
from tests.kit.commands import ROOT
from tests.kit.daemon import Daemon, run_id_at
from tests.kit.servers import Stack
from tests.kit.system import System

DATABASE = "tallyd"
SETTLE_TIMEOUT_S = 10.0
AOF_REWRITE_BYTES = 256 << 20
RATE_LIMIT_PER_MINUTE = "1000000000"
"""On, and never reached: each request is counted against its address's limit, and none is refused."""
TIMEOUT_MS = "300000"
"""A machine that is held up for seconds must make a figure bad, not end the run or send events to the spool."""
LISTENERS = 4
"""New connections that are asked for their server's run id: the kernel chooses between listeners anew each time."""

INGEST = ("-m", "daemon.cli", "ingest", "--port")
BARE = ("-m", "bench.peers.bare")


class GroundError(Exception):
    """Something under the measurement is not as it must be."""


class Served(Daemon):
    """A server that runs as a process of its own and names its run id under /healthz. `check` before measuring."""

    def __init__(self, ground: Ground, command: Sequence[str], port: int, **env: str) -> None:
        super().__init__(ground, name=f"served-{port}", command=command, fds=(), **env)
        self.url = f"http://127.0.0.1:{port}"

    def check(self) -> None:
        """Raises GroundError if another server answers: a second one on a port shares the traffic silently."""
        super().check()
        for _ in range(LISTENERS):
            if self.running and run_id_at(self.url) != self.run_id:
                raise GroundError(f"Another server answers on {self.url}.")


class Ground(System):
    """Clean stores with everything switched on, and the means to measure on them."""

    def __init__(self, stack: Stack, scratch: Path) -> None:
        super().__init__(stack, scratch, database=DATABASE)
        self.env |= self.environ(
            RATE_LIMIT__PER_MINUTE=RATE_LIMIT_PER_MINUTE, REDIS__TIMEOUT_MS=TIMEOUT_MS, MONGO__TIMEOUT_MS=TIMEOUT_MS
        )
        del self.env["TALLYD_MYSQL__URL"]
        # A rewrite of the log takes a core for seconds; it is done between the rounds instead.
        self.redis.config_set("auto-aof-rewrite-percentage", 0)
        self.keys: ShardKeys = Keys("anl").shard(0)

    @contextmanager
    def served(self, command: Sequence[str], **env: str) -> Iterator[Served]:
        """Runs `python COMMAND PORT` on this checkout until the block ends."""
        port = process.free_port()
        server = Served(self, [sys.executable, *command, str(port)], port, PYTHONPATH=str(ROOT), **env)
        with self.serving(server):
            yield server

    @contextmanager
    def serving(self, server: Served) -> Iterator[Served]:
        """Runs a server from when it answers until the block ends."""
        with self.asked_to_stop(server):
            server.wait_up()
            yield server

    def redis_cpu_s(self) -> float:
        """Seconds of CPU Redis has used so far, all its threads, by its own account, which is to the microsecond."""
        info: dict[str, Any] = self.redis.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    def mongo_cpu_s(self) -> float:
        """The same of mongod, all its threads."""
        mongod = self.stack.servers["mongo"].process
        assert mongod is not None
        return processes.cpu_s([psutil.Process(mongod.pid)])

    def accepted(self) -> int:
        """Events the ledger holds as accepted, once nothing changes any more: each of ours moves one counter by 1."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        before, now = -1, self._accepted()
        while now != before and time.monotonic() < deadline:
            time.sleep(0.05)
            before, now = now, self._accepted()
        return now

    def _accepted(self) -> int:
        ledger = self.ledger()
        if any(name.startswith("duplicate:") for name in ledger):
            raise GroundError(f"Events were taken for duplicates, and none was one: {ledger}")
        return sum(amount for name, amount in ledger.items() if name.startswith("accepted:"))

    def live(self) -> int:
        """The sum of all counts that lie in Redis."""
        return sum_of_hashes(self.redis, f"{self.keys.counters_prefix}:*")

    def dirty(self) -> int:
        """How many entities wait to be flushed."""
        count: int = self.redis.scard(self.keys.dirty)
        return count

    def verify_counts(self) -> None:
        """Raises GroundError unless the counts in Redis add up to the accepted events."""
        accepted, live = self.accepted(), self.live()
        if accepted != live:
            raise GroundError(f"The ledger accepted {accepted} events, and {live} are counted.")

    def forget(self) -> None:
        """Forgets everything in Redis, the log included."""
        self.redis.flushall()
        self.rest(at_bytes=0)

    def warm_dedupe(self, count: int = 500_000) -> None:
        """Fills the dedupe memory a little: a window's first events make its sets, which no later event pays for."""
        config = self.config()
        prepared = events.calls(config, events.admitted(config, count), 1000)
        with self.pipeline() as pipe:
            pipe.run(prepared)

    def pipeline(self) -> pipeline.Pipeline:
        """A connection that sends prepared calls."""
        parts = urlsplit(self.stack.redis)
        assert parts.hostname
        return pipeline.Pipeline(parts.hostname, parts.port or 6379)

    def rest(self, at_bytes: int = AOF_REWRITE_BYTES) -> None:
        """Between two rounds: has the append-only file rewritten if it has grown this large."""
        rewrite_log(self.redis, at_bytes)


def sum_of_hashes(client: redis.Redis, pattern: str) -> int:
    """The sum of all values of the hashes whose names match."""
    names = list(client.scan_iter(pattern, count=1000))
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hvals(name)
        return sum(int(amount) for amounts in pipe.execute() for amount in amounts)


def rewrite_log(client: redis.Redis, at_bytes: int = 0) -> None:
    """Has the append-only file rewritten if it is on and larger than this, and waits for the end of any rewrite."""

    def persistence(name: str) -> int:
        info: dict[str, Any] = client.info("persistence")
        return int(info[name])

    if persistence("aof_enabled") and persistence("aof_current_size") > at_bytes:
        client.bgrewriteaof()
    while persistence("aof_rewrite_in_progress") or persistence("aof_rewrite_scheduled"):
        time.sleep(0.05)


@contextmanager
def raised(scratch: Path, *, mysql: bool = False) -> Iterator[Ground]:
    """The ground for a run, taken down at the end. `mysql`: with MariaDB, which takes seconds to set up."""
    with Stack(scratch / "stack", mysql=mysql) as stack:
        yield Ground(stack, scratch)


def forget_configuration() -> None:
    """The default configuration is measured, not this shell's."""
    for variable in [name for name in os.environ if name.startswith("TALLYD_") and "_STACK_" not in name]:
        del os.environ[variable]
