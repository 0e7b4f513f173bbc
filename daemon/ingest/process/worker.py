"""A worker's tie to the daemon's main process: it writes a pulse, and does what signals ask for.

`boot.py` starts it. SIGTERM: the worker answers each request with `connection: close`. The main process ends it with
SIGINT when no client is left to wait for (`server.py`); Granian's own handler of SIGINT closes the rest. SIGHUP: the
worker takes the configuration that the main process has published.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable

from daemon import log
from daemon.config import Config
from daemon.ingest.process.rundir import Pulse, RunDir

BEAT_S = 0.25
CLOSING_BEAT_S = 0.01
"""While it closes, the main process waits for a moment without requests."""
LOOK_S = 0.05
"""How often a worker looks how late its event loop turns: a stall of this length is always seen, in part."""
LOOKS = round(1 / LOOK_S)
"""So many looks make a second."""
CLOSING_GRACE_S = 5.0
"""Beyond `http.closing_ms`. A worker that has not been ended by then ends itself: the main process was not asked to."""

_log = logging.getLogger(__name__)


class Worker:
    """One a worker process."""

    def __init__(self, run_dir: RunDir, generation: int) -> None:
        """`generation`: of the configuration the worker starts with."""
        self._run_dir = run_dir
        self._generation = generation
        self._parent = os.getppid()
        self._busy_at = 0.0
        self._moved_at = 0.0
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._lags_s: deque[float] = deque([0.0], LOOKS)

    def start(
        self,
        was_busy: Callable[[], bool],
        stuck: Callable[[], str | None],
        ready: Callable[[], bool],
        close: Callable[[], float],
        reconfigure: Callable[[Config], None],
    ) -> None:
        """Call in the running loop, once requests can be answered.

        `was_busy`: whether there were requests since the last call. `stuck`: names a call that takes longer than its
        bound; until there is none, the pulse stays as old as it is. `ready`: whether it can count. `close`: asks
        clients to connect elsewhere, and returns how many seconds that may take. `reconfigure`: takes another
        configuration.
        """
        self._was_busy, self._stuck, self._ready = was_busy, stuck, ready
        self._begin_closing, self._reconfigure = close, reconfigure
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGTERM, self._close, CLOSING_GRACE_S)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._beat()
        self._look(time.monotonic())

    def _look(self, due: float) -> None:
        now = time.monotonic()
        self._lags_s.append(max(0.0, now - due))
        self._loop.call_later(LOOK_S, self._look, now + LOOK_S)

    def _beat(self) -> None:
        now = time.monotonic()
        if self._was_busy():
            self._busy_at = now
        if not self._stuck():
            self._moved_at = now
        with contextlib.suppress(OSError):  # an old pulse tells the main process enough
            self._run_dir.beat(
                Pulse(
                    self._moved_at, self._busy_at, self._generation, self._closing, self._ready(), now,
                    max(self._lags_s),
                )
            )  # fmt: skip
        if os.getppid() != self._parent and not self._closing:
            _log.error("The daemon's main process is gone; this worker ends.")
            self._close(0)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(CLOSING_BEAT_S if self._closing else BEAT_S, self._beat)

    def _close(self, grace_s: float) -> None:
        if self._closing:
            return
        self._closing = True
        self._loop.call_later(self._begin_closing() + grace_s, os.kill, os.getpid(), signal.SIGINT)
        self._beat()

    def _reload(self) -> None:
        snapshot = self._run_dir.snapshot()
        if snapshot.generation == self._generation:
            return
        try:
            self._reconfigure(snapshot.config)
            logged = snapshot.config.log
            log.configure(logged.level, logged.format, counts=logged.counts)
        except Exception:  # noqa: BLE001 # whatever is wrong with the new one, the old one works
            _log.exception("The new configuration could not be taken; this worker keeps the old one")
        self._generation = snapshot.generation
        self._beat()
