"""The flush daemon's loops: when each shard is drained and synced, and what happens when a store is away.

A shard is flushed when `threshold` entities are dirty or `interval_s` has passed, until it is empty. A failure never
ends a loop: it is logged, counted and waited out. MongoDB and MySQL have a loop each, so neither delays the other. A
third loop deletes event ids that the dedupe memory no longer needs.

While `enabled` is false, MySQL's columns are the application's. MongoDB is written as always, and no row of MySQL is.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from daemon import counted, log, metrics, traces
from daemon.buffer.connection import Connection
from daemon.buffer.counters import Busy, Counters, Empty, Limits
from daemon.buffer.dedupe import Forgetting
from daemon.buffer.layout import Layout
from daemon.config import Config, domain_counters, kept_kinds, moved_counters, ranked_kinds, replica_tables, require
from daemon.domain.outcome import Failure
from daemon.errors import LayoutError, StoreError
from daemon.flush.domains import DomainBuilder
from daemon.flush.drain import Applied, Drain, Unbuilt
from daemon.replica.known import KnownIds
from daemon.replica.mysql import LockHeldError, MysqlSink
from daemon.replica.sync import Replica, Synced
from daemon.retry import jittered
from daemon.rollups.mongo import MongoSink

BUSY_POLL_MS_MAX = 1_000
LOCK_HELD_PAUSE_S = 1.0
GC_THRESHOLD_OBJECTS = 200_000
CANCEL_TIMEOUT_S = 2.0
STEP_CALLS_MAX = 6
"""One step of a loop makes at most so many calls to each store, and each call has its time-out. A step that takes
longer than all of them together hangs, and the watchdog is told. A claim calls Redis more often, but MySQL only about
types with `known = true`."""

_log = logging.getLogger(__name__)


@dataclass
class Flushed:
    """The result of `flush --once`. `missing`: entities without a row in MySQL. `refused`: rows that MySQL refused.

    `due`: entities whose rows were not set, because tallyd is switched off.
    """

    claims: int = 0
    entities: int = 0
    documents: int = 0
    already: int = 0
    dead: int = 0
    rows: int = 0
    missing: int = 0
    refused: int = 0
    due: int = 0
    seconds: float = 0.0
    replica_error: str | None = None
    """Why MySQL was not updated. MongoDB was."""

    def add_claim(self, applied: Applied) -> None:
        self.claims += 1
        self.entities += applied.entities
        self.documents += applied.documents.applied
        self.already += applied.documents.already
        self.dead += applied.dead

    def add_refused(self, failures: Sequence[Failure]) -> None:
        if failures and self.replica_error is None:
            target, id_, reason = failures[0]
            self.replica_error = f"MySQL refuses rows, the first {target} {id_}: {reason}"
        self.refused += len(failures)


@dataclass
class Hand:
    """What a process does at a time: one claim, and one sync. Shards share it, so what they take is bounded."""

    mysql: MysqlSink | None
    """For the syncs."""
    lookups: MysqlSink | None
    """For the claims that ask MySQL about ids."""
    claiming: asyncio.Lock = field(default_factory=asyncio.Lock)
    syncing: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass
class Shard:
    """The work of one shard. `synced` wakes the replica loop."""

    hand: Hand
    counters: Counters
    drain: Drain
    replica: Replica | None
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    applying: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Its own loop applies claims, and the builder of whole domains."""


class Flusher:
    """Owns the connections of all shards. Use either `once` or `run`. `close` ends it."""

    def __init__(self, config: Config) -> None:
        knows = any(table.known for kinds in config.replica.values() for table in kinds.values())
        require(config, "redis", "mongo", *(("mysql",) if knows else ()))
        # A claim makes some 50,000 objects, which live as long as it does. With Python's threshold of 700 the collector
        # scans them again and again, and building the rollup takes twice as long.
        gc.set_threshold(GC_THRESHOLD_OBJECTS)
        self._config = config
        self._flush = config.flush
        self._mongo = MongoSink(config.mongo, decides=True)
        self._hands = [
            Hand(
                MysqlSink(config.mysql) if config.mysql.url and config.enabled else None,
                MysqlSink(config.mysql) if knows else None,
            )
            for _ in range(min(config.flush.claims_in_flight_max, config.redis.shards))
        ]
        self._connections: list[Connection] = []
        self._layout = Layout(config)
        self._stopping = asyncio.Event()
        self._steps: dict[str, float] = {}
        """Each step that is running → when it began (monotonic seconds). A pause is no step."""
        self._step_s_max = (
            STEP_CALLS_MAX * (config.redis.timeout_ms + config.mongo.timeout_ms + config.mysql.timeout_ms) / 1000
        )
        self.emptied_at: dict[int, float] = {}
        """Shard → when the last acknowledged claim that took all there was had been asked for (monotonic seconds)."""
        self.trouble = ""
        """The last failure, until that work succeeds."""
        self.shards = [self._shard(number) for number in range(config.redis.shards)]
        self.domains = DomainBuilder(
            self._mongo,
            {shard.counters.shard: shard.counters for shard in self.shards},
            lambda number: self._apply(self.shards[number], for_build=True),
            owner=_owner(),
            lease_ms=config.flush.lease_ms,
            counters={counter for domain in config.domains for counter in domain_counters(config, domain)},
        )
        self._forgetting = Forgetting(self._connections, config.dedupe.window_s)

    def _shard(self, number: int) -> Shard:
        config, tables = self._config, replica_tables(self._config)
        hand = self._hands[number % len(self._hands)]
        connection = Connection(config.redis, self._layout, number)
        self._connections.append(connection)
        counters = Counters(connection, number, Limits.of(config))
        drain = Drain(
            counters,
            self._mongo,
            config.flush,
            owner=_owner(),
            zeros={domain: domain_counters(config, domain) for domain in config.domains},
            mapped=tables.keys(),
            known=KnownIds(hand.lookups, tables) if hand.lookups else None,
        )
        replica = None
        if hand.mysql:
            replica = Replica(counters, self._mongo, hand.mysql, tables, config.mysql.rows_max)
        return Shard(hand, counters, drain, replica)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()
        for mysql in (mysql for hand in self._hands for mysql in (hand.mysql, hand.lookups) if mysql is not None):
            await mysql.close()
        await self._mongo.close()

    async def prepare(self) -> None:
        """Checks the layout and creates the indexes. Raises LayoutError or StoreError."""
        for connection in self._connections:
            await connection.connect()
        await self._mongo.ensure_indexes(kept_kinds(self._config))

    async def rank(self) -> None:
        """Creates the indexes of top lists, however long that takes. Raises StoreError."""
        await self._mongo.ensure_ranking(moved_counters(self._config), ranked_kinds(self._config))

    async def once(self, progress: Callable[[Flushed], None] = lambda _: None) -> Flushed:
        """Drains every shard, then sets all rows that are due.

        Raises StoreError if Redis or MongoDB fails. A failure of MySQL is in the result.
        """
        await self.prepare()
        done, started = Flushed(), time.perf_counter()
        for shard in self.shards:
            while not isinstance(step := await self._apply(shard), Empty):
                if isinstance(step, Busy):
                    _log.info("Another flusher holds the claim of shard %d. Waiting for it.", shard.counters.shard)
                    await asyncio.sleep(min(step.left_ms, BUSY_POLL_MS_MAX) / 1000)
                    continue
                if isinstance(step, Unbuilt):
                    if not await self.domains.build():
                        await asyncio.sleep(BUSY_POLL_MS_MAX / 1000)
                    continue
                done.add_claim(step)
                progress(done)
            await shard.counters.mark(flushed=done.claims > 0)
        try:
            await self.sync_replicas(done, progress)
        except StoreError as error:
            done.replica_error = str(error)
        if self._config.mysql.url and not self._config.enabled:
            done.due = sum([await shard.counters.count_due() for shard in self.shards])
        done.seconds = time.perf_counter() - started
        await self._forget()
        await self.rank()
        return done

    async def sync_replicas(self, done: Flushed, progress: Callable[[Flushed], None] = lambda _: None) -> None:
        """Sets every row that is due, and nothing else. Raises StoreError."""
        for shard in [shard for shard in self.shards if shard.replica is not None]:
            more = True
            while more:
                synced = await self._sync_next(shard)
                done.rows += synced.rows.applied
                done.missing += synced.rows.missing
                done.add_refused(synced.rows.failures)
                more = synced.more
                progress(done)

    async def run(self, ready: Callable[[], None]) -> None:
        """Flushes until `stop`. Raises LayoutError.

        After `stop` the current claim is finished, and no other begins. A claim that takes longer than `stop_timeout_s`
        stays in flight, and the next flusher gets it.
        """
        loops = asyncio.create_task(self._run_loops(ready))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({loops, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self._steps:  # no other begins; nothing else is worth waiting for, such as a store that is away at start
                await asyncio.wait({loops}, timeout=self._flush.stop_timeout_s)
            if loops.done():
                return loops.result()
            if self._steps:
                _log.warning(
                    "Not finished within %d s: %s. It is left to the next flusher.",
                    self._flush.stop_timeout_s, ", ".join(self._steps),
                )  # fmt: skip
        finally:
            stopping.cancel()
            loops.cancel()
            await asyncio.wait({loops}, timeout=CANCEL_TIMEOUT_S)

    def stop(self) -> None:
        self._stopping.set()
        for shard in self.shards:
            shard.synced.set()

    def stuck(self) -> str | None:
        """The step that takes longer than the time-outs of all its calls together. None if there is none."""
        oldest = time.monotonic() - self._step_s_max
        return next((step for step, since in list(self._steps.items()) if since < oldest), None)

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        self._steps[what] = time.monotonic()
        try:
            yield
        finally:
            del self._steps[what]

    async def _run_loops(self, ready: Callable[[], None]) -> None:
        await self._until_done("Start-up", self.prepare)
        if self._stopping.is_set():
            return
        ready()
        ranking = asyncio.create_task(self._until_done("Ranking", self.rank))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._forget_loop())
                for shard in random.sample(self.shards, len(self.shards)):  # several flushers then begin apart
                    with log.bound(shard=shard.counters.shard):  # a task has what is bound when it is made
                        tasks.create_task(self._drain_loop(shard))
                        if shard.replica is not None:
                            tasks.create_task(self._replica_loop(shard))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None  # only a LayoutError ends a loop
        finally:
            ranking.cancel()
            await asyncio.wait({ranking})

    async def _drain_loop(self, shard: Shard) -> None:
        flushed_at = time.monotonic()
        while not self._stopping.is_set():
            dirty = 0
            if time.monotonic() - flushed_at < self._flush.interval_s:
                try:
                    dirty = await shard.counters.dirty()
                except StoreError:
                    dirty = self._flush.threshold  # the flush itself reports the failure, and waits
                if dirty < self._flush.threshold:
                    await self._pause(self._flush.poll_ms / 1000)
                    continue
            await self._until_done(f"Flushing shard {shard.counters.shard}", lambda: self._drain(shard))
            flushed_at = time.monotonic()

    async def _drain(self, shard: Shard) -> None:
        """Applies claims until one took all dirty entities. Counts that arrive meanwhile wait for the next flush."""
        flushed = False
        while not self._stopping.is_set():
            step = await self._apply(shard)
            flushed = flushed or isinstance(step, Applied)
            if isinstance(step, Busy):
                await self._pause(min(step.left_ms, BUSY_POLL_MS_MAX) / 1000)
            elif isinstance(step, Unbuilt):
                if not await self.domains.build():
                    await self._pause(BUSY_POLL_MS_MAX / 1000)
            elif step.dirty_left == 0:
                await shard.counters.mark(flushed=flushed)
                return

    async def _apply(self, shard: Shard, *, for_build: bool = False) -> Applied | Busy | Empty | Unbuilt:
        started, asked_at = time.perf_counter(), time.monotonic()
        number = shard.counters.shard
        async with shard.applying, shard.hand.claiming:
            with self._step(f"a claim of shard {number}"), traces.span("flush", {"tallyd.shard": number}):
                step = await shard.drain.apply_next(for_build=for_build)
        if not isinstance(step, Busy | Unbuilt) and step.dirty_left == 0:
            self.emptied_at[shard.counters.shard] = asked_at
        if isinstance(step, Applied):
            metrics.FLUSH_SECONDS.observe(time.perf_counter() - started)
            metrics.FLUSH_CLAIMS.inc()
            metrics.FLUSH_ENTITIES.inc(step.entities)
            metrics.ENTITIES_NEW.inc(step.documents.inserted)
            for outcome, documents in (
                ("applied", step.documents.applied), ("already", step.documents.already), ("dead", step.dead)
            ):  # fmt: skip
                metrics.FLUSH_DOCUMENTS.labels(outcome).inc(documents)
            shard.synced.set()
            _log.debug(
                "Shard %d: %d entities, %d documents in %.3f s", shard.counters.shard, step.entities,
                step.documents.applied, time.perf_counter() - started,
            )  # fmt: skip
        return step

    async def _replica_loop(self, shard: Shard) -> None:
        while not self._stopping.is_set():
            await self._until_done(f"MySQL sync of shard {shard.counters.shard}", lambda: self._sync(shard))
            shard.synced.clear()
            try:
                async with asyncio.timeout(self._flush.interval_s):
                    await shard.synced.wait()
            except TimeoutError:
                pass  # another flusher may have left rows due

    async def _sync(self, shard: Shard) -> None:
        assert shard.replica is not None
        more = True
        while more and not self._stopping.is_set():
            try:
                synced = await self._sync_next(shard)
            except LockHeldError:
                await self._pause(jittered(LOCK_HELD_PAUSE_S))
                continue
            metrics.REPLICA_ROWS.labels("set").inc(synced.rows.applied)
            metrics.REPLICA_ROWS.labels("missing").inc(synced.rows.missing)
            metrics.REPLICA_ROWS.labels("refused").inc(len(synced.rows.failures))
            if synced.rows.applied:
                counted.TOLD.info("MySQL has the new totals of %d rows", synced.rows.applied)
            more = synced.more

    async def _sync_next(self, shard: Shard) -> Synced:
        assert shard.replica is not None
        number = shard.counters.shard
        async with shard.hand.syncing:
            with self._step(f"the MySQL sync of shard {number}"), traces.span("sync", {"tallyd.shard": number}):
                return await shard.replica.sync_next()

    async def _forget_loop(self) -> None:
        while not self._stopping.is_set():
            await self._until_done("Forgetting", self._forget)
            await self._pause(self._flush.interval_s)

    async def _forget(self) -> None:
        deleted = await self._forgetting.run(self._stopping.is_set)
        if deleted:
            _log.info("Deleted %d sets of the dedupe memory. Their windows are over.", deleted)

    async def _until_done(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Repeats the work until it succeeds or the daemon stops. The pause between two attempts doubles."""
        pause_ms = self._flush.retry_ms
        while not self._stopping.is_set():
            try:
                await work()
            except LayoutError:
                raise
            except Exception as error:  # noqa: BLE001  (drivers raise errors they do not document, and no loop may end)
                unplanned = not isinstance(error, StoreError)
                self.trouble = f"{what} failed: {error}"
                metrics.FLUSH_FAILURES.labels(error.store if isinstance(error, StoreError) else "none").inc()
                pause_s = jittered(pause_ms / 1000)
                _log.error("%s failed: %s. Next attempt in %.1f s.", what, error, pause_s, exc_info=unplanned)
            else:
                if self.trouble.startswith(what):
                    self.trouble = ""
                return
            await self._pause(pause_s)
            pause_ms = min(pause_ms * 2, self._flush.retry_max_ms)

    async def _pause(self, seconds: float) -> None:
        """Sleeps, but ends at a stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
