"""Watches the workers from a thread of the daemon's main process, and gives them a new configuration on a reload.

`server.py` starts and stops it. It tells systemd whether the workers are up and their event loops turn. It never ends
or restarts a worker: systemd decides what to do about one that hangs.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from daemon import log, notify
from daemon.config import Config, read_at_start
from daemon.errors import unforeseen
from daemon.ingest.process.listener import Listener
from daemon.ingest.process.rundir import ConfigSnapshot, Pulse, RunDir
from daemon.ingest.process.wake import Wake
from daemon.ingest.process.worker import BEAT_S
from daemon.lifecycle import changed

if TYPE_CHECKING:
    from granian.server.mp import WorkerProcess

POLL_S = 0.02
PROBE_TIMEOUT_S = 2.0
PROBE_TRIES = 5
"""Beside another daemon on the port, which may be the one that answers."""
PULSE_AGE_MAX_S = 8 * BEAT_S
"""A worker's event loop that hasn't turned for this long hangs; more where systemd allows more."""
RELOAD_TIMEOUT_S = 10.0

_log = logging.getLogger(__name__)


class Supervisor:
    """Owns the configuration in force. `start` and `stop` are called once each; `reload` from a signal handler."""

    def __init__(
        self,
        config: Config,
        load: Callable[[], Config],
        listener: Listener,
        run_dir: RunDir,
        workers: Callable[[], Sequence[WorkerProcess]],
    ) -> None:
        """`load` reads the configuration anew, and raises TallydError."""
        self._started_with = self.config = config
        self._load = load
        self._listener = listener
        self._run_dir = run_dir
        self._workers = workers
        self._run_id = log.run_id()
        self.generation = 0
        """How often the configuration was reloaded."""
        self.reload_ok = True
        """Whether the last reload was. Before the first one it was."""
        self._woken = Wake()
        self._reload_wanted = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._woken.set()

    def reload(self) -> None:
        self._reload_wanted = True
        self._woken.set()

    def _run(self) -> None:
        notify.notify("STATUS=Starting the workers")
        while not self._all_up():
            if self._stopping:
                return
            time.sleep(POLL_S)
        self._listener.publish()
        _log.info("Ready: %s.", self._status())
        notify.ready(self._status())
        interval_s = notify.watchdog_interval_s()
        while True:
            self._woken.wait(interval_s)
            self._woken.clear()
            if self._stopping:
                return
            if self._reload_wanted:
                self._reload_wanted = False
                self._reload()
            if interval_s is not None and self._alive(max(interval_s, PULSE_AGE_MAX_S)):
                notify.notify("WATCHDOG=1")

    def _status(self) -> str:
        count = len(self._workers())
        return f"{count} worker{'s' if count > 1 else ''} at {self._listener}"

    # Are they up, do they get on? -------------------------------------------------------------------------------------

    def _all_up(self) -> bool:
        """Whether every worker has started, and one has really answered."""
        started = all(self._run_dir.pulse(worker.inner.pid) for worker in self._workers())
        return started and self._probe() == self._run_id

    def pulses(self) -> dict[int, Pulse | None]:
        """The last pulse of each worker by its process; None before its first."""
        return {worker.inner.pid: self._run_dir.pulse(worker.inner.pid) for worker in list(self._workers())}

    def hanging(self, pulse_age_max_s: float = PULSE_AGE_MAX_S) -> int | None:
        """The process of a worker whose event loop, or a call, hangs. None: there is none."""
        oldest = time.monotonic() - pulse_age_max_s
        found = (pid for pid, pulse in self.pulses().items() if pulse is None or pulse.beaten_at < oldest)
        return next(found, None)

    def _alive(self, pulse_age_max_s: float) -> bool:
        """Whether every worker's event loop turns and the port answers."""
        if pid := self.hanging(pulse_age_max_s):
            _log.error("Worker process %d hangs: its event loop, or a call.", pid)
            return False
        for _ in range(PROBE_TRIES):
            answered = self._probe()
            if answered in (self._run_id, ""):
                return True
            if answered is None:
                _log.error("%s does not answer within %g s.", self._listener, PROBE_TIMEOUT_S)
                return False
        return True  # another daemon on the port was faster each time; ours turn

    def _probe(self) -> str | None:
        """The run id of the daemon that answers on our port; "" if the answer has none, None if there is no answer."""
        connection = http.client.HTTPConnection("localhost", timeout=PROBE_TIMEOUT_S)
        try:
            connection.sock = self._listener.connect(PROBE_TIMEOUT_S)
            connection.request("GET", "/healthz", headers={"connection": "close"})
            return str(json.loads(connection.getresponse().read())["run_id"])
        except (OSError, http.client.HTTPException):
            return None
        except (ValueError, KeyError, TypeError):
            return ""  # overloaded: 503
        finally:
            connection.close()

    # The configuration ------------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Checks the configuration and has the workers take it; one that is wrong changes nothing."""
        notify.reloading()
        try:
            config = self._load()
        except Exception as error:  # noqa: BLE001 # whatever is wrong with the new one, the old one works
            self.reload_ok = False
            _log.error("Not reloaded, the configuration stays as it was. %s", error, exc_info=unforeseen(error))
            notify.ready(f"{self._status()}; the new configuration is wrong, the old one stays")
            return
        keys = [key for key in changed(self.config, config) if not read_at_start("ingest", key)]
        late = [key for key in changed(self._started_with, config) if read_at_start("ingest", key)]
        self.config, self.reload_ok = config, True
        self.generation += 1
        self._run_dir.publish(ConfigSnapshot(self.generation, config))
        for worker in self._workers():
            with contextlib.suppress(ProcessLookupError):  # it has just ended, and the daemon is about to
                os.kill(worker.inner.pid, signal.SIGHUP)
        log.configure(config.log.level, config.log.format, counts=config.log.counts)
        self._wait_until_taken()
        _log.info("Reloaded; changed: %s.", ", ".join(keys) or "nothing")
        if late:
            _log.warning("Changed since the start, and in force only after the next start: %s.", ", ".join(late))
        notify.ready(self._status())

    def _wait_until_taken(self) -> None:
        until = time.monotonic() + RELOAD_TIMEOUT_S
        for worker in self._workers():
            while not self._stopping:
                pulse = self._run_dir.pulse(worker.inner.pid)
                if pulse is not None and pulse.generation == self.generation:
                    break
                if time.monotonic() > until:
                    _log.error("Worker process %d has not taken the new configuration yet.", worker.inner.pid)
                    break
                time.sleep(POLL_S)
