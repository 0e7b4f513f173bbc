"""`tallyd drill`: what an operator may have to do one day, done now on servers of its own."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from daemon.cli.options import JsonOption, print_json
from daemon.cli.report import DIR_DEFAULT
from daemon.config import ENV_PREFIX, ENV_STACK_PREFIX
from daemon.errors import CheckFailed

if TYPE_CHECKING:
    from daemon.verify.report.artifact import Step

app = typer.Typer(help="Drills on servers of their own: each step is done and checked.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """With one command only, typer would drop its name."""


@app.command()
def rollback(
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="New folder for its servers, to be looked at later. Default: a temporary one."
        ),
    ] = None,
    folder: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where reports and this are kept.")
    ] = DIR_DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Go over to tallyd, back to the application's own counting, and to tallyd again, and check that no count is lost.

    Starts private servers and an ingest daemon, with a configuration of its own whatever the environment says, and
    stops them. Writes DIR/rollback/drill-YYYY-MM-DD.json, which `tallyd report verify --dir DIR` knows. Exit 1 if a
    step fails.

    Example: `tallyd drill rollback --dir ./reports`
    """
    from daemon.move.drill import artifact
    from daemon.move.drill import rollback as drill

    for name in [name for name in os.environ if name.startswith(ENV_PREFIX) and not name.startswith(ENV_STACK_PREFIX)]:
        del os.environ[name]
    console = Console(stderr=as_json, highlight=False, markup=False)

    def show(step: Step) -> None:
        console.print(
            f"{'ok' if step.ok else 'FAILED':<6} {step.step}: {step.found}",
            style="" if step.ok else "red",
            soft_wrap=True,
        )

    drilled = asyncio.run(drill.run(data, show))
    name, written = artifact.write(folder, drilled)
    if as_json:
        print_json(written)
    console.print(f"Written: {folder / name}")
    if not drilled.ok:
        raise CheckFailed("The drill failed; the last step above says where.")
