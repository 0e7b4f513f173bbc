"""The options that several commands share, and how a command reads its configuration and runs its work."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from daemon import config as configuration
from daemon.config import Config, require
from daemon.errors import ConfigError

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration file. Default: TALLYD_CONFIG, else ./tallyd.toml, else /etc/tallyd/tallyd.toml.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Folder of the embedded stack to use. Default: ./.tallyd, if no store is configured.",
    ),
]
DomainOption = Annotated[str | None, typer.Option("--domain", help="Domain. Default: the first configured.")]
TypeOption = Annotated[str | None, typer.Option("--type", help="Entity type. Default: the domain's first.")]
OneTypeOption = Annotated[
    str | None, typer.Option("--type", metavar="DOMAIN.TYPE", help="Only this entity type. Default: all.")
]
FirstOption = Annotated[
    dt.datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First UTC day, such as 2026-11-30.")
]
LastOption = Annotated[dt.datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last UTC day.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Flush first, so that fewer rows are due.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

T = TypeVar("T")


def load(config: Path | None, data: Path | None, *stores: Literal["redis", "mongo", "mysql"]) -> Config:
    """The configuration a command runs with. Raises ConfigError, also if the address of one of these stores is not
    set."""
    loaded = configuration.load(config, data=data)
    require(loaded, *stores)
    return loaded


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's asynchronous part on uvloop."""
    import uvloop  # here, so that `--help` does not pay for it

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def chosen_type(config: Config, domain: str | None, entity_type: str | None) -> tuple[str, str]:
    """The domain and entity type asked for, or the first configured ones. Raises ConfigError if one is not
    configured."""
    name = domain or next(iter(config.domains))
    if name not in config.domains:
        raise ConfigError(f"--domain: there is no {name!r}; configured: {', '.join(config.domains)}.")
    types = config.domains[name].entity_types
    if entity_type is not None and entity_type not in types:
        raise ConfigError(f"--type: domain {name!r} has no {entity_type!r}; it has: {', '.join(types)}.")
    return name, entity_type or types[0]


def check_folder_of(file: Path | None, option: str) -> None:
    """Raises ConfigError if the file's folder does not exist."""
    if file is not None and not file.parent.is_dir():
        raise ConfigError(f"{option}: there is no folder {file.parent}.")
