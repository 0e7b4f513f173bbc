"""Serves the metrics of all workers to Prometheus, from a thread of the daemon's main process.

`server.py` starts it. It listens on loopback only, and on a port of its own: no stranger asks, and no question costs a
worker's event loop anything. The workers write their values to files (`daemon/metrics.py`); this reads them.
"""

from __future__ import annotations

import logging
import threading
import time

from prometheus_client import CollectorRegistry, multiprocess, start_http_server

ADDRESS = "127.0.0.1"
RETRY_S = 1.0

_log = logging.getLogger(__name__)


def expose(port: int) -> None:
    """Begins to serve `/metrics`, as soon as the port is free: during a restart the daemon before has it."""
    threading.Thread(target=_serve, args=(port,), name="metrics", daemon=True).start()


def _serve(port: int) -> None:
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    told = False
    while True:
        try:
            start_http_server(port, ADDRESS, registry)
        except OSError as error:
            if not told:
                _log.warning("Metrics wait for port %d of %s (http.metrics_port): %s.", port, ADDRESS, error.strerror)
                told = True
            time.sleep(RETRY_S)
        else:
            return
