"""`tallyd flush`: the daemon that writes what was counted, or one run of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from daemon import log, traces
from daemon.cli.enabled import left_due
from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, run
from daemon.config import Config
from daemon.errors import CheckFailed, MysqlStoreError

if TYPE_CHECKING:
    from daemon.flush.flusher import Flushed


def flush(
    config: ConfigOption = None,
    data: DataOption = None,
    once: Annotated[bool, typer.Option("--once", help="Drain everything, print what was done, and end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write what was counted to MongoDB and MySQL: in a loop until SIGTERM or Ctrl-C, or --once.

    With --once it exits 1 if MySQL was not updated, or if something went to the dead letters.

    Example: `tallyd flush --once --data .tallyd`
    """
    loaded = load(config, data, "redis", "mongo")
    log.configure(loaded.log.level, loaded.log.format, counts=loaded.log.counts)
    traces.check(loaded.traces)
    from daemon.doctor.startup import check_flush

    run(check_flush(loaded))
    if not once:
        from daemon.flush.service import serve

        with traces.exported(loaded.traces, "flush"):
            run(serve(loaded, lambda: load(config, data)))
        return
    with traces.exported(loaded.traces, "flush"):
        done = run(_flush_once(loaded))
    if as_json:
        from daemon.cli.output import print_json

        print_json(done)
    else:
        print(
            f"{done.entities} entities in {done.claims} claims: {done.documents} documents written, {done.already}"
            f" skipped (held this claim already), {done.dead} to the dead letters.\n{_replica_words(loaded, done)}"
            f" {done.seconds:.2f} seconds."
        )
    if done.replica_error:
        raise MysqlStoreError(f"{done.replica_error}\nMongoDB is up to date. The rows of MySQL stay due.")
    if done.dead:
        raise CheckFailed(f"{done.dead} documents or values went to the dead letters. `tallyd dead list` says why.")


def _replica_words(config: Config, done: Flushed) -> str:
    if not config.mysql.url:
        return "No replica (mysql.url is not set)."
    if not config.enabled:
        return left_due(done.due)
    return f"{done.rows} replica rows set, {done.missing} entities without a row, {done.refused} refused."


async def _flush_once(config: Config) -> Flushed:
    from daemon.cli.output import progress
    from daemon.flush.flusher import Flusher

    with progress("Flushing") as move:
        async with Flusher(config) as flusher:
            return await flusher.once(
                lambda done: move(
                    description=f"{done.entities:,} entities, {done.documents:,} documents, {done.rows:,} rows"
                )
            )


async def flush_first(config: Config) -> None:
    """Writes all that was counted so far to MongoDB and MySQL, for commands with `--wait`.

    If tallyd is switched off, it writes to MongoDB only, and says so. Raises StoreError if a store refuses.
    """
    done = await _flush_once(config)
    if done.replica_error:
        raise MysqlStoreError(done.replica_error)
    if not config.enabled:
        print(left_due(done.due), file=sys.stderr)
