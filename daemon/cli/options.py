"""The options several commands share, and how a command reads its configuration from them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from daemon import config as configuration
from daemon.config import Config
from daemon.errors import ConfigError

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Configuration file. Default: TALLYD_CONFIG, else ./tallyd.toml."),
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Folder of the embedded stack to use (see `tallyd stack`)."),
]
DomainOption = Annotated[str | None, typer.Option("--domain", help="Domain. Default: the first configured.")]
TypeOption = Annotated[str | None, typer.Option("--type", help="Entity type. Default: the domain's first.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

T = TypeVar("T")


def print_json(value: object) -> None:
    """Machine-readable output of a command, on standard output."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def load(config: Path | None, data: Path | None) -> Config:
    """The configuration a command runs with. Raises ConfigError."""
    return configuration.load(config, data=data)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's asynchronous part on uvloop."""
    import uvloop  # here, so that `--help` does not pay for it

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def chosen_type(config: Config, domain: str | None, entity_type: str | None) -> tuple[str, str]:
    """The domain and entity type asked for, or the first configured ones. Raises ConfigError if there is no such."""
    name = domain or next(iter(config.domains))
    if name not in config.domains:
        raise ConfigError(f"--domain: there is no {name!r}; configured: {', '.join(config.domains)}.")
    types = config.domains[name].entity_types
    if entity_type is not None and entity_type not in types:
        raise ConfigError(f"--type: domain {name!r} has no {entity_type!r}; it has: {', '.join(types)}.")
    return name, entity_type or types[0]
