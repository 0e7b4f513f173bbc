"""A worker's tie to the daemon's main process: it shows that it lives, and does what signals ask of it.

SIGTERM: answer what comes, each time with `connection: close`; the main process ends the worker with SIGINT when nobody
is left to wait for (`server.py`), and Granian's own handler of that one closes the rest. SIGHUP: take the configuration
the main process has published.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from typing import TYPE_CHECKING

from daemon import log
from daemon.ingest.process.rundir import Pulse, RunDir

if TYPE_CHECKING:
    from daemon.ingest.app import App

BEAT_S = 0.25
CLOSING_BEAT_S = 0.01
"""While it closes, the main process waits for a moment without requests."""
CLOSING_GRACE_S = 5.0
"""Beyond `http.closing_ms`: a worker that is not ended by then ends itself. The main process was not asked to stop."""

_log = logging.getLogger(__name__)


class Worker:
    """One a worker process."""

    def __init__(self, run_dir: RunDir, generation: int) -> None:
        """`generation`: of the configuration the worker starts with."""
        self._run_dir = run_dir
        self._generation = generation
        self._parent = os.getppid()
        self._busy_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, app: App) -> None:
        """Call in the running loop, once the app can answer."""
        self._app = app
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGTERM, self._close, CLOSING_GRACE_S)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._beat()

    def _beat(self) -> None:
        app, now = self._app, time.monotonic()
        if app.take_farewells():
            self._busy_at = now
        with contextlib.suppress(OSError):  # an old pulse tells the main process enough
            self._run_dir.beat(Pulse(now, self._busy_at, self._generation, app.closing))
        if os.getppid() != self._parent and not app.closing:
            _log.error("The daemon's main process is gone; this worker ends.")
            self._close(0)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(CLOSING_BEAT_S if app.closing else BEAT_S, self._beat)

    def _close(self, grace_s: float) -> None:
        if self._app.closing:
            return
        self._app.close_gently()
        self._loop.call_later(self._app.closing_s + grace_s, os.kill, os.getpid(), signal.SIGINT)
        self._beat()

    def _reload(self) -> None:
        snapshot = self._run_dir.snapshot()
        if snapshot.generation == self._generation:
            return
        try:
            self._app.reconfigure(snapshot.config)
            log.configure(snapshot.config.log.level, snapshot.config.log.format)
        except Exception:  # noqa: BLE001 # whatever is wrong with the new one, the old one works
            _log.exception("The new configuration could not be taken; this worker keeps the old one")
        self._generation = snapshot.generation
        self._beat()
