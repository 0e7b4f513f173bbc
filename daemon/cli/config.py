"""`tallyd config`: the configuration in force, an example of one, and its JSON Schema."""

from __future__ import annotations

from typing import Annotated

import typer

from daemon.cli.options import ConfigOption, DataOption, load
from daemon.cli.output import print_json
from daemon.config import masked


def show_config(
    config: ConfigOption = None,
    data: DataOption = None,
    example: Annotated[
        bool, typer.Option("--example", help="Print an example file instead: every key, default, unit and bound.")
    ] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print a JSON Schema of the file instead, for editors such as taplo.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Print only whether it is right. The units ask at each reload.")
    ] = False,
) -> None:
    """Print the configuration in force as JSON, secrets masked. Exit 2 and every problem if it is wrong.

    Example: `TALLYD_RATE_LIMIT__PER_MINUTE=0 tallyd config --config tallyd.toml`

    Example: `tallyd config --check --config tallyd.toml`

    Example: `tallyd config --example > tallyd.toml`

    Example: `tallyd config --schema > tallyd.schema.json`
    """
    from daemon.config import generate

    if example:
        print(generate.example(), end="")
    elif schema:
        print_json(generate.json_schema())
    elif check:
        load(config, data)
        print("The configuration is right.")
    else:
        print_json(masked(load(config, data)))
