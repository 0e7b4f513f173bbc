"""The command line: one file a group of commands; this one puts them together and turns errors into exit codes."""

from __future__ import annotations

import sys

import typer

from daemon import __version__
from daemon.cli.audit import audit
from daemon.cli.backfill import backfill
from daemon.cli.dead import app as dead
from daemon.cli.dev import dev
from daemon.cli.doctor import doctor
from daemon.cli.drill import app as drill
from daemon.cli.expire import expire
from daemon.cli.export import export
from daemon.cli.importing import import_files
from daemon.cli.parity import parity_check
from daemon.cli.replay import replay
from daemon.cli.report import app as report
from daemon.cli.serve import flush, ingest
from daemon.cli.settings import show_config
from daemon.cli.shadow import shadow_compare
from daemon.cli.show import series, status, top
from daemon.cli.stack import app as stack
from daemon.errors import TallydError

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

app.command("dev", rich_help_panel=RUN)(dev)
app.add_typer(stack, name="stack", rich_help_panel=RUN)
app.command("ingest", rich_help_panel=RUN)(ingest)
app.command("flush", rich_help_panel=RUN)(flush)
app.command("config", rich_help_panel=RUN)(show_config)
app.command("status", rich_help_panel=LOOK)(status)
app.command("top", rich_help_panel=LOOK)(top)
app.command("series", rich_help_panel=LOOK)(series)
app.command("export", rich_help_panel=LOOK)(export)
app.command("audit", rich_help_panel=CHECK)(audit)
app.command("doctor", rich_help_panel=CHECK)(doctor)
app.command("parity-check", rich_help_panel=CHECK)(parity_check)
app.add_typer(report, name="report", rich_help_panel=CHECK)
app.command("import", rich_help_panel=MOVE)(import_files)
app.command("backfill", rich_help_panel=MOVE)(backfill)
app.command("shadow-compare", rich_help_panel=MOVE)(shadow_compare)
app.add_typer(drill, name="drill", rich_help_panel=MOVE)
app.add_typer(dead, name="dead", rich_help_panel=KEEP)
app.command("replay", rich_help_panel=KEEP)(replay)
app.command("expire", rich_help_panel=KEEP)(expire)


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
        print(f"tallyd: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
