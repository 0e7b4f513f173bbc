"""`tallyd parity-check`: do the columns of MySQL say what MongoDB's totals say?"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from daemon.cli.enabled import left_due
from daemon.cli.options import ConfigOption, DataOption, load, run
from daemon.config import Config, chosen_tables, require
from daemon.errors import CheckFailed, ConfigError, StoreError

if TYPE_CHECKING:
    from daemon.verify.parity.check import Tally
    from daemon.verify.parity.rows import Row

LIMIT_DEFAULT = 100
MISMATCHES_SHOWN = 20


def parity_check(
    config: ConfigOption = None,
    data: DataOption = None,
    entity_type: Annotated[
        str | None, typer.Option("--type", metavar="DOMAIN.TYPE", help="One mapped type. Default: all of them.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"How many rows of each type. Default: {LIMIT_DEFAULT}.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every row, and totals without a row.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Flush first, so that nothing is pending at the start.")] = False,
    as_json: Annotated[bool, typer.Option("--print-json", "--json", help="Print JSON instead of a table.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the JSON to a file, too.")] = None,
) -> None:
    """Compare MySQL's columns with MongoDB's totals, the rows with the highest counter first, and list each mismatch.

    A row whose entity is due for MySQL, has live counts or is in flight is pending and no mismatch; --wait flushes
    first. A row that is not 0 and has no totals is a mismatch (has it been backfilled?). Exit 1 if there is one.

    Example: `tallyd parity-check --all --wait --output parity.json`
    """
    from daemon.verify.parity import check

    if limit is not None and all_:
        raise ConfigError("--limit and --all: choose one.")
    if output is not None and not output.parent.is_dir():
        raise ConfigError(f"--output: there is no folder {output.parent}.")
    loaded = load(config, data)
    require(loaded, "redis", "mongo", "mysql")
    tables = chosen_tables(loaded, None if entity_type is None else [entity_type])
    rows_max = None if all_ else limit or LIMIT_DEFAULT
    shown: list[Row] = []

    async def work(found: Callable[[Row], None]) -> list[Tally]:
        if wait:
            await flush_first(loaded)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        console = Console(stderr=True)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("Comparing")
            async with check.opened_parity(loaded) as parity:
                return await check.check(
                    parity, tables, rows_max, found,
                    lambda tally: bar.update(
                        task,
                        description=f"{tally.entity_type}: {tally.checked:,} rows, {tally.mismatches:,} mismatches",
                    ),
                )  # fmt: skip

    with _outputs(output, as_json=as_json) as written:

        def found(row: Row) -> None:
            if len(shown) < MISMATCHES_SHOWN:
                shown.append(row)
            for document in written:
                document.add(row)

        tallies = run(work(found))
        for document in written:
            document.end(tallies, rows_max)
    if not as_json:
        _print(tallies, shown, Console())
    mismatches = sum(tally.mismatches for tally in tallies)
    if mismatches:
        raise CheckFailed(f"The parity check found {mismatches} mismatches.")


async def flush_first(config: Config) -> None:
    """Everything counted so far into MongoDB and MySQL; if tallyd is switched off, into MongoDB, and says so. Raises
    StoreError if either does not take it."""
    from daemon.flush.flusher import Flusher

    flusher = Flusher(config)
    try:
        done = await flusher.once()
    finally:
        await flusher.close()
    if done.replica_error:
        raise StoreError(done.replica_error)
    if not config.enabled:
        print(left_due(done.due), file=sys.stderr)


class _Document:
    """`{"rows": […], "types": […], …}`, written as the rows come: there may be as many as the table has."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._file.write(b'{"rows": [')
        self._separator = b"\n  "

    def add(self, row: Row) -> None:
        self._file.write(self._separator + msgspec.json.encode(row))
        self._separator = b",\n  "

    def end(self, tallies: list[Tally], rows_max: int | None) -> None:
        sums = {name: sum(getattr(tally, name) for tally in tallies) for name in ("checked", "mismatches", "pending")}
        rest = {"types": tallies, **sums, "limit": rows_max, "generated_at": dt.datetime.now(dt.UTC)}
        self._file.write(b"\n],\n" + msgspec.json.format(msgspec.json.encode(rest), indent=2).lstrip(b"{\n") + b"\n")


@contextmanager
def _outputs(output: Path | None, *, as_json: bool) -> Iterator[list[_Document]]:
    from daemon.files import replaced

    written = [_Document(sys.stdout.buffer)] if as_json else []
    if output is None:
        yield written
    else:
        with replaced(output) as file:
            yield [*written, _Document(file)]
    sys.stdout.flush()


def _print(tallies: list[Tally], shown: list[Row], console: Console) -> None:
    table = Table("type", "table", "by", "checked", "mismatches", "pending", "missing")
    for tally in tallies:
        missing = "-" if tally.missing is None else f"{tally.missing:,}"
        amounts = (f"{tally.checked:,}", f"{tally.mismatches:,}", f"{tally.pending:,}", missing)
        table.add_row(tally.entity_type, tally.table, tally.ordered_by, *amounts)
    console.print(table)
    for row in shown:
        values = ", ".join(f"{name} {value:,}" for name, value in row.items() if isinstance(value, int))
        console.print(
            f"{row['entity_type']} {row['code']} ({row['key']}): {values}", style="red", markup=False, soft_wrap=True
        )
    more = sum(tally.mismatches for tally in tallies) - len(shown)
    if more > 0:
        console.print(f"… and {more:,} more (--output FILE lists them)")
    for tally in tallies:
        if tally.pending:
            console.print(f"{tally.entity_type}: {tally.pending:,} rows are on their way from Redis (--wait flushes).")
        if tally.missing:
            some = ", ".join(tally.missing_some[:3])
            words = f"{tally.missing:,} entities have totals and no row, such as {some}."
            console.print(f"{tally.entity_type}: {words}", markup=False, soft_wrap=True)
        if tally.keyless:
            console.print(f"{tally.entity_type}: {tally.keyless:,} rows have no key; no event can name them.")
    if not any(tally.mismatches for tally in tallies):
        console.print("MySQL equals MongoDB.", style="green")
