"""The command line: one file a command, named after it; here they are put together. Errors become exit codes."""

from __future__ import annotations

import logging
import sys

import typer

from daemon import __version__
from daemon.cli.audit import audit
from daemon.cli.backfill import backfill
from daemon.cli.capacity import capacity
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
from daemon.errors import TallydError
from daemon.log import is_json, neutral_lines

_log = logging.getLogger(__name__)

app = typer.Typer(
    name="tallyd",
    help="Counts things that happen to entities, at high volume, exactly once.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
RUN, LOOK, CHECK, MOVE, KEEP = "Run it", "Look at counts", "Check", "Move an application over", "Keep it in order"
"""The panels of `tallyd --help`."""

app.command("dev", rich_help_panel=RUN, short_help="Run the whole system here until Ctrl-C.")(dev)
app.add_typer(stack, name="stack", rich_help_panel=RUN, short_help="Start and stop private servers.")
app.command("ingest", rich_help_panel=RUN, short_help="Take events over HTTP and count them in Redis.")(ingest)
app.command("flush", rich_help_panel=RUN, short_help="Write what was counted to MongoDB and MySQL.")(flush)
app.command("init", rich_help_panel=RUN, short_help="Write a first configuration; check the stores.")(init)
app.command("install", rich_help_panel=RUN, short_help="Put user, folders, units and timers on a server.")(install)
app.command("uninstall", rich_help_panel=RUN, short_help="Take them off again.")(uninstall)
app.command("config", rich_help_panel=RUN, short_help="Print the effective configuration, secrets masked.")(show_config)
app.add_typer(key, name="key", rich_help_panel=RUN, short_help="Make, list and revoke keys of producers and readers.")
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
    report, name="report", rich_help_panel=CHECK, short_help="Parity and days as files, and their verification."
)
app.command("import", rich_help_panel=MOVE, short_help="Access logs and NDJSON events into the system.")(import_files)
app.command("backfill", rich_help_panel=MOVE, short_help="Take over what was counted before tallyd.")(backfill)
app.command("shadow-compare", rich_help_panel=MOVE, short_help="The application's own column against tallyd's.")(
    shadow_compare
)
app.add_typer(
    drill, name="drill", rich_help_panel=MOVE, short_help="Rehearse going over and back, on servers of its own."
)
app.add_typer(
    dead, name="dead", rich_help_panel=KEEP, short_help="Look at, retry or drop amounts no document could take."
)
app.command("replay", rich_help_panel=KEEP, short_help="Send what waits in the spool to Redis.")(replay)
app.command("expire", rich_help_panel=KEEP, short_help="Give up old days and weeks, but for their sums.")(expire)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        typer.echo(f"tallyd {__version__}")
        raise typer.Exit


def main() -> None:
    """Exit codes: 0 done, 1 the check or the work failed, 2 wrong usage or configuration."""
    try:
        app()
    except TallydError as error:
        if is_json():  # a daemon's last words are for the collector, too
            _log.critical("%s", error)
        else:
            print(neutral_lines(f"tallyd: {error}"), file=sys.stderr)
        sys.exit(error.exit_code)
