"""One private system: three servers, one ingest daemon, two flushers, and a gate between every daemon and store.

Everything can be killed, frozen and started again. What the stores hold is read with the plain client libraries, past
the gates, never with tallyd's own readers.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pymongo
import redis

from daemon.devstack import folder, process, programs
from daemon.devstack.servers import SERVERS, Server
from daemon.devstack.start import Start
from tests.chaos.gate import Gate, Keeper
from tests.chaos.model import BUCKETS, COUNTERS, Rollups, before
from tests.kit.system import run_sql

DATABASE = "tallyd"
READY_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 90.0
POLL_S = 0.02
LEASE_MS = 700
TIMEOUT_MS = 1_000
"""Of every store. A freeze of `FROZEN_S` is longer than all of them."""
FROZEN_S = 2.2
ROWS_MAX = 500

QUICK = {
    "INGEST__CALL_EVENTS_MAX": "500",
    "REDIS__TIMEOUT_MS": str(TIMEOUT_MS),
    "REDIS__RECONNECT_MS": "50",
    "MONGO__TIMEOUT_MS": str(TIMEOUT_MS),
    "MYSQL__TIMEOUT_MS": str(TIMEOUT_MS),
    "MYSQL__LOCK_TIMEOUT_S": "1",
    "MYSQL__ROWS_MAX": str(ROWS_MAX),
    "SPOOL__PROBE_MS": "100",
    "SPOOL__SEGMENT_BYTES": "262144",
    "FLUSH__LEASE_MS": str(LEASE_MS),
    "FLUSH__INTERVAL_S": "0.2",
    "FLUSH__POLL_MS": "50",
    "FLUSH__THRESHOLD": "100",
    "FLUSH__CLAIM_ENTITIES_MAX": "200",
    "FLUSH__CLAIM_US_MAX": "100",
    "FLUSH__RETRY_MS": "100",
    "FLUSH__RETRY_MAX_MS": "500",
}
"""Short times and small batches, so that a short run meets many of each."""

STORES = ("redis", "mongo", "mysql")
DAEMONS = {"ingest": ("redis",), "flush-a": STORES, "flush-b": STORES}
"""Each daemon and the stores it talks to."""


def wait_until(true: Callable[[], object], what: str, timeout_s: float = READY_TIMEOUT_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(POLL_S)


class Store:
    """A server of the stack, by itself. Redis with `appendfsync always` unless told otherwise."""

    def __init__(self, server: Server, data_dir: Path, *, appendfsync: str = "always") -> None:
        program = programs.find(server.program, data_dir)
        assert program is not None, f"no {server.program.name}: run ./justw test, or {server.program.install}"
        if server.name == "redis":
            command = server.command

            def fsynced(*args: Any) -> list[str]:
                return [appendfsync if word == "everysec" else word for word in command(*args)]

            server = msgspec.structs.replace(server, command=fsynced)
        self.server = server
        self.port = 0
        self.process: psutil.Process | None = None
        self._program = program
        self._data_dir = data_dir

    @property
    def url(self) -> str:
        return self.server.url.format(port=self.port)

    @property
    def running(self) -> bool:
        return self.process is not None and process.is_alive(self.process)

    def start(self) -> None:
        """Returns once it answers, at the port it had if that is still free. Nothing to do if it runs."""
        if self.running:
            return
        start = Start(self.server, self._program, self._data_dir, process.dies_with_parent(), self.port or None)
        asyncio.run(start.run())
        self.process, self.port = start.process, start.port

    def stop(self) -> None:
        """SIGTERM, and waits."""
        if self.process is not None:
            process.stop({self.process: self.server.stop_timeout_s})

    def kill(self) -> None:
        """SIGKILL, and waits."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def freeze(self) -> None:
        assert self.process is not None
        self.process.suspend()

    def thaw(self) -> None:
        if self.running:
            assert self.process is not None
            self.process.resume()


class Daemon:
    """A `tallyd` daemon in a session of its own, so that signals reach its workers too."""

    def __init__(self, name: str, args: list[str], env: Mapping[str, str], cwd: Path) -> None:
        self.name = name
        self.starts = 0
        self._args = args
        self._env = env
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._may_end = False

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Doesn't wait until it is ready. Nothing to do if it runs."""
        if self.running:
            return
        self.check()
        self.starts, self._may_end = self.starts + 1, False
        with (self._cwd / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*process.dies_with_parent(), sys.executable, "-m", "daemon.cli", *self._args],
                env={**os.environ, **self._env},
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """It runs, or we have ended it."""
        if self._process is not None and not self.running and not self._may_end:
            log = (self._cwd / f"{self.name}.log").read_text(errors="replace")
            raise AssertionError(f"{self.name} ended by itself, exit code {self._process.returncode}:\n{log[-3000:]}")

    def kill_worker(self) -> None:
        """SIGKILL to one worker; the main process ends then by itself."""
        self._may_end = True
        self.processes()[-1].kill()

    def kill(self) -> None:
        """SIGKILL to all its processes at once."""
        self._may_end = True
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(10)

    def stop(self) -> None:
        """SIGTERM, and waits."""
        self._may_end = True
        if self._process is not None and self.running:
            self._process.terminate()
            self._process.wait(30)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def processes(self) -> list[psutil.Process]:
        """The main process and its workers (its resource tracker is none)."""
        if self._process is None or not self.running:
            return []
        try:
            main = psutil.Process(self._process.pid)
            children = main.children(recursive=True)
            return [main, *(each for each in children if "resource_tracker" not in " ".join(each.cmdline()))]
        except psutil.NoSuchProcess:
            return []

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


class World:
    """Create it with `raised`. Methods are for one thread, the one that made it."""

    def __init__(self, path: Path, *, shards: int, appendfsync: str, settings: Mapping[str, str]) -> None:
        self.path = folder.prepare(path)
        self.shards = shards
        self.spool = self.path / "spool"
        self.movies: frozenset[str] = frozenset()
        """Those that have a row."""
        self.stores = {server.name: Store(server, self.path, appendfsync=appendfsync) for server in SERVERS}
        self.keeper = Keeper()
        self.gates: dict[tuple[str, str], Gate] = {}
        for daemon, stores in DAEMONS.items():
            for name in stores:
                self.gates[daemon, name] = self.keeper.gate(self._port_of(name))
        self._settings = {
            "REDIS__SHARDS": str(shards),
            "SPOOL__DIR": str(self.spool),
            "RATE_LIMIT__PER_MINUTE": "0",
            **settings,
        }
        self.http_port = process.free_port()
        self.daemons = {
            name: Daemon(
                name,
                ["ingest", "--port", str(self.http_port)] if name == "ingest" else ["flush"],
                self._environ({store: self.gates[name, store].port for store in stores}),
                self.path,
            )
            for name, stores in DAEMONS.items()
        }

    def _port_of(self, store: str) -> Callable[[], int]:
        return lambda: self.stores[store].port

    def _environ(self, ports: Mapping[str, int]) -> dict[str, str]:
        """What a daemon is told that reaches the stores at these ports."""
        urls = {f"{name.upper()}__URL": self.stores[name].server.url.format(port=port) for name, port in ports.items()}
        return {f"TALLYD_{key}": value for key, value in {**self._settings, **urls}.items()}

    # Up and down ------------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Everything that does not run is started, every gate opened; returns once the ingest daemon is ready."""
        for gate in self.gates.values():
            gate.reset()
        for store in self.stores.values():
            store.start()
        for daemon in self.daemons.values():
            daemon.start()
            daemon.thaw()
        for store in self.stores.values():
            store.thaw()
        wait_until(self.is_ready, "the ingest daemon is ready")

    def down(self) -> None:
        for daemon in self.daemons.values():
            if daemon.running:
                daemon.thaw()
                daemon.kill()
        for store in self.stores.values():
            if store.running:
                store.thaw()
                store.stop()
        self.keeper.close()

    def is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            return bool(json.loads(connection.getresponse().read())["status"] == "ready")
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return False
        finally:
            connection.close()

    def add_movies(self, ids: frozenset[str]) -> None:
        self.sql(
            "CREATE TABLE IF NOT EXISTS jav (id INT PRIMARY KEY AUTO_INCREMENT, uuid VARCHAR(64) NOT NULL UNIQUE,"
            " views BIGINT UNSIGNED NOT NULL DEFAULT 0, downloads BIGINT UNSIGNED NOT NULL DEFAULT 0)"
        )
        self.movies = ids
        for id_ in sorted(ids):
            self.sql("INSERT IGNORE INTO jav (uuid, views, downloads) VALUES (%s, %s, %s)", id_, *before(id_).values())

    # What the stores hold ---------------------------------------------------------------------------------------

    @contextmanager
    def redis(self) -> Iterator[redis.Redis]:
        with redis.Redis.from_url(self.stores["redis"].url, socket_timeout=10) as client:
            yield client

    def claims(self) -> dict[int, bytes]:
        """Shard → the first part of the batch in flight; its seq changes while it grows, and that does not."""
        with self.redis() as client:
            fields = {shard: client.hkeys(f"anl:{{{shard}}}:claim") for shard in range(self.shards)}
        parts = {shard: [each for each in found if each.startswith(b"payload")] for shard, found in fields.items()}
        return {shard: min(found) for shard, found in parts.items() if found}

    def ledger(self) -> dict[str, int]:
        """The sums over all shards."""
        sums: dict[str, int] = {}
        with self.redis() as client:
            for shard in range(self.shards):
                for field, amount in client.hgetall(f"anl:{{{shard}}}:ledger").items():
                    sums[field.decode()] = sums.get(field.decode(), 0) + int(amount)
        return sums

    def left(self) -> list[str]:
        """What is still on its way."""
        found = [f"{path.name} in the spool" for path in self.spool.glob("*.open")]
        found += [f"{path.name} in the spool" for path in self.spool.glob("*.seg")]
        with self.redis() as client:
            for shard in range(self.shards):
                tag = f"anl:{{{shard}}}"
                found += [f"shard {shard}: {n} dirty" for n in [client.scard(f"{tag}:dirty")] if n]
                found += [f"shard {shard}: claim {seq!r}" for seq in [client.hget(f"{tag}:claim", "seq")] if seq]
                found += [f"shard {shard}: {n} due for MySQL" for n in [client.zcard(f"{tag}:replica")] if n]
        return found

    def drain(self) -> None:
        """Waits until everything that was accepted has arrived everywhere."""
        deadline_s = time.monotonic() + DRAIN_TIMEOUT_S
        while left := self.left():
            assert time.monotonic() < deadline_s, f"not drained within {DRAIN_TIMEOUT_S:g} s: {left}"
            time.sleep(POLL_S)
        with self.redis() as client:
            counters = [key for shard in range(self.shards) for key in client.scan_iter(f"anl:{{{shard}}}:counters:*")]
        assert not counters, f"live counts of entities that are not dirty: {counters[:5]}"

    def rollups(self) -> Rollups:
        """Every document of the five collections, whole but for `updated_at`, `flush_seq`, the base, which has to be
        what the row said before (nobody ran a backfill), and what the row holds, at most what was counted."""
        found: Rollups = {}
        with pymongo.MongoClient[dict[str, Any]](self.stores["mongo"].url) as client:
            for name, _, _ in BUCKETS:
                documents = found[name] = {}
                for document in client[DATABASE][f"analytics_entity_{name}"].find():
                    seq = document.pop("flush_seq")
                    assert isinstance(seq, int)
                    document.pop("updated_at")
                    kind, id_ = document["entity_type"], document["entity_id"]
                    mapped = name == "totals" and kind == "movie" and id_ in self.movies
                    assert document.pop("base", None) == (before(id_) if mapped else None)
                    held = document.pop("synced", {})
                    assert all(amount <= document[counter] for counter, amount in held.items())
                    documents[document["_id"]] = document
        return found

    def dead_letters(self) -> int:
        with pymongo.MongoClient[dict[str, Any]](self.stores["mongo"].url) as client:
            return int(client[DATABASE]["analytics_dead_letters"].count_documents({}))

    def rows(self) -> dict[str, tuple[int, int]]:
        found = self.sql("SELECT uuid, views, downloads FROM jav")
        return {uuid: (int(views), int(downloads)) for uuid, views, downloads in found}

    def sql(self, statement: str, *args: object) -> list[tuple[Any, ...]]:
        """Runs a statement on MariaDB, past the gate, and returns its rows."""
        return run_sql(self.stores["mysql"].url, DATABASE, statement, *args)

    def audit(self) -> dict[str, Any]:
        """`tallyd audit --deep --json`, past the gates. Asserts that it holds."""
        done = subprocess.run(
            [sys.executable, "-m", "daemon.cli", "audit", "--deep", "--json"],
            env={
                **os.environ,
                **self._environ({name: store.port for name, store in self.stores.items()}),
                **{f"TALLYD_{name}__TIMEOUT_MS": "20000" for name in ("REDIS", "MONGO", "MYSQL")},
            },
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"the audit ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def accepted(self) -> dict[str, int]:
        ledger = self.ledger()
        return {counter: ledger.get(f"accepted:{counter}", 0) for counter in COUNTERS}


@contextmanager
def raised(
    path: Path, *, shards: int = 1, appendfsync: str = "always", quick: bool = True, **settings: str
) -> Iterator[World]:
    """A world that is up; everything is stopped at the end.

    `quick`: with the times and sizes of `QUICK` instead of tallyd's defaults. `settings`: keys without TALLYD_.
    """
    world = World(path, shards=shards, appendfsync=appendfsync, settings={**(QUICK if quick else {}), **settings})
    try:
        world.up()
        yield world
    finally:
        world.down()
