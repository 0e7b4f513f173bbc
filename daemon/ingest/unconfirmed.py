"""Calls that Redis answered and could still forget. Each is kept until it is safe, and sent again if need be.

Redis answers before its replicas have a call, and before its file is synced. If it is killed then, another history
goes on, which may lack the call: a replica's, or its own from a few moments ago. Its events were answered 202. So each
worker keeps what was answered, and asks over a connection of its own, again and again, until it is safe:

    it is older than `redis.unsynced_ms`                  so Redis has it in its file, unless it was another process
    all replicas hold it, no fewer than `redis.replicas`  WAIT says so, if Redis has replicas at all

A history has an id (`buffer/confirm.py`). If another one answers, all that was answered in the old one is sent again.
The ids decide: what is known is a duplicate. Whether anything was lost need not be known.

Calls that were answered one after the other by the same Redis are a bundle. It is also a file in `spool.dir`, named
`<time>-<pid>-<token>.<shard>.ring`. It is not synced: the kernel keeps it when the worker is killed, and whoever comes
next sends it again. Only a host that loses its power in the same moment as Redis takes it along. For that there is
`redis.durability = "replicated"`: the answer waits until the call is safe. If that takes too long, the events go to
the spool, too.

A Redis that lost all its memory began a new epoch, and knows no ids. What was kept may have been flushed, so it is
dropped. `STEPS` says what holds if the worker dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from daemon import metrics
from daemon.buffer.confirm import Memory
from daemon.buffer.connection import Connection, RefusedError
from daemon.buffer.counters import Counters
from daemon.buffer.layout import Layout
from daemon.config import Config
from daemon.errors import LayoutError, RedisStoreError, StoreError
from daemon.retry import jittered
from daemon.spool.origin import decode_head, encode_head, origin_of
from daemon.spool.record import frame, payloads

STEPS = {
    "keep": "The client has no answer and sends the events again. They are known, or the next worker sends the file.",
    "answer": "The call is in the file, as long as it is not confirmed. The next worker sends it again.",
    "confirm": "The call is safe. The next worker sends it again if its file is left.",
    "send_again": "The call is counted, or known. The next worker sends it once more.",
    "delete": "The file is gone. Nothing in it was unconfirmed.",
}
"""Each step of a call in order, and what holds if the worker dies after it or its reply is lost."""

RING = "ring"
CONFIRM_INTERVAL_S = 0.05
"""Between two questions to a Redis with replicas. Else it is a tenth of `redis.unsynced_ms`, and at least this."""
LOOK_INTERVAL_S = 5.0
"""How often a worker looks for files of workers that were killed, and for replicas, if it keeps nothing."""
SHARD_BYTES = 2

_log = logging.getLogger(__name__)


class _Bundle:
    """Calls that one Redis answered, and their file.

    `memory`: what answered. A history of "": nobody knows which one."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.calls: list[tuple[int, bytes]] = []
        self.bytes = 0
        self.begun_s = self.ended_s = time.monotonic()
        self.path: Path | None = None
        self._fd = -1

    def open(self, path: Path, head: bytes) -> None:
        """Begins the file. The lock says that its worker lives. Raises OSError."""
        self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.path = path
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._write(head)

    def take_over(self, path: Path) -> bytes:
        """Locks a file that a killed worker left, and reads it. Raises OSError, BlockingIOError if it is in use."""
        self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        self.path = path
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(self._fd, "rb", closefd=False) as file:
            return file.read()

    @property
    def written_at(self) -> float:
        """When its file was last written (s since 1970)."""
        return os.fstat(self._fd).st_mtime

    def append(self, shard: int, call: bytes) -> None:
        """Raises OSError if the file does not take it. The call is kept in memory then."""
        self.calls.append((shard, call))
        self.bytes += len(call)
        if self.path is not None:
            self._write(frame(shard.to_bytes(SHARD_BYTES) + call))

    def close(self) -> None:
        """Leaves the file to the next worker."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def done(self) -> None:
        """Its calls are safe, or lost."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
        self.close()

    def _write(self, data: bytes) -> None:
        if os.write(self._fd, data) != len(data):
            raise OSError("the disk is full")


class Unconfirmed:
    """What one worker was answered by one Redis. Create it in the running loop; it watches the counters at once."""

    def __init__(self, config: Config, layout: Layout, counters: Sequence[Counters], hot: Sequence[Connection]) -> None:
        """`counters`: those of the shards on that Redis, over the connections `hot`."""
        self._config = config
        self._section = section = config.redis
        self._hot = hot
        self._side = Connection(section, layout, counters[0].shard)
        """WAIT blocks a connection, so it has its own."""
        self._again = {each.shard: each.with_connection(self._side) for each in counters}
        self._directory = Path(config.spool.dir) if config.spool.dir else None
        self._suffix = f".{counters[0].shard}.{RING}"
        self._open: _Bundle | None = None
        """The one that takes calls."""
        self._bundles: deque[_Bundle] = deque()
        self.bytes = 0
        """Of what is kept."""
        self._wanted = max(1, section.replicas)
        """Replicas that must hold a call, by the last answer. Before it, nobody knows whether there are any."""
        self._trouble = ""
        self._may_not_ask = False
        self._look_at_s = 0.0
        self._waiting: list[asyncio.Future[None]] = []
        """Calls whose answer waits for the replicas."""
        self._called = asyncio.Event()
        self._confirming: asyncio.Task[None] | None = None
        for each in counters:
            each.unconfirmed = self

    @classmethod
    def of_all(
        cls, config: Config, layout: Layout, counters: Sequence[Counters], hot: Sequence[Connection]
    ) -> list[Self]:
        """One for each Redis. `counters` and `hot`: one a shard, in order."""
        return [
            cls(config, layout, [counters[shard] for shard in shards], [hot[shard] for shard in shards])
            for shards in layout.together
        ]

    def start(self) -> None:
        """Confirms from now on what is kept, and what killed workers left."""
        self._confirming = asyncio.create_task(self._confirm_all())

    async def settle(self) -> None:
        """Without `start`: sends what killed workers left, and returns once all that was answered is safe.

        Raises StoreError if that takes longer than it may."""
        longest_s = 2 * (self._section.unsynced_ms + self._section.timeout_ms) / 1000
        try:
            async with asyncio.timeout(longest_s):
                await self._adopt()
                while self._bundles or self._open:
                    await self._confirm()
                    await asyncio.sleep(CONFIRM_INTERVAL_S if self._bundles else 0)
        except TimeoutError:
            raise RedisStoreError(f"Redis did not confirm what it answered within {longest_s:g} s") from None

    def check_room(self) -> None:
        """Raises StoreError if no more can be kept. Call it before a call."""
        if self.bytes >= self._section.unconfirmed_bytes_max:
            raise RedisStoreError(
                f"Redis confirms nothing, and {self.bytes:,} bytes wait for it (redis.unconfirmed_bytes_max): its"
                " replicas are away, or it is slow"
            )

    async def keep(self, shard: int, call: bytes, memory: Memory) -> None:
        """Call it once Redis answered, and before anybody else is answered.

        Raises StoreError if the call has to be safe first, and is not in time."""
        if self._may_not_ask or not (self._section.unsynced_ms or self._wanted):
            return
        bundle = self._open
        if bundle is None or bundle.memory != memory:
            bundle = self._begin(memory)
        self.bytes += len(call)
        try:
            bundle.append(shard, call)
        except OSError as error:
            self._note(error)
        if self._section.durability == "replicated":
            held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(held)
            self._called.set()
            try:
                async with asyncio.timeout(self._section.timeout_ms / 1000):
                    await held
            except TimeoutError:
                raise RedisStoreError(
                    f"The replicas of Redis did not confirm a call within {self._section.timeout_ms} ms"
                ) from None

    async def close(self) -> None:
        """Call after the last call. What is not safe stays in its files: the next worker sends it again."""
        if self._confirming is not None:
            self._confirming.cancel()
            await asyncio.wait([self._confirming])
        self._end_bundle()
        for bundle in self._bundles:
            bundle.close()
        await self._side.close()

    def _begin(self, memory: Memory) -> _Bundle:
        self._end_bundle()
        self._open = bundle = _Bundle(memory)
        if self._directory is not None:
            name = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}{self._suffix}"
            try:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                bundle.open(self._directory / name, encode_head(origin_of(self._config, memory.epoch)))
            except OSError as error:
                self._note(error)
        return bundle

    def _end_bundle(self) -> None:
        if self._open is not None:
            self._open.ended_s = time.monotonic()
            self._bundles.append(self._open)
            self._open = None

    def _note(self, error: OSError) -> None:
        if str(error.strerror) != self._trouble:
            self._trouble = str(error.strerror)
            _log.error(
                "Calls that Redis could still forget are kept in memory only: %s. If this worker and Redis are killed"
                " at the same moment, they are lost.",
                error,
            )  # fmt: skip

    # Its loop ---------------------------------------------------------------------------------------------------

    @property
    def _interval_s(self) -> float:
        return max(CONFIRM_INTERVAL_S, 0 if self._wanted else self._section.unsynced_ms / 10_000)

    async def _confirm_all(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(jittered(self._interval_s)):
                    await self._called.wait()
            self._called.clear()
            metrics.UNCONFIRMED_BYTES.set(self.bytes)
            try:
                is_due = time.monotonic() > self._look_at_s
                if is_due:
                    await self._adopt()
                if is_due or self._open or self._bundles:
                    await self._confirm()
                if is_due:
                    self._look_at_s = time.monotonic() + LOOK_INTERVAL_S
            except LayoutError:
                pass  # the calls themselves say so
            except StoreError as error:
                _log.debug("Redis confirms nothing: %s", error)
            except Exception:  # noqa: BLE001  (nobody else does this, and nothing may end it)
                metrics.FAULTS.labels("call").inc()
                _log.exception("Confirming calls failed")

    async def _confirm(self) -> None:
        """One question, and what follows from its answer. Raises StoreError."""
        asked_s, section, asking = time.monotonic(), self._section, len(self._waiting)
        if self._open is not None and asked_s >= self._open.begun_s + self._interval_s:
            self._end_bundle()
        try:
            told = await self._side.confirm(section.timeout_ms // 2)
        except RefusedError as error:
            if error.code == "NOPERM" or not error.passing:
                self._give_up(error)
            raise
        self._wanted = told.wanted
        here = self._side.memory
        if not told.history or any(
            each.is_open and each.memory.history != told.history for each in (self._side, *self._hot)
        ):
            for connection in (self._side, *self._hot):  # they lead to two servers, or to one that was demoted
                await connection.close()
            raise RedisStoreError("its connections did not lead to one primary")
        if self._open is not None and self._open.memory.history != here.history:
            self._end_bundle()
        before = [bundle for bundle in self._bundles if bundle.memory.history != here.history]
        if before:
            self._drop([bundle for bundle in before if bundle.memory.epoch != here.epoch])
            await self._send_again([bundle for bundle in before if bundle.memory.epoch == here.epoch], here)
        elif told.held or not told.wanted:
            self._answer(asking)
            self._let_go(asked_s - section.unsynced_ms / 1000)

    def _give_up(self, error: RefusedError) -> None:
        """This user of Redis may not ask. To keep all calls for ever would help nobody."""
        self._may_not_ask = True
        _log.error("What Redis forgets in a crash is lost: %s. Run `tallyd doctor`.", error)
        self._end_bundle()
        self._answer(len(self._waiting))
        self._let_go(float("inf"))

    def _answer(self, asking: int) -> None:
        """The replicas hold the first of the calls that wait for that."""
        for held in self._waiting[:asking]:
            if not held.done():
                held.set_result(None)
        del self._waiting[:asking]

    def _drop(self, bundles: Sequence[_Bundle]) -> None:
        """Gives up bundles of another epoch, and says so: their calls may be counted already."""
        for bundle in bundles:
            _log.error(
                "Redis lost its memory. %d calls that it answered before are not sent again: their events may have been"
                " flushed, and it knows no ids any more.",
                len(bundle.calls),
            )  # fmt: skip
            self._done(bundle)

    async def _send_again(self, bundles: Sequence[_Bundle], here: Memory) -> None:
        """Another history answers. Sends it what was answered in others. Raises StoreError."""
        for bundle in bundles:
            for shard, call in bundle.calls:
                await self._again[shard].ingest_again(call)
            if self._side.memory is not here:  # it was opened again, maybe to yet another one
                raise RedisStoreError("it changed meanwhile")
            bundle.memory, bundle.ended_s = here, time.monotonic()
        calls = sum(len(bundle.calls) for bundle in bundles)
        metrics.CALLS_RESENT.inc(calls)
        if calls:
            _log.warning(
                "Another Redis answers, or it was restarted, or a worker was killed. The last %d calls, which Redis may"
                " have lost, were sent again.",
                calls,
            )  # fmt: skip

    def _let_go(self, before_s: float) -> None:
        """What was answered before this moment is safe."""
        for bundle in [each for each in self._bundles if each.ended_s <= before_s]:
            self._done(bundle)

    def _done(self, bundle: _Bundle) -> None:
        self._bundles.remove(bundle)
        self.bytes -= bundle.bytes
        bundle.done()

    # What others left -------------------------------------------------------------------------------------------

    async def _adopt(self) -> None:
        """Keeps what killed workers left, as calls that Redis may have lost. Raises StoreError."""
        if self._directory is None:
            return
        await self._side.connect()
        for path in await asyncio.to_thread(sorted, self._directory.glob(f"*{self._suffix}")):
            if self.bytes >= self._section.unconfirmed_bytes_max:
                return
            bundle = _Bundle(Memory("", self._side.epoch))
            try:
                data = bundle.take_over(path)
            except OSError:  # it is in use, or another worker was faster
                bundle.close()
            else:
                self._adopt_file(bundle, path, data)

    def _adopt_file(self, bundle: _Bundle, path: Path, data: bytes) -> None:
        head = decode_head(data)
        here = origin_of(self._config, self._side.epoch)
        origin = head[1] if head else None
        if origin is not None and not origin.is_for(here):
            bundle.close()
            return  # of another system
        calls = [] if head is None else list(payloads(data, head[0]))
        if calls and (origin is None or origin.epoch != here.epoch):
            _log.error("%s: its %d calls are dropped. Redis knows none of their ids any more.", path.name, len(calls))
            calls = []
        elif calls and time.time() - bundle.written_at > self._config.dedupe.window_s:
            _log.warning(
                "%s: its %d calls are too old to be sent again (dedupe.window_s). They are lost only if Redis crashed"
                " when they were answered.",
                path.name, len(calls),
            )  # fmt: skip
            calls = []
        for call in calls:
            if (shard := int.from_bytes(call[:SHARD_BYTES])) in self._again:
                bundle.calls.append((shard, call[SHARD_BYTES:]))
                bundle.bytes += len(call) - SHARD_BYTES
        if not bundle.calls:
            bundle.done()
            return
        self.bytes += bundle.bytes
        self._bundles.append(bundle)
