"""The command line: one file a command, named after it; here they are put together. Errors become exit codes."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from daemon import __version__
from daemon.cli.audit import audit
from daemon.cli.backfill import backfill
from daemon.cli.capacity import capacity
from daemon.cli.command import command_tree
from daemon.cli.completion import NAME, answer_shells, completion
from daemon.cli.config import show_config
from daemon.cli.dead import app as dead
from daemon.cli.dev import dev
from daemon.cli.doctor import doctor
from daemon.cli.drill import app as drill
from daemon.cli.expire import expire
from daemon.cli.explain import explain
from daemon.cli.export import export
from daemon.cli.flush import flush
from daemon.cli.import_ import import_files
from daemon.cli.ingest import ingest
from daemon.cli.init import init
from daemon.cli.install import install
from daemon.cli.key import app as key
from daemon.cli.parity_check import parity_check
from daemon.cli.replay import replay
from daemon.cli.report import app as report
from daemon.cli.series import series
from daemon.cli.shadow_compare import shadow_compare
from daemon.cli.snippet import snippet
from daemon.cli.stack import app as stack
from daemon.cli.status import status
from daemon.cli.top import top
from daemon.cli.uninstall import uninstall
from daemon.cli.version import version
from daemon.errors import TallydError
from daemon.log import is_configured, is_json, neutral_lines

_log = logging.getLogger(__name__)

app = typer.Typer(
    name=NAME,
    help="Counts things that happen to entities, at high volume, exactly once.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
RUN, LOOK, CHECK, MOVE, KEEP = "Run it", "Look at counts", "Check", "Move an application over", "Keep it in order"
ITSELF = "About the command"
"""The panels of `tallyd --help`."""

app.command("dev", rich_help_panel=RUN, short_help="Run the whole system here until Ctrl-C.")(dev)
app.add_typer(stack, name="stack", rich_help_panel=RUN, short_help="Private servers: up, down, status.")
app.command("ingest", rich_help_panel=RUN, short_help="Take events over HTTP and count them in Redis.")(ingest)
app.command("flush", rich_help_panel=RUN, short_help="Write what was counted to MongoDB and MySQL.")(flush)
app.command("init", rich_help_panel=RUN, short_help="Write a first configuration; check the stores.")(init)
app.command("install", rich_help_panel=RUN, short_help="Put user, folders, units and timers on a server.")(install)
app.command("uninstall", rich_help_panel=RUN, short_help="Take them off again.")(uninstall)
app.command("config", rich_help_panel=RUN, short_help="Print the effective configuration, secrets masked.")(show_config)
app.add_typer(key, name="key", rich_help_panel=RUN, short_help="Keys of producers and readers: new, list, revoke.")
app.command("snippet", rich_help_panel=RUN, short_help="Print the tag that puts the tracker into a page.")(snippet)
app.command("status", rich_help_panel=LOOK, short_help="What is dirty, in flight, due, and spooled.")(status)
app.command("top", rich_help_panel=LOOK, short_help="The most counted entities of a counter.")(top)
app.command("series", rich_help_panel=LOOK, short_help="One entity's counters, bucket by bucket.")(series)
app.command("explain", rich_help_panel=LOOK, short_help="All that the stores hold of one entity.")(explain)
app.command("export", rich_help_panel=LOOK, short_help="A rollup as CSV, NDJSON or Parquet.")(export)
app.command("audit", rich_help_panel=CHECK, short_help="Is every accepted amount where it should be?")(audit)
app.command("doctor", rich_help_panel=CHECK, short_help="Check the stores and this machine; say how to fix it.")(doctor)
app.command("capacity", rich_help_panel=CHECK, short_help="What memory, disk and cores a load takes.")(capacity)
app.command("parity-check", rich_help_panel=CHECK, short_help="Does MySQL say what MongoDB says?")(parity_check)
app.add_typer(
    report, name="report", rich_help_panel=CHECK, short_help="Parity and days as files: generate, gate, verify, schema."
)
app.command("import", rich_help_panel=MOVE, short_help="Access logs and NDJSON events into the system.")(import_files)
app.command("backfill", rich_help_panel=MOVE, short_help="Take over what was counted before tallyd.")(backfill)
app.command("shadow-compare", rich_help_panel=MOVE, short_help="The application's own column against tallyd's.")(
    shadow_compare
)
app.add_typer(drill, name="drill", rich_help_panel=MOVE, short_help="Rehearse going over and back: rollback.")
app.add_typer(
    dead, name="dead", rich_help_panel=KEEP, short_help="Amounts no document could take: list, show, retry, drop."
)
app.command("replay", rich_help_panel=KEEP, short_help="Send what waits in the spool to Redis.")(replay)
app.command("expire", rich_help_panel=KEEP, short_help="Give up old days and weeks, but for their sums.")(expire)


app.command("completion", rich_help_panel=ITSELF, short_help="A script with which the shell completes.")(completion)
app.command("version", rich_help_panel=ITSELF, short_help="Of tallyd, Python and the system.")(version)


def _verbose(wanted: bool) -> None:
    if wanted:
        _log.setLevel(logging.DEBUG)


@app.callback(invoke_without_command=True)
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
        command_tree(app)(prog_name=NAME)
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
