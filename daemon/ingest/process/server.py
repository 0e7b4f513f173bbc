"""The daemon's main process: Granian's, with one socket for all workers, a supervisor, and an end no client notices.

`tallyd ingest` calls `serve`. How the daemon ends, and what each step is for:

    1  workers answer with `connection: close`   each client sends its next request over a new connection, elsewhere.
                                                 A connection that is simply closed would be a failed request
    2  `handover.leave`, and a silence           no client is half connected, waits in the queue, or has connected and
                                                 sent nothing yet: Granian closes such a connection unread
    3  SIGINT to the workers                     Granian accepts no more, answers the requests that have begun, and
                                                 closes the rest. Then `Boot.stop` drains the batchers and seals the
                                                 spool
    4  after `http.drain_timeout_s` SIGKILL      a client that never finishes its request does not hold up the end

One client can still fail: it was idle through step 1 and sends in the moment of step 3. It gets a reset for a request
that was never read, and sends the event again, under the same id.
"""

from __future__ import annotations

import logging
import multiprocessing.connection
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.mp import MPServer, WorkerProcess

from daemon import log, notify
from daemon.config import Config
from daemon.ingest.process import descriptors, handover, rundir
from daemon.ingest.process.listener import BACKLOG_CONNECTIONS, Listener
from daemon.ingest.process.rundir import ConfigSnapshot, RunDir
from daemon.ingest.process.supervisor import Supervisor
from daemon.ingest.process.wake import Wake
from daemon.scheduling import shorten_slice

BACKPRESSURE_CONNECTIONS = 65_536
"""Of one worker. Granian counts connections, idle ones too; the cap on requests is `http.requests_in_flight_max`."""
QUIET_S = 0.05
"""After this long without a request, step 1 ends early."""
SILENCE_S, SILENCE_S_MAX = 0.25, 0.5
"""The same for step 2, and its longest: how long a client that has connected may take to begin its request."""
POLL_S = 0.01
ACCEPT_END_S = 0.2
"""How long a worker takes from SIGINT until it accepts no more."""

LOG = {
    "formatters": {}, "handlers": {}, "loggers": {"_granian": {"handlers": [], "propagate": True}}
}  # fmt: skip
"""Granian's lines go where ours go (`log.configure`). It says this again in each worker."""

_log = logging.getLogger(__name__)


def serve(config: Config, load: Callable[[], Config]) -> None:
    """Serves until SIGTERM or SIGINT. `load` reads the configuration anew on SIGHUP.

    Raises ConfigError if it can't listen. Ends the process with code 1 if a worker ended by itself.
    """
    # It looks for its folder when it is imported, once, and the workers begin as copies of this process.
    assert "prometheus_client" not in sys.modules, "only workers may import daemon.metrics"
    if config.ingest.slice_us:
        shorten_slice(config.ingest.slice_us)  # the workers inherit it
    listener = Listener(config.http)
    handover.reopen(listener)  # a daemon that was killed may have left it closed
    # Under systemd a folder in memory, which no clean-up job touches while it is in use.
    runtime = os.environ.get("RUNTIME_DIRECTORY")
    path = Path(tempfile.mkdtemp(prefix="tallyd-ingest-", dir=runtime.split(":")[0] if runtime else None))
    try:
        (path / "metrics").mkdir()
        # The workers find these in their environment; the first is prometheus_client's.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(path / "metrics")
        os.environ[rundir.ENV] = str(path)
        log.run_id()  # and this one
        IngestServer(config, load, listener, RunDir(path)).serve()
    finally:
        shutil.rmtree(path, ignore_errors=True)
        listener.unlink()


class IngestServer(MPServer):
    """Granian's main process, with our own handling of the socket, of SIGHUP, and of the end."""

    def __init__(self, config: Config, load: Callable[[], Config], listener: Listener, run_dir: RunDir) -> None:
        super().__init__(
            f"daemon.ingest.{config.http.interface}:create",
            factory=True,
            interface=Interfaces(config.http.interface),
            runtime_mode=RuntimeModes.mt,  # with RSGI, Granian's own choice would be the slower one
            address=listener.host,
            port=listener.port,
            workers=config.http.workers,
            loop=Loops.uvloop,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(max_buffer_size=config.http.header_bytes_max),
            websockets=False,
            backlog=BACKLOG_CONNECTIONS,
            backpressure=min(BACKPRESSURE_CONNECTIONS, max(1, descriptors.allow_all() - descriptors.RESERVED)),
            log_access=False,
            log_level=LogLevels.notset,  # `log.level` decides
            log_dictconfig=LOG,
        )
        self.main_loop_interrupt = Wake()  # type: ignore[assignment]  # Granian's is a threading.Event
        run_dir.publish(ConfigSnapshot(0, config))
        self._run_dir = run_dir
        self._listener = listener
        self._supervisor = Supervisor(config, load, listener, run_dir, lambda: self.wrks)

    def _init_shared_socket(self) -> None:
        # As Granian does it for unix sockets: the workers inherit the descriptor; the first to be ready listens on it.
        listener = self._listener
        self._ssp = None
        self._shd = SocketHolder(listener.socket.fileno(), listener.is_unix, BACKLOG_CONNECTIONS)  # type: ignore[call-arg,assignment]
        self._sso = listener.socket

    def _spawn_worker(self, idx: int, target: Any, callback_loader: Any) -> WorkerProcess:  # type: ignore[override]
        os.environ[log.WORKER_ENV] = str(idx + 1)  # it is started next, as a copy of this process
        return super()._spawn_worker(idx, target, callback_loader)

    def startup(self, spawn_target: Any, target_loader: Any) -> None:
        super().startup(spawn_target, target_loader)  # type: ignore[no-untyped-call]
        os.environ.pop(log.WORKER_ENV)
        self._supervisor.start()
        if self._supervisor.config.http.metrics_port:
            self._expose(self._supervisor.config.http.metrics_port)

    def _expose(self, port: int) -> None:
        from daemon.exposition import expose  # noqa: PLC0415  (see `serve`)
        from daemon.ingest.process import gauges  # noqa: PLC0415

        supervisor = self._supervisor
        collectors = (gauges.WorkerMetrics(), gauges.ProcessGauges(supervisor))
        expose(
            port,
            "http.metrics_port",
            collectors,
            partial(gauges.hanging, supervisor),
            partial(gauges.ready, supervisor),
        )

    def signal_handler_reload(self, *_: Any) -> None:
        # Granian's would exchange the workers, and end the daemon if the new ones don't start.
        self._supervisor.reload()

    def _drop_shared_socket(self) -> None:
        """Granian's first step of stopping; ours are 1 to 3."""
        notify.notify("STOPPING=1", "STATUS=Answering what has been accepted")
        self._supervisor.stop()
        workers = [worker for worker in self.wrks if worker.inner.is_alive()]
        self._signal(workers, signal.SIGTERM)
        quiet = self._wait_until_quiet(workers, QUIET_S, self._supervisor.config.http.closing_ms / 1000)
        if not quiet or handover.has_successor(self._listener):
            handover.leave(self._listener, [worker.inner.pid for worker in workers])
            self._wait_until_quiet(workers, SILENCE_S, SILENCE_S_MAX)
        self._signal(workers, signal.SIGINT)
        if not self._listener.inherited:
            super()._drop_shared_socket()  # type: ignore[no-untyped-call]

    def _stop_workers(self) -> None:
        """Step 4. Granian's own takes a worker that has ended, and was reaped by its watcher, for a running one."""
        until = time.monotonic() + self._supervisor.config.http.drain_timeout_s
        running = {worker.inner.sentinel: worker for worker in self.wrks}
        for worker in self.wrks:
            if self._run_dir.pulse(worker.inner.pid) is None:
                worker.inner.kill()  # it was still starting, and may not have heard the signals
        wait_s = ACCEPT_END_S
        while running and wait_s > 0:
            for sentinel in multiprocessing.connection.wait(list(running), wait_s):
                del running[sentinel]
            for worker in running.values():  # accepts no more, and needs descriptors to end (`handover.leave`)
                descriptors.allow_all(worker.inner.pid)
            wait_s = until - time.monotonic()
        for worker in running.values():
            _log.warning("Worker process %d did not end in time and is killed.", worker.inner.pid)
            worker.inner.kill()
        for worker in self.wrks:
            worker.inner.join()
        self.wrks.clear()
        if self._listener.inherited:
            handover.reopen(self._listener)  # clients that connect now wait in the queue for the next daemon

    def _signal(self, workers: Sequence[WorkerProcess], number: signal.Signals) -> None:
        for worker in workers:
            worker.interrupt_by_parent = True  # its end is no accident
            if worker.inner.is_alive():
                os.kill(worker.inner.pid, number)

    def _wait_until_quiet(self, workers: Sequence[WorkerProcess], quiet_s: float, quiet_s_max: float) -> bool:
        """Waits until no request came for `quiet_s`, at most `quiet_s_max`. Returns whether it became quiet."""
        now = time.monotonic()
        until = now + quiet_s_max
        quiet_since = now
        while any(worker.inner.is_alive() for worker in workers) and quiet_since + quiet_s > now:
            if now >= until:
                return False
            time.sleep(POLL_S)
            now = time.monotonic()
            pulses = [self._run_dir.pulse(worker.inner.pid) for worker in workers]
            # One without a pulse is still starting and has accepted nothing; one that hasn't beaten has not looked.
            quiet = all(
                pulse.closing and pulse.busy_at < quiet_since and pulse.beaten_at > now - quiet_s
                for pulse in pulses
                if pulse
            )
            if not quiet or handover.waiting(self._listener):
                quiet_since = now
        return True
