"""The command line: one file a command, named after it; here they are put together. Errors become exit codes."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from daemon import __version__
from daemon.cli.command import command_tree
from daemon.cli.completion import NAME, answer_shells
from daemon.errors import TallydError
from daemon.log import is_configured, is_json, neutral_lines

_log = logging.getLogger(__name__)

RUN, LOOK, CHECK, MOVE, KEEP = "Run it", "Look at counts", "Check", "Move an application over", "Keep it in order"
ITSELF = "About the command"
"""The panels of `tallyd --help`."""


class Listed(NamedTuple):
    """A line of `tallyd --help`. `place`: the module below this one, and the function or group in it."""

    place: str
    panel: str
    short_help: str


COMMANDS = {
    "dev": Listed("dev:dev", RUN, "Run the whole system here until Ctrl-C."),
    "stack": Listed("stack:app", RUN, "Private servers: up, down, status."),
    "ingest": Listed("ingest:ingest", RUN, "Take events over HTTP and count them in Redis."),
    "flush": Listed("flush:flush", RUN, "Write what was counted to MongoDB and MySQL."),
    "init": Listed("init:init", RUN, "Write a first configuration; check the stores."),
    "install": Listed("install:install", RUN, "Put user, folders, units and timers on a server."),
    "uninstall": Listed("uninstall:uninstall", RUN, "Take them off again."),
    "config": Listed("config:show_config", RUN, "Print the effective configuration, secrets masked."),
    "key": Listed("key:app", RUN, "Keys of producers and readers: new, list, revoke."),
    "snippet": Listed("snippet:snippet", RUN, "Print the tag that puts the tracker into a page."),
    "status": Listed("status:status", LOOK, "What is dirty, in flight, due, and spooled."),
    "top": Listed("top:top", LOOK, "The most counted entities of a counter."),
    "series": Listed("series:series", LOOK, "One entity's counters, bucket by bucket."),
    "explain": Listed("explain:explain", LOOK, "All that the stores hold of one entity."),
    "export": Listed("export:export", LOOK, "A rollup as CSV, NDJSON or Parquet."),
    "audit": Listed("audit:audit", CHECK, "Is every accepted amount where it should be?"),
    "doctor": Listed("doctor:doctor", CHECK, "Check the stores and this machine; say how to fix it."),
    "capacity": Listed("capacity:capacity", CHECK, "What memory, disk and cores a load takes."),
    "parity-check": Listed("parity_check:parity_check", CHECK, "Does MySQL say what MongoDB says?"),
    "report": Listed("report:app", CHECK, "Parity and days as files: generate, gate, verify, schema."),
    "import": Listed("import_:import_files", MOVE, "Access logs and NDJSON events into the system."),
    "backfill": Listed("backfill:backfill", MOVE, "Take over what was counted before tallyd."),
    "shadow-compare": Listed("shadow_compare:shadow_compare", MOVE, "The application's own column against tallyd's."),
    "drill": Listed("drill:app", MOVE, "Rehearse going over and back: rollback."),
    "dead": Listed("dead:app", KEEP, "Amounts no document could take: list, show, retry, drop."),
    "replay": Listed("replay:replay", KEEP, "Send what waits in the spool to Redis."),
    "shards": Listed("shards:app", KEEP, "The claims of each shard in both stores: list, accept."),
    "spools": Listed("spools:app", KEEP, "What waits in the spools of all hosts: list, forget."),
    "expire": Listed("expire:expire", KEEP, "Give up old hours, days and weeks, but for their sums."),
    "completion": Listed("completion:completion", ITSELF, "A script with which the shell completes."),
    "version": Listed("version:version", ITSELF, "Of tallyd, Python and the system."),
}


def application(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The program with these commands of its own, each imported now: loading one takes a fifth of loading all."""
    app = typer.Typer(
        name=NAME,
        help="Counts things that happen to entities, at high volume, exactly once.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["--help", "-h"]},
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_root)
    for name in names:
        place, panel, short_help = COMMANDS[name]
        module, _, attribute = place.partition(":")
        command = getattr(importlib.import_module(f"daemon.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel, short_help=short_help)
        else:
            app.command(name, rich_help_panel=panel, short_help=short_help)(command)
    return app


def called(words: Sequence[str]) -> Iterable[str]:
    """The names of the commands that these words of a command line may need: one, or all if none stands first."""
    return words[:1] if words and words[0] in COMMANDS else COMMANDS


def _verbose(wanted: bool) -> None:
    if wanted:
        _log.setLevel(logging.DEBUG)


def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Annotated[  # noqa: ARG001 - its callback does it, of whatever command it is given to
        bool,
        typer.Option("--verbose", expose_value=False, callback=_verbose, help="Print the traceback of an error."),
    ] = False,
) -> None:
    if version:
        typer.echo(f"tallyd {__version__}")
        raise typer.Exit


def main() -> None:
    """Exit codes: 0 done, 1 the check or the work failed, 2 wrong usage or configuration, 128 + the signal."""
    answer_shells(os.environ)
    try:
        command_tree(application(called(sys.argv[1:])))(prog_name=NAME)
    except TallydError as error:
        _report(str(error), error, logs=is_json())  # a daemon's last words are for the collector, too
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 - the last one to catch it
        _report(_unforeseen(error), error, logs=is_configured())
        sys.exit(1)


def _report(text: str, error: Exception, *, logs: bool) -> None:
    """One message, and the traceback if --verbose is given. `logs`: it is an entry of the log."""
    verbose = _log.isEnabledFor(logging.DEBUG)
    if logs:
        _log.critical("%s", text, exc_info=error if verbose or not isinstance(error, TallydError) else None)
        return
    if verbose:
        print(neutral_lines("".join(traceback.format_exception(error))), file=sys.stderr)
    print(neutral_lines(f"tallyd: {text}"), file=sys.stderr)


def _unforeseen(error: Exception) -> str:
    """One line about an error that nobody planned, with the place in tallyd that it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
        frames += traceback.extract_tb(error.__traceback__)
    folder = Path(__file__).parents[1]
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)]
    where = f" ({Path(ours[-1].filename).relative_to(folder.parent)} line {ours[-1].lineno})" if ours else ""
    said = " ".join(str(error).split())
    return f"A fault of tallyd: {type(error).__name__}{f': {said}' if said else ''}{where}. --verbose shows all of it."
