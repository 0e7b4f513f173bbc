"""What every benchmark stands on: an embedded stack of its own, servers really run as processes, and the ledger.

The stack is the one `tallyd stack up` starts (Redis with AOF everysec), in a temporary folder; MariaDB only when asked
for. All that is started here is stopped here.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import redis

from bench import events, pipeline, processes
from daemon import config as configuration
from daemon.buffer.keys import ShardKeys, shard_keys
from daemon.config import Config
from daemon.devstack import process, stack
from daemon.devstack.stack import StackInfo

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
SETTLE_TIMEOUT_S = 10.0
CALL_TIMEOUT_S = 120.0
"""Emptying a Redis of ten million keys takes a while."""
AOF_REWRITE_BYTES = 256 << 20
RATE_LIMIT_PER_MINUTE = 1_000_000_000
"""On, and never reached: each request is counted against its address's limit, and none is refused."""

INGEST = ("-m", "daemon.cli", "ingest", "--port")
BARE = ("-m", "bench.peers.bare")


TIMEOUT_MS = 300_000
"""A machine that is held up for seconds must make a figure bad, not end the run or send events to the spool."""


class GroundError(Exception):
    """Something under the measurement is not as it must be."""


class Served:
    """A server that runs as a process of its own. `check` before every measurement."""

    def __init__(self, url: str, run_id: str, pid: int) -> None:
        self.url = url
        self.pid = pid
        self._run_id = run_id

    def check(self) -> None:
        """Raises GroundError if somebody else answers: a second server on a port shares the traffic silently."""
        for _ in range(4):  # a new connection each: the kernel chooses between the listeners anew
            found = httpx.get(f"{self.url}/healthz", timeout=5).json()["run_id"]
            if found != self._run_id:
                raise GroundError(f"Another server answers on {self.url}.")


class Ground:
    """Clean stores, and what is needed to measure on them."""

    def __init__(self, info: StackInfo, scratch: Path) -> None:
        self.stack = info
        self.scratch = scratch
        self.redis = redis.Redis.from_url(info.redis, socket_timeout=CALL_TIMEOUT_S)
        # A rewrite of the log takes a core for seconds; it is done between the rounds instead.
        self.redis.config_set("auto-aof-rewrite-percentage", 0)
        self.keys: ShardKeys = shard_keys(0)

    def environ(self, **more: str) -> dict[str, str]:
        """The configuration as environment variables: these stores, everything switched on. `more`: keys without
        TALLYD_."""
        ours = {
            "REDIS__URL": self.stack.redis,
            "MONGO__URL": self.stack.mongo,
            "RATE_LIMIT__PER_MINUTE": str(RATE_LIMIT_PER_MINUTE),
            "SPOOL__DIR": str(self.scratch / "spool"),
            "REDIS__TIMEOUT_MS": str(TIMEOUT_MS),
            "MONGO__TIMEOUT_MS": str(TIMEOUT_MS),
            **more,
        }
        return {f"TALLYD_{key}": value for key, value in ours.items()}

    def config(self, **more: str) -> Config:
        """The same as a value."""
        return configuration.load(environ=self.environ(**more))

    @contextmanager
    def served(self, command: Sequence[str], root: Path = ROOT, **more: str) -> Iterator[Served]:
        """Runs `python COMMAND PORT` on the code under `root` until the block ends."""
        port, run_id = process.free_port(), secrets.token_hex(8)
        environ = {**self.environ(**more), "TALLYD_RUN_ID": run_id, "PYTHONPATH": str(root)}
        with self.server([sys.executable, *command, str(port)], environ, port, run_id) as served:
            yield served

    @contextmanager
    def server(self, command: Sequence[str], environ: dict[str, str], port: int, run_id: str) -> Iterator[Served]:
        """Runs any server that tells its run id under /healthz, until the block ends."""
        with self.running(command, environ, f"served-{port}.log") as (started, log):
            served = Served(f"http://127.0.0.1:{port}", run_id, started.pid)
            _wait_for(served, started, log)
            yield served

    @contextmanager
    def running(
        self, command: Sequence[str], environ: dict[str, str], log_name: str
    ) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        """Runs a program until the block ends; what it says goes to a log."""
        log = self.scratch / log_name
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TALLYD_")}
        with log.open("wb") as output:
            started = subprocess.Popen(
                [*process.dies_with_parent(), *command],
                env={**inherited, **environ},
                cwd=self.scratch,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield started, log
        finally:
            stop(started)

    def redis_cpu_s(self) -> float:
        """Seconds of CPU Redis has used so far, all its threads, by its own account, which is to the microsecond."""
        info: dict[str, Any] = self.redis.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    def mongo_cpu_s(self) -> float:
        """The same of mongod, all its threads."""
        return processes.cpu_s([psutil.Process(self.stack.pids["mongo"])])

    def accepted(self) -> int:
        """Events the ledger holds as accepted, once nothing changes any more: each of ours moves one counter by 1."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        before, now = -1, self._ledger()
        while now != before and time.monotonic() < deadline:
            time.sleep(0.05)
            before, now = now, self._ledger()
        return now

    def _ledger(self) -> int:
        ledger: dict[bytes, bytes] = self.redis.hgetall(self.keys.ledger)  # type: ignore[assignment]
        if any(name.startswith(b"duplicate:") for name in ledger):
            raise GroundError(f"Events were taken for duplicates, and none was one: {ledger}")
        return sum(int(amount) for name, amount in ledger.items() if name.startswith(b"accepted:"))

    def live(self) -> int:
        """The sum of all counts that lie in Redis."""
        names = list(self.redis.scan_iter(f"{self.keys.counters_prefix}:*", count=1000))
        with self.redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hvals(name)
            return sum(int(amount) for amounts in pipe.execute() for amount in amounts)

    def dirty(self) -> int:
        """How many entities wait to be flushed."""
        count: int = self.redis.scard(self.keys.dirty)
        return count

    def verify_counts(self) -> None:
        """Raises GroundError unless what was accepted is what lies there."""
        accepted, live = self.accepted(), self.live()
        if accepted != live:
            raise GroundError(f"The ledger accepted {accepted} events, and {live} are counted.")

    def empty(self) -> None:
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
        if self._persistence("aof_enabled") and self._persistence("aof_current_size") > at_bytes:
            self.redis.bgrewriteaof()
        while self._persistence("aof_rewrite_in_progress") or self._persistence("aof_rewrite_scheduled"):
            time.sleep(0.05)

    def _persistence(self, name: str) -> int:
        info: dict[str, Any] = self.redis.info("persistence")
        return int(info[name])


@contextmanager
def raised(scratch: Path, *, mysql: bool = False) -> Iterator[Ground]:
    """The ground for a run, taken down at the end. `mysql`: with MariaDB, which takes seconds to set up."""
    data = scratch / "stack"
    if not mysql:
        os.environ["TALLYD_STACK_MARIADBD"] = ""
    try:
        info = asyncio.run(stack.bring_up(data, die_with_parent=True)).info
    finally:
        if not mysql:
            del os.environ["TALLYD_STACK_MARIADBD"]
    if mysql and not info.mysql:
        stack.down(data)
        raise GroundError("MariaDB is missing: run `ops/install-servers bench`.")
    try:
        yield Ground(info, scratch)
    finally:
        stack.down(data)


def forget_configuration() -> None:
    """What is measured is the default configuration, not this shell's."""
    for variable in [name for name in os.environ if name.startswith("TALLYD_") and "_STACK_" not in name]:
        del os.environ[variable]


def _wait_for(served: Served, started: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return served.check()
        except (httpx.HTTPError, ValueError, KeyError):
            if started.poll() is not None or time.monotonic() > deadline:
                text = log.read_text(errors="replace")
                raise GroundError(f"A server did not start. What it said:\n{text}") from None
        time.sleep(0.05)


def stop(started: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for whoever outlives it: a worker survives its parent."""
    with suppress(psutil.NoSuchProcess):
        workers = processes.tree(started.pid)[1:]
        started.terminate()
        with suppress(subprocess.TimeoutExpired):
            started.wait(STOP_TIMEOUT_S)
        process.stop(dict.fromkeys(workers, 1.0))
    if started.poll() is None:
        started.kill()
    started.wait()
