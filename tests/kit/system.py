"""What the tests drive tallyd with: real servers, the real commands as processes, and the counts read back directly.

`System` is one clean set of stores and the environment that points tallyd at it. It reads the stores with the plain
client libraries, never with tallyd's own readers, so that a test doesn't trust what it tests.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncmy
import httpx
import pymongo
import redis
from mirakuru import HTTPExecutor, SimpleExecutor
from typer.testing import CliRunner

from daemon import config as configuration
from daemon.buffer.connection import Connection
from daemon.buffer.counters import Counters, Limits, ingest_events
from daemon.buffer.layout import Layout
from daemon.cli import app
from daemon.config import Config
from daemon.devstack import process
from daemon.devstack.stack import StackInfo
from daemon.errors import TallydError
from daemon.flush.flusher import Flushed, Flusher
from daemon.ingest.decode import Batch, Decoder, build_catalogue

ROOT = Path(__file__).resolve().parents[2]
TALLYD = (sys.executable, "-m", "daemon.cli")
START_TIMEOUT_S = 20.0
WAIT_TIMEOUT_S = 20.0
SUFFIXES: dict[str, Callable[[dt.date], str]] = {
    "totals": lambda _: "",
    "daily": lambda day: f":{day:%Y-%m-%d}",
    "weekly": lambda day: f":{day:%G-W%V}",
    "monthly": lambda day: f":{day:%Y-%m}",
    "yearly": lambda day: f":{day:%Y}",
}
"""What each rollup adds to an entity's key, by the calendar alone."""
ROLLUPS = tuple(SUFFIXES)
EVENTS = "/api/v1/analytics/events"
BATCH = "/api/v1/analytics/events/batch"


def event(**fields: Any) -> dict[str, Any]:
    """A good event with an id of its own; `fields` replace or add."""
    return {
        "event_id": secrets.token_hex(8),
        "domain": "jav",
        "entity_type": "movie",
        "entity_id": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "action": "view",
        "value": 1,
        "occurred_at": "2026-02-19T10:00:00Z",
        **fields,
    }


def wait_until(true: Callable[[], object], what: str, timeout_s: float = WAIT_TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)


def run_sql(url: str, database: str, statement: str, *args: object) -> list[tuple[Any, ...]]:
    """Runs a statement on the MySQL at `url`, in this database ("": in none), and returns its rows."""
    parts = urlsplit(url)

    async def run() -> list[tuple[Any, ...]]:
        connection = await asyncmy.connect(
            host=parts.hostname, port=parts.port, user=parts.username, db=database or None, autocommit=True
        )
        try:
            async with connection.cursor() as cursor:
                await cursor.execute(statement, args or None)
                return list(await cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    return asyncio.run(run())


class Ingest:
    """A running ingest daemon and a client of it."""

    def __init__(self, executor: HTTPExecutor, url: str) -> None:
        self.executor = executor
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=10)

    @property
    def pid(self) -> int:
        assert self.executor.process is not None
        return self.executor.process.pid

    def post(self, body: Any, path: str = EVENTS, **options: Any) -> httpx.Response:
        """Sends JSON, or bytes as they are with content type JSON unless `headers` say otherwise."""
        if isinstance(body, bytes):
            headers = {"content-type": "application/json", **options.pop("headers", {})}
            return self.client.post(path, content=body, headers=headers, **options)
        return self.client.post(path, json=body, **options)


class System:
    """Clean stores on running servers."""

    def __init__(self, stack: StackInfo, scratch: Path) -> None:
        self.stack = stack
        self.scratch = scratch
        name = f"t{secrets.token_hex(6)}"
        mongo, mysql = urlsplit(stack.mongo), urlsplit(stack.mysql)
        self.database = name
        self.env = {
            "TALLYD_REDIS__URL": stack.redis,
            "TALLYD_MONGO__URL": mongo._replace(path=f"/{name}").geturl(),
            "TALLYD_MYSQL__URL": mysql._replace(path=f"/{name}").geturl(),
            "TALLYD_RATE_LIMIT__PER_MINUTE": "0",
            "TALLYD_SPOOL__DIR": str(scratch / "spool"),
        }
        self._env = dict(self.env)
        self.redis = redis.Redis.from_url(stack.redis)
        self.redis.flushall()
        self.mongo_client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(stack.mongo, tz_aware=True)
        self.mongo = self.mongo_client[name]
        self.sql(f"CREATE DATABASE `{name}`", database="")
        self.sql(
            "CREATE TABLE jav (id INT PRIMARY KEY AUTO_INCREMENT, uuid CHAR(36) NOT NULL UNIQUE, code VARCHAR(32),"
            " views BIGINT UNSIGNED NOT NULL DEFAULT 0, downloads BIGINT UNSIGNED NOT NULL DEFAULT 0)"
        )

    def empty(self, scratch: Path) -> None:
        """As new, but for the tables, collections and indexes there are."""
        self.env, self.scratch = dict(self._env), scratch
        self.redis.flushall()
        for name in self.mongo.list_collection_names():
            self.mongo[name].delete_many({})
        self.sql("DELETE FROM jav")

    def close(self) -> None:
        self.mongo_client.drop_database(self.database)
        self.sql(f"DROP DATABASE `{self.database}`", database="")
        self.mongo_client.close()
        self.redis.close()

    def config(self, **env: str) -> Config:
        """The configuration a command with this environment runs with; keys as TALLYD_… without the prefix."""
        return configuration.load(environ=self.environ(**env))

    def environ(self, **env: str) -> dict[str, str]:
        return {**self.env, **{f"TALLYD_{key}": value for key, value in env.items()}}

    def tallyd(self, *args: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        done = subprocess.run(
            [*TALLYD, *args],
            env={**os.environ, **self.environ(**env)},
            cwd=self.scratch,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def tallyd_here(self, *args: str, **env: str) -> tuple[int, str]:
        """Runs a command in this process, which saves its start. Returns its exit code and what it printed."""
        done = CliRunner().invoke(app, args, env=self.environ(**env))
        if isinstance(done.exception, TallydError):
            return done.exception.exit_code, done.stdout
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout

    def count(self, *events: dict[str, Any]) -> int:
        """Counts events as the ingest worker would, without HTTP. Returns how many were new."""
        config = self.config()
        decoder = Decoder(build_catalogue(config), batch_events_max=len(events), clock=time.time)

        async def work() -> int:
            connection = Connection(config.redis, Layout(config))
            limits = Limits(0, config.dedupe.window_s, config.dedupe.events_per_window)
            counters = [Counters(connection, shard, limits) for shard in range(config.redis.shards)]
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
    def ingest(self, *, command: Sequence[str] = TALLYD, **env: str) -> Iterator[Ingest]:
        """A running `tallyd ingest`."""
        port, run_id = process.free_port(), secrets.token_hex(8)
        url = f"http://127.0.0.1:{port}"
        with (self.scratch / f"ingest-{port}.log").open("wb") as log:
            executor = HTTPExecutor(
                [*command, "ingest", "--port", str(port)],
                f"{url}/healthz",
                timeout=START_TIMEOUT_S,
                cwd=str(self.scratch),
                stdout=log,
                stderr=subprocess.STDOUT,
                envvars={**self.environ(**env), "TALLYD_RUN_ID": run_id},
            )
            with executor:
                running = Ingest(executor, url)
                assert running.client.get("/healthz").json()["run_id"] == run_id, "another server shares the port"
                yield running
                running.client.close()

    @contextmanager
    def flusher(self, **env: str) -> Iterator[SimpleExecutor]:
        """A running `tallyd flush`."""
        with (self.scratch / f"flush-{secrets.token_hex(4)}.log").open("wb") as log:
            executor = SimpleExecutor(
                [*TALLYD, "flush"],
                cwd=str(self.scratch),
                stdout=log,
                stderr=subprocess.STDOUT,
                envvars=self.environ(**env),
            )
            with executor:
                yield executor

    def sql(self, statement: str, *args: object, database: str | None = None) -> list[tuple[Any, ...]]:
        """Runs a statement on MariaDB and returns its rows."""
        return run_sql(self.stack.mysql, self.database if database is None else database, statement, *args)

    def add_movies(self, *uuids: str) -> None:
        if uuids:
            self.sql(f"INSERT INTO jav (uuid) VALUES {', '.join(['(%s)'] * len(uuids))}", *uuids)

    def replica(self) -> dict[str, tuple[int, int]]:
        """uuid → (views, downloads)."""
        return {
            uuid: (views, downloads) for uuid, views, downloads in self.sql("SELECT uuid, views, downloads FROM jav")
        }

    def rollup(self, name: str) -> dict[str, dict[str, int]]:
        """`_id` → counters that are not 0, of one of the five collections."""
        found = {}
        for document in self.mongo[f"analytics_entity_{name}"].find():
            counters = {
                field: amount
                for field, amount in document.items()
                if isinstance(amount, int) and amount and field != "flush_seq"
            }
            found[document["_id"]] = counters
        return found

    def rollups(self) -> dict[str, dict[str, dict[str, int]]]:
        return {name: self.rollup(name) for name in ROLLUPS}

    def ledger(self) -> dict[str, int]:
        return {field.decode(): int(amount) for field, amount in self.redis.hgetall("anl:{0}:ledger").items()}


def expected_rollups(counted: list[tuple[str, str, dt.date, int]]) -> dict[str, dict[str, dict[str, int]]]:
    """The five rollups of (entity key, counter, UTC day, amount), computed from nothing but the calendar."""
    sums: dict[str, dict[str, Counter[str]]] = {name: {} for name in ROLLUPS}
    for key, counter, day, amount in counted:
        for name, suffix in SUFFIXES.items():
            sums[name].setdefault(key + suffix(day), Counter())[counter] += amount
    return {name: {id_: dict(counters) for id_, counters in documents.items()} for name, documents in sums.items()}
