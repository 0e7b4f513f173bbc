"""`tallyd export`: a rollup as CSV, NDJSON or Parquet."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from daemon.cli.options import (
    ConfigOption,
    DataOption,
    FirstOption,
    LastOption,
    OneTypeOption,
    check_folder_of,
    load,
    run,
)
from daemon.cli.output import progress
from daemon.config import Config, domain_counters
from daemon.domain.rollup import BUCKETED, KINDS, Bucketed
from daemon.errors import ConfigError
from daemon.export.formats import Format

if TYPE_CHECKING:
    from daemon.export.rows import Selection

    RollupName = str
else:  # what typer offers as choices
    RollupName = StrEnum("RollupName", [kind.name for kind in KINDS])

STANDARD_OUTPUT = Path("-")


def export(
    rollup: Annotated[
        RollupName, typer.Argument(metavar="ROLLUP", help=f"One of {', '.join(kind.name for kind in KINDS)}.")
    ],
    config: ConfigOption = None,
    data: DataOption = None,
    format_: Annotated[
        Format, typer.Option("--format", help="csv (' before what a spreadsheet would run), ndjson, or parquet.")
    ] = Format.CSV,
    output: Annotated[Path, typer.Option(metavar="FILE", help="Where to; - for standard output.")] = STANDARD_OUTPUT,
    entity_type: OneTypeOption = None,
    first: FirstOption = None,
    last: LastOption = None,
) -> None:
    """Write a rollup's documents as rows, in flat memory, in the order of their ids.

    Each counter's column is its total. `base.<counter>` is the part of it that was taken over. A file is written whole
    or not at all. Counts that arrive meanwhile may be missing.

    Example: `tallyd export daily --from 2026-02-01 --to 2026-02-28 --format parquet --output february.parquet`
    """
    from daemon.export.rows import Selection

    loaded = load(config, data, "mongo")
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
        raise ConfigError("--output: a terminal cannot show Parquet; name a file.")
    check_folder_of(output, "--output")
    days = [day and day.date() for day in (first, last)]
    with _opened(output) as file:
        written = run(_export(loaded, Selection(kind, counters, typed, *days), format_, file))
    if output != STANDARD_OUTPUT:
        typer.echo(f"{written:,} rows in {output}.", err=True)


async def _export(config: Config, selection: Selection, format_: Format, file: IO[bytes]) -> int:
    from daemon.export.formats import writer
    from daemon.export.rows import count, rows
    from daemon.rollups.mongo import MongoSink

    written = 0
    async with MongoSink(config.mongo) as mongo:
        shown = sys.stderr.isatty() and not file.isatty()  # a bar between rows on a terminal helps nobody
        with progress("Exporting", await count(mongo, selection) if shown else None, shown=shown) as move:
            out = writer(format_, file, selection.columns, len(selection.texts))
            async for chunk in rows(mongo, selection):
                out.write(chunk)
                written += len(chunk)
                move(completed=written)
            out.close()
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
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
