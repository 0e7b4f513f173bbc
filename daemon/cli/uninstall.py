"""`tallyd uninstall`: takes off what `tallyd install` wrote."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.install import DryRunOption, RootOption
from daemon.cli.output import say
from daemon.errors import ConfigError


def uninstall(
    purge: Annotated[
        bool, typer.Option("--purge", help="Also remove configuration, credentials, spool, reports and the user.")
    ] = False,
    root: RootOption = Path("/"),
    dry_run: DryRunOption = False,
) -> None:
    """Stop the daemons and remove their units. What was counted stays in the stores.

    Configuration, credentials and spool stay, too, unless you say --purge. Events that wait in the spool were answered
    202, so --purge is refused while there are any: `tallyd replay` sends them to Redis.

    Example: `tallyd uninstall --dry-run`
    """
    from daemon.install import system as machine

    root = root.absolute()
    if root == Path("/") and os.geteuid() != 0 and not dry_run:
        raise ConfigError("Only root can uninstall tallyd: type the command as root, or look with --dry-run.")
    if purge:
        machine.check_spool(root)
    for step in machine.uninstall(root, purge=purge, dry_run=dry_run):
        say(step)
    if not dry_run:
        say(f"The program itself: rm -r {machine.prefix_of_this_program()}")
