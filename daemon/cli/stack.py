"""`tallyd stack up|down|status`: the embedded servers as a command. The work is in `daemon.devstack.stack`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.options import JsonOption
from daemon.cli.output import print_json

DEFAULT_DATA_DIR = Path(".tallyd")

app = typer.Typer(help="Start and stop private Redis, MongoDB and MariaDB servers.", no_args_is_help=True)

Data = Annotated[Path, typer.Option("--data", metavar="DIR", help="Where the servers keep their data and logs.")]


@app.command()
def up(data: Data = DEFAULT_DATA_DIR) -> None:
    """Start the servers that are not running, and write their addresses into DIR/stack.json.

    They listen on unix sockets that no other user can reach, and on no port. They run on after this command, until
    `tallyd stack down`. Without MariaDB on this machine the others start, and the replica sync is off.
    TALLYD_STACK_REDIS_SERVER, TALLYD_STACK_MONGOD and TALLYD_STACK_MARIADBD choose other programs than those found
    (empty: as if not installed).

    Example: `tallyd stack up --data ./.tallyd`
    """
    from daemon.devstack import stack

    raised = asyncio.run(stack.bring_up(data))
    typer.echo(f"started {', '.join(raised.started)}" if raised.started else "already up")
    for name in raised.info.pids:
        typer.echo(f"  {name:<6} {raised.info.url(name)}")
    for server in raised.absent:
        typer.echo(server.absence)


@app.command()
def down(data: Data = DEFAULT_DATA_DIR) -> None:
    """Stop the servers of DIR cleanly, and remove DIR/stack.json. Their data stays for the next `up`.

    A process that does not run on DIR is left alone, even if the file names its pid.

    Example: `tallyd stack down --data ./.tallyd`
    """
    from daemon.devstack import stack

    stopped = stack.down(data)
    typer.echo(f"stopped {', '.join(stopped)}" if stopped else "was not up")


@app.command()
def status(data: Data = DEFAULT_DATA_DIR, as_json: JsonOption = False) -> None:
    """Show which servers of DIR run, their addresses and their logs. Exit code 1 unless all run.

    A server whose program is not installed is shown as absent. MariaDB is optional: it may be absent.

    Example: `tallyd stack status --data ./.tallyd --json`
    """
    from daemon.devstack import stack

    servers = stack.status(data)
    complete = stack.is_complete(servers)
    if as_json:
        print_json(
            {"data": str(data.resolve()), "complete": complete, "servers": {each.name: each for each in servers}}
        )
    else:
        for each in servers:
            typer.echo(f"{each.name:<6} {each.state:<8} {each.url or '-':<40} {each.log}")
    raise typer.Exit(0 if complete else 1)
