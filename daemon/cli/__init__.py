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
app.command("dev")(dev)
app.add_typer(stack, name="stack")
app.command("ingest")(ingest)
app.command("flush")(flush)
app.command("import")(import_files)
app.command("backfill")(backfill)
app.command("status")(status)
app.command("top")(top)
app.command("series")(series)
app.command("audit")(audit)
app.command("doctor")(doctor)
app.command("parity-check")(parity_check)
app.add_typer(report, name="report")
app.command("shadow-compare")(shadow_compare)
app.command("expire")(expire)
app.command("export")(export)
app.add_typer(dead, name="dead")
app.add_typer(drill, name="drill")
app.command("replay")(replay)
app.command("config")(show_config)


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
