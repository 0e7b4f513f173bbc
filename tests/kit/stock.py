"""`python -m tests.kit.stock ingest --port PORT`: the ASGI application on Granian as it comes.

Our main process has no part in it. It is the way out if a release of Granian breaks what `daemon/ingest/process`
overrides. The tests of HTTP pass on it: `./justw stock`. The command is that of `daemon/ingest/DESIGN.md`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from daemon import config as configuration

STOCK = (sys.executable, "-P", "-m", "tests.kit.stock")
"""In the place of `TALLYD`, for `System.ingest`."""


def main() -> None:
    port, http = sys.argv[-1], configuration.load().http
    command = [
        *(str(Path(sys.executable).with_name("granian")), "daemon.ingest.asgi:create", "--factory"),
        *("--interface", "asgi", "--http", "1", "--no-ws", "--loop", "uvloop", "--host", "127.0.0.1", "--port", port),
        *("--workers", str(http.workers), "--http1-buffer-size", str(http.header_bytes_max), "--backpressure", "4096"),
        *("--workers-kill-timeout", str(http.drain_timeout_s)),
    ]
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
