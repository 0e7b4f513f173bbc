"""`tallyd ingest`: the daemon that takes events."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from daemon import config as configuration
from daemon import log, traces
from daemon.cli.options import ConfigOption, DataOption, load, run
from daemon.config import Config


def ingest(
    config: ConfigOption = None,
    data: DataOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: http.host.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Port. Default: http.port.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes. Default: http.workers.")] = None,
) -> None:
    """Take events over HTTP and count them in Redis, until SIGTERM or Ctrl-C.

    Example: `tallyd ingest --data .tallyd --port 8080 --workers 2`
    """
    for key, value in (("HOST", host), ("PORT", port), ("WORKERS", workers)):
        if value is not None:
            os.environ[f"{configuration.ENV_PREFIX}HTTP__{key}"] = str(value)

    def read() -> Config:
        return load(config, data, "redis")

    loaded = read()
    log.configure(loaded.log.level, loaded.log.format, counts=loaded.log.counts)
    traces.check(loaded.traces)
    from daemon.doctor.startup import check_ingest
    from daemon.ingest.process.server import serve

    run(check_ingest(loaded))

    serve(loaded, read)
