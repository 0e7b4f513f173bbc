"""`tallyd drill`: rehearses what an operator may have to do one day, on servers of its own."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from daemon.cli.options import JsonOption
from daemon.cli.output import print_json, say
from daemon.cli.report import DIR_DEFAULT, FolderOption
from daemon.config import ENV_PREFIX, ENV_STACK_PREFIX
from daemon.errors import CheckFailed

if TYPE_CHECKING:
    from daemon.verify.report.artifact import Step

app = typer.Typer(help="Drills on servers of their own: each step is done and checked.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps the command's name: typer drops it from a group of one."""


@app.command()
def rollback(
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="New folder for its servers, which is kept. Default: a temporary one."),
    ] = None,
    folder: FolderOption = DIR_DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Go over to tallyd, back to the application's own counting, and to tallyd again. Check that no count is lost.

    Starts private servers and an ingest daemon, and stops them. Ignores the configuration in the environment. Writes
    DIR/rollback/drill-YYYY-MM-DD.json, which `tallyd report verify --dir DIR` checks. Exit 1 if a step fails.

    Example: `tallyd drill rollback --dir ./reports`
    """
    from daemon.move import drill

    for name in [name for name in os.environ if name.startswith(ENV_PREFIX) and not name.startswith(ENV_STACK_PREFIX)]:
        del os.environ[name]
    console = Console(stderr=as_json, highlight=False, markup=False)

    def show(step: Step) -> None:
        say(f"{'ok' if step.ok else 'FAILED':<6} {step.step}: {step.found}", "" if step.ok else "red", console=console)

    drilled = asyncio.run(drill.run(data, show))
    name, written = drill.write(folder, drilled)
    if as_json:
        print_json(written)
    console.print(f"Written: {folder / name}")
    if not drilled.ok:
        raise CheckFailed("The drill failed; the last step above says where.")
