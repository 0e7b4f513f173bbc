"""Clean stores on running servers, and tallyd's commands at work on them.

The most used names of the kit are here, too, so that a test needs one import.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis

from daemon import config as configuration
from daemon.buffer.connection import Connection
from daemon.buffer.counters import Counters, Limits, ingest_events
from daemon.buffer.layout import Layout
from daemon.config import Config
from daemon.flush.flusher import Flushed, Flusher
from daemon.ingest.decode import Batch, Decoder, build_catalogue
from daemon.rollups.mongo import MongoSink
from tests.kit.commands import ROOT, TALLYD, inherited, run, run_here
from tests.kit.daemon import Daemon, Ingest
from tests.kit.events import BATCH, EVENTS, event
from tests.kit.oracle import ROLLUPS, expected_rollups
from tests.kit.servers import RedisServer, Stack
from tests.kit.stores import Stores, run_sql
from tests.kit.wait import WAIT_TIMEOUT_S, wait_until

__all__ = [
    "BATCH",
    "EVENTS",
    "ROLLUPS",
    "ROOT",
    "TALLYD",
    "WAIT_TIMEOUT_S",
    "Ingest",
    "System",
    "event",
    "expected_rollups",
    "run_sql",
    "wait_until",
]

CREATE_TABLE = (
    "CREATE TABLE jav (id INT PRIMARY KEY AUTO_INCREMENT, uuid CHAR(36) NOT NULL UNIQUE, code VARCHAR(32),"
    " views BIGINT UNSIGNED NOT NULL DEFAULT 0, downloads BIGINT UNSIGNED NOT NULL DEFAULT 0)"
)
D = TypeVar("D", bound=Daemon)


class System(Stores):
    """An empty Redis, a MongoDB database and a MariaDB database with the table `jav`, each of its own.

    `env` is the environment that points tallyd at them; the rate limit and the bound on an age are off.
    """

    def __init__(self, stack: Stack, scratch: Path, *, database: str = "") -> None:
        """`scratch`: for the spool, the logs, and as the folder that commands run in. `database`: one that is there."""
        self.stack = stack
        self.scratch = scratch
        self.database = database or f"t{secrets.token_hex(6)}"
        mongo, mysql = (with_database(url, self.database) for url in (stack.mongo, stack.mysql))
        super().__init__(stack.redis, mongo, mysql)
        self.env = {
            "TALLYD_REDIS__URL": stack.redis,
            "TALLYD_MONGO__URL": mongo,
            "TALLYD_MYSQL__URL": mysql,
            "TALLYD_RATE_LIMIT__PER_MINUTE": "0",
            "TALLYD_BUDGET__PER_MINUTE": "0",
            "TALLYD_HTTP__METRICS_PORT": "0",
            "TALLYD_FLUSH__METRICS_PORT": "0",
            "TALLYD_INGEST__MAX_AGE_S": "0",
            "TALLYD_SPOOL__DIR": str(scratch / "spool"),
            "TALLYD_REDIS__UNSYNCED_MS": "100",  # an import ends with waiting for so long
        }
        self._env = dict(self.env)
        self.redis.flushall()
        if mysql and not database:
            self.sql(f"CREATE DATABASE `{self.database}`", database="")
        if mysql:
            self.sql(CREATE_TABLE)

    def empty(self, scratch: Path) -> None:
        """As new, but for the tables, collections and indexes there are."""
        self.scratch = scratch
        self.env = {**self._env, "TALLYD_SPOOL__DIR": str(scratch / "spool")}
        self.redis.close()
        self.redis = redis.Redis.from_url(self.stack.redis)
        self.redis.flushall()
        for name in self.mongo.list_collection_names():
            self.mongo[name].delete_many({})
        self.sql("DELETE FROM jav")

    def close(self) -> None:
        """Drops its databases."""
        self.mongo_client.drop_database(self.database)
        self.sql(f"DROP DATABASE `{self.database}`", database="")
        super().close()

    def use_redis(self, server: RedisServer) -> None:
        """From now on this Redis is the system's, which the caller may hurt."""
        self.env["TALLYD_REDIS__URL"] = server.url
        self.redis.close()
        self.redis = server.client()

    def config(self, **env: str) -> Config:
        """The configuration a command with this environment runs with."""
        return configuration.load(environ=self.environ(**env))

    def environ(self, **env: str) -> dict[str, str]:
        """`env`, with `TALLYD_` before the names of configuration keys; other names are taken as they are."""
        return {**self.env, **{f"TALLYD_{key}" if _is_key(key) else key: value for key, value in env.items()}}

    def tallyd(self, *args: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end, in this process, which saves its start (see `run_here`)."""
        return run_here(args, cwd=self.scratch, env={**inherited(), **self.environ(**env)}, check=check)

    def tallyd_apart(self, *args: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """The same in a process of its own."""
        return run([*TALLYD, *args], cwd=self.scratch, env={**inherited(), **self.environ(**env)}, check=check)

    def on_terminal(self, *args: str) -> str:
        """What a command that succeeds writes to a terminal of 160 columns."""
        ours, theirs = os.openpty()
        env = {**inherited(), **self.environ(COLUMNS="160", TERM="xterm")}
        command = [*TALLYD, *args]
        shown: list[bytes] = []
        with os.fdopen(ours, "rb", buffering=0) as screen:
            with subprocess.Popen(command, cwd=self.scratch, env=env, stdout=theirs, stderr=theirs) as process:
                os.close(theirs)
                with contextlib.suppress(OSError):  # the other side was closed
                    shown.extend(iter(lambda: screen.read(65_536), b""))
            assert process.returncode == 0, shown
        return b"".join(shown).decode()

    def audit(self, *options: str, check: bool = True, **env: str) -> dict[str, Any]:
        """What `tallyd audit` reports; with `check` it has to hold. Its exit code says the same."""
        done = self.tallyd("audit", "--json", *options, check=False, **env)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        assert report["holds"] == (done.returncode == 0)
        assert report["holds"] or not check, report
        return report

    def tallyd_here(self, *args: str, **env: str) -> tuple[int, str]:
        """Runs a command. Returns its exit code and output."""
        done = self.tallyd(*args, check=False, **env)
        return done.returncode, done.stdout

    def count(self, *events: dict[str, Any], robots: bool = False) -> int:
        """Counts events as the ingest worker would, without HTTP. Returns how many were new. `robots`: by
        whom they were sent."""
        config = self.config()
        decoder = Decoder(build_catalogue(config, apart=robots), batch_events_max=len(events), clock=time.time)

        async def work() -> int:
            connection = Connection(config.redis, Layout(config))
            counters = [
                Counters(each, shard, Limits.of(config))
                for shard, each in enumerate(connection.for_shards(config.redis.shards))
            ]
            batch = decoder.batch(json.dumps(events).encode())
            assert isinstance(batch, Batch)
            assert not batch.rejected
            try:
                return await ingest_events(counters, batch.events)
            finally:
                await connection.close()

        return asyncio.run(work())

    def flush(self, **env: str) -> Flushed:
        """`tallyd flush --once`, in this process."""

        async def work() -> Flushed:
            flusher = Flusher(self.config(**env))
            try:
                return await flusher.once()
            finally:
                await flusher.close()

        return asyncio.run(work())

    @contextmanager
    def ingest(self, **options: Any) -> Iterator[Ingest]:
        """A running `tallyd ingest`, asked to stop at the end. `options`: as of `Ingest`."""
        with self.asked_to_stop(Ingest(self, **options)) as running:
            yield running
            running.client.close()

    @contextmanager
    def flusher(self, **options: Any) -> Iterator[Daemon]:
        """A running `tallyd flush`, asked to stop at the end. `options`: as of `Daemon`."""
        with self.asked_to_stop(Daemon(self, "flush", **options)) as running:
            yield running

    @contextmanager
    def asked_to_stop(self, daemon: D) -> Iterator[D]:
        """Runs it for the block, and asks it to stop afterwards if it still runs."""
        with daemon:
            yield daemon
            # A daemon that has not come to setting its handlers ends by the signal.
            assert not daemon.running or daemon.end() in (0, -signal.SIGTERM), daemon.text()

    def make_indexes(self) -> None:
        """As the flusher makes them at its start."""

        async def ensure() -> None:
            async with MongoSink(self.config().mongo) as sink:
                await sink.ensure_indexes()
                await sink.ensure_ranking({"view", "download"})

        asyncio.run(ensure())

    def add_movies(self, *uuids: str) -> None:
        if uuids:
            self.sql(f"INSERT INTO jav (uuid) VALUES {', '.join(['(%s)'] * len(uuids))}", *uuids)


def with_database(url: str, name: str) -> str:
    """The URL of MongoDB or MySQL with this database in place of its own; "" stays so."""
    return urlsplit(url)._replace(path=f"/{name}").geturl() if url else ""


def _is_key(name: str) -> bool:
    """Whether this is a key of tallyd's configuration, as an environment variable without TALLYD_."""
    return "__" in name or name == "CONFIG" or name.lower() in Config.__struct_encode_fields__
