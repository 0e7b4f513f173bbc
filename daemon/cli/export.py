"""`tallyd export`: a rollup as CSV, NDJSON or Parquet."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from daemon.cli.options import ConfigOption, DataOption, load, run
from daemon.config import Config, domain_counters, require
from daemon.domain.rollup import BUCKETED, KINDS, Bucketed
from daemon.errors import ConfigError
from daemon.export.formats import Format

if TYPE_CHECKING:
    from daemon.export.rows import Selection

    RollupName = str
else:  # what typer offers as choices
    RollupName = StrEnum("RollupName", [kind.name for kind in KINDS])

STANDARD_OUTPUT = Path("-")
DAY = ["%Y-%m-%d"]


def export(
    rollup: Annotated[RollupName, typer.Argument(help="Which rollup.")],
    config: ConfigOption = None,
    data: DataOption = None,
    format_: Annotated[Format, typer.Option("--format", help="csv, ndjson, or parquet.")] = Format.CSV,
    output: Annotated[Path, typer.Option(metavar="FILE", help="Where to; - for standard output.")] = STANDARD_OUTPUT,
    entity_type: Annotated[
        str | None, typer.Option("--type", metavar="DOMAIN.TYPE", help="One entity type. Default: all.")
    ] = None,
    first: Annotated[dt.datetime | None, typer.Option("--from", formats=DAY, help="First UTC day.")] = None,
    last: Annotated[dt.datetime | None, typer.Option("--to", formats=DAY, help="Last UTC day.")] = None,
) -> None:
    """Write a rollup's documents as rows, in flat memory, in the order of their ids.

    Each counter's column is its total; `base.<counter>` is the part of it that was taken over from before tallyd
    counted. A file is there whole or not at all. What is counted meanwhile may or may not be in it.

    Example: `tallyd export daily --from 2026-02-01 --to 2026-02-28 --format parquet --output february.parquet`
    """
    from daemon.export.rows import Selection

    loaded = load(config, data)
    require(loaded, "mongo")
    kind = next(kind for kind in KINDS if kind.name == rollup)
    if not isinstance(kind, Bucketed) and (first or last):
        *finer, coarsest = (kind.name for kind in BUCKETED)
        raise ConfigError(f"--from, --to: totals have no days; export {', '.join(finer)} or {coarsest}.")
    if first and last and first > last:
        raise ConfigError(f"--from {first:%Y-%m-%d} is after --to {last:%Y-%m-%d}.")
    typed = None if entity_type is None else _typed(loaded, entity_type)
    domains = loaded.domains if typed is None else [typed[0]]
    counters = tuple(sorted({counter for domain in domains for counter in domain_counters(loaded, domain)}))
    if output == STANDARD_OUTPUT and format_ is Format.PARQUET and sys.stdout.isatty():
        raise ConfigError("--output: Parquet is nothing for a terminal; name a file.")
    if output != STANDARD_OUTPUT and not output.parent.is_dir():
        raise ConfigError(f"--output: there is no folder {output.parent}.")
    days = [day and day.date() for day in (first, last)]
    with _opened(output) as file:
        written = run(_export(loaded, Selection(kind, counters, typed, *days), format_, file))
    if output != STANDARD_OUTPUT:
        typer.echo(f"{written:,} rows in {output}.", err=True)


async def _export(config: Config, selection: Selection, format_: Format, file: IO[bytes]) -> int:
    from daemon.export.formats import writer
    from daemon.export.rows import count, rows
    from daemon.rollups.mongo import MongoSink

    mongo, console = MongoSink(config.mongo), Console(stderr=True)
    shown = console.is_terminal and not file.isatty()  # a bar between rows on a terminal helps nobody
    columns = (TextColumn("Exporting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    written = 0
    try:
        with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
            task = bar.add_task("", total=await count(mongo, selection) if shown else None)
            out = writer(format_, file, selection.columns, len(selection.texts))
            async for chunk in rows(mongo, selection):
                out.write(chunk)
                written += len(chunk)
                bar.update(task, completed=written)
            out.close()
    finally:
        await mongo.close()
    return written


def _typed(config: Config, entity_type: str) -> tuple[str, str]:
    domain, _, kind = entity_type.partition(".")
    if domain not in config.domains or kind not in config.domains[domain].entity_types:
        known = ", ".join(f"{name}.{type_}" for name, each in config.domains.items() for type_ in each.entity_types)
        raise ConfigError(f"--type: there is no {entity_type!r}; configured: {known}.")
    return domain, kind


@contextmanager
def _opened(output: Path) -> Iterator[IO[bytes]]:
    from daemon.files import replaced

    if output != STANDARD_OUTPUT:
        with replaced(output) as file:
            yield file
        return
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
