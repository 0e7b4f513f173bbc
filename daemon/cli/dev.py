"""`tallyd dev` as a command. The work is in `daemon.devstack.dev`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.stack import DEFAULT_DATA_DIR, Data


def dev(
    data: Data = DEFAULT_DATA_DIR,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65_535, help="Port of ingest. Default: 8080, or a free one if that is taken."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Configuration file for ingest and flush; the stores and the address stay those of this command.",
        ),
    ] = None,
) -> None:
    """Run the whole system here until Ctrl-C: servers, a demo table of twelve movies, ingest and flush.

    Prints a curl line that counts a first event, then the lines of the daemons. On Ctrl-C or SIGTERM ingest stops
    first, then flush, then the servers. The counts stay in DIR. Servers that `tallyd stack up` started are used, and
    left running.

    Example: `tallyd dev --data ./.tallyd --port 8080`
    """
    from daemon.devstack import dev as development

    development.run(data, port, config)
