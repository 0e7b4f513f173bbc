"""The writing end of the spool: one ingest worker appends events while Redis does not take them.

Group commit: events that arrive during an fsync share the next one. Only a thread touches the disk, so the event loop
never waits for it. Each append tells whether its events are durable. Only the running appends are kept in memory, and
the batcher's queue bounds those.

Whatever happens, each append ends. If a write takes longer than `spool.timeout_ms`, or raises something unplanned, its
events are refused. While the write goes on, every further append is refused at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from daemon import metrics
from daemon.config import SpoolSection
from daemon.domain.event import Event
from daemon.spool.origin import Origin
from daemon.spool.record import encode
from daemon.spool.segment import Writer, list_contents

USAGE_INTERVAL_S = 1.0
"""How often the directory is measured. In between, a worker adds only what it writes itself."""
REFUSAL_LOG_INTERVAL_S = 1.0

_log = logging.getLogger(__name__)


class Spool:
    """One worker's spool. Create it in the running loop."""

    def __init__(self, section: SpoolSection, origin: Callable[[], Origin]) -> None:
        """`origin`: the Redis that the next segment is for."""
        self._section = section
        self._origin = origin
        self.directory = Path(section.dir)
        self._writer: Writer | None = None
        self._waiting: list[tuple[bytes, asyncio.Future[bool]]] = []
        self._commit: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[str | None] | None = None
        self._disk = asyncio.Lock()
        self.stuck = False
        """Whether a write takes longer than `spool.timeout_ms`."""
        self._used_bytes = 0
        self._waiting_bytes = 0
        """Of the running appends. While one is written, its bytes may be counted here and in `_used_bytes`."""
        self._measured_at = -USAGE_INTERVAL_S
        self._refusal_logged_at = -REFUSAL_LOG_INTERVAL_S

    def append(self, events: Sequence[Event], bytes_max: int | None = None) -> asyncio.Future[bool]:
        """True when the events are on the disk. False if they are not, or nobody can say: they are refused.

        `bytes_max`: what the folder may hold with them, if it is less than `spool.bytes_max`.
        """
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self.stuck:
            self._settle([future], self._too_slow)
            return future
        data = encode(events)
        if bytes_max is not None and self._used_bytes + self._waiting_bytes + len(data) > bytes_max:
            why = f"it holds {self._used_bytes} bytes; events without a key may fill {bytes_max}"
            self._settle([future], why)
            return future
        self._waiting_bytes += len(data)
        self._waiting.append((data, future))
        if self._commit is None or self._commit.done():
            self._commit = asyncio.create_task(self._commit_all())
        return future

    async def seal(self) -> None:
        """Ends the current segment, if any, so that it can be replayed."""
        async with self._disk:
            await asyncio.to_thread(self._end_segment)

    async def close(self) -> None:
        """Waits for the running appends, and seals."""
        while self._commit is not None and not self._commit.done():
            await asyncio.wait([self._commit])
        await self.seal()

    async def _commit_all(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            writing = self._writing = asyncio.create_task(self._commit_some(b"".join(data for data, _ in waiting)))
            await asyncio.wait({writing}, timeout=self._section.timeout_ms / 1000)
            if writing.done():
                self._waiting_bytes -= sum(len(data) for data, _ in waiting)
                self._settle([future for _, future in waiting], writing.result())
                continue
            self.stuck = True
            waiting, self._waiting, self._waiting_bytes = waiting + self._waiting, [], 0
            self._settle([future for _, future in waiting], self._too_slow)
            await asyncio.wait({writing})
            self.stuck = False
            _log.warning("The disk of the spool in %s answers again.", self.directory)

    async def _commit_some(self, data: bytes) -> str | None:
        """None if the data is durable, else the reason why not. Raises nothing, or requests would wait for ever."""
        try:
            async with self._disk:
                return await asyncio.to_thread(self._write, data)
        except Exception as error:  # noqa: BLE001  (see above)
            metrics.FAULTS.labels("spool").inc()
            _log.exception("Writing to the spool in %s failed", self.directory)
            return repr(error)

    def _settle(self, futures: Sequence[asyncio.Future[bool]], refused: str | None) -> None:
        if refused is not None:
            metrics.SPOOL_REFUSED.inc(len(futures))
            self._log_refusal(refused)
        for future in futures:
            if not future.done():
                future.set_result(refused is None)

    @property
    def _too_slow(self) -> str:
        return f"a write takes longer than spool.timeout_ms, {self._section.timeout_ms} ms"

    def _write(self, data: bytes) -> str | None:
        """None if the data is durable, else the reason why not. Runs in a thread, one at a time."""
        now_s = time.monotonic()
        try:
            if now_s - self._measured_at >= USAGE_INTERVAL_S:
                self._used_bytes, self._measured_at = list_contents(self.directory).bytes, now_s
            if self._used_bytes + len(data) > self._section.bytes_max:
                return f"it holds {self._used_bytes} bytes, spool.bytes_max is {self._section.bytes_max}"
            if self._writer is None:
                self.directory.mkdir(parents=True, exist_ok=True)
                self._writer = Writer(self.directory, self._origin())
            self._writer.append(data)
            self._used_bytes += len(data)
            metrics.SPOOL_BYTES_WRITTEN.inc(len(data))
            if self._writer.size >= self._section.segment_bytes:
                self._end_segment()
        except Exception as error:
            # After a failed fsync the content of the file is unknown: start another. Its records have checksums.
            try:
                self._end_segment()
            except OSError:
                _log.exception("A segment of the spool could not be sealed")
            if not isinstance(error, OSError):
                raise
            return str(error)
        return None

    def _end_segment(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.seal()

    def _log_refusal(self, why: str) -> None:
        now_s = time.monotonic()
        if now_s - self._refusal_logged_at >= REFUSAL_LOG_INTERVAL_S:
            self._refusal_logged_at = now_s
            _log.error("The spool in %s takes no more events: %s. They are answered 503.", self.directory, why)
