"""`tallyd flush`: the daemon that writes what was counted, or one run of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from daemon import log
from daemon.cli.enabled import left_due
from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, print_json, run
from daemon.config import Config, require
from daemon.errors import StoreError

if TYPE_CHECKING:
    from daemon.flush.flusher import Flushed


def flush(
    config: ConfigOption = None,
    data: DataOption = None,
    once: Annotated[bool, typer.Option("--once", help="Drain everything, print what was done, and end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write what was counted to MongoDB and MySQL: in a loop until SIGTERM or Ctrl-C, or --once.

    Example: `tallyd flush --once --data .tallyd`
    """
    loaded = load(config, data)
    log.configure(loaded.log.level, loaded.log.format)
    require(loaded, "redis", "mongo")
    from daemon.doctor.startup import check_flush

    run(check_flush(loaded))
    if not once:
        from daemon.flush.service import serve

        run(serve(loaded, lambda: load(config, data)))
        return
    done = run(_flush_once(loaded))
    if as_json:
        print_json(dataclasses.asdict(done))
    else:
        print(
            f"{done.entities} entities in {done.claims} claims: {done.documents} documents written, {done.already}"
            f" skipped (held this claim already), {done.dead} to the dead letters.\n{_replica_words(loaded, done)}"
            f" {done.seconds:.2f} seconds."
        )
    if done.replica_error:
        raise StoreError(
            f"{done.replica_error}\nMongoDB is up to date; what MySQL lacks stays on the list for the next flush."
        )


def _replica_words(config: Config, done: Flushed) -> str:
    if not config.mysql.url:
        return "No replica (mysql.url is not set)."
    if not config.enabled:
        return left_due(done.due)
    return f"{done.rows} replica rows set, {done.missing} entities without a row, {done.refused} refused."


async def _flush_once(config: Config) -> Flushed:
    from daemon.flush.flusher import Flusher

    flusher = Flusher(config)
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("Flushing", total=None)
            return await flusher.once(
                lambda done: bar.update(
                    task, description=f"{done.entities:,} entities, {done.documents:,} documents, {done.rows:,} rows"
                )
            )
    finally:
        await flusher.close()
