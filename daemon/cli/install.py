"""`tallyd install`: user, folders, units, credentials and configuration of a server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.init import (
    ColumnsOption,
    KeyColumnOption,
    MongoOption,
    MysqlOption,
    NewActionsOption,
    NewDomainOption,
    NewTypesOption,
    RedisOption,
    TableOption,
    UncheckedOption,
    ask,
    given_answers,
)
from daemon.cli.output import say
from daemon.config import SYSTEM_FILE
from daemon.errors import ConfigError

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")]
RootOption = Annotated[Path, typer.Option("--root", metavar="DIR", help="Work below this folder, as for an image.")]


def install(
    system: Annotated[bool, typer.Option("--system", help="For this machine, under systemd. There is no other way.")],
    redis: RedisOption = "",
    mongo: MongoOption = "",
    mysql: MysqlOption = "",
    domain: NewDomainOption = "",
    type_: NewTypesOption = None,
    action: NewActionsOption = None,
    table: TableOption = "",
    key: KeyColumnOption = "",
    column: ColumnsOption = None,
    no_check: UncheckedOption = False,
    prefix: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where tallyd is installed. Default: where this program is.")
    ] = None,
    root: RootOption = Path("/"),
    dry_run: DryRunOption = False,
) -> None:
    """Write the user, folders, units and timers, and a first configuration with its credentials. Start nothing.

    The addresses of the stores go to /etc/tallyd/credentials, which only root reads; systemd hands them to the daemons.
    A configuration that is there stays, and with it the credentials: then no flag is needed. Type it again after each
    upgrade, because it brings the new units. On a terminal it asks like `tallyd init`.

    Example: `tallyd install --system --domain shop --type article`
    """
    from daemon.install import system as machine

    if not system:
        raise ConfigError("Say --system: tallyd is installed for a whole machine.")
    root, place = root.absolute(), (prefix or machine.prefix_of_this_program()).absolute()
    if root == Path("/"):
        machine.check_prefix(place)
        if os.geteuid() != 0 and not dry_run:
            raise ConfigError("Only root can install tallyd: type the command as root, or look with --dry-run.")
    answers = None
    if not (root / SYSTEM_FILE.relative_to("/")).exists():
        given = given_answers(redis, mongo, mysql, domain, type_, action, table, key, column)
        answers = ask(given, check=not no_check and not dry_run)
    for step in machine.install(answers, place, root, dry_run=dry_run):
        say(step)
    if not dry_run:
        say("Next: tallyd doctor; then systemctl enable and start the units, as ops/install.md says.")
