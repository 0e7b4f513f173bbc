"""`tallyd parity-check`: do the columns of MySQL equal MongoDB's totals?"""

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

from daemon.cli.flush import flush_first
from daemon.cli.options import ConfigOption, DataOption, OneTypeOption, WaitOption, load, run
from daemon.cli.output import print_table, progress, say
from daemon.cli.record import RecordOption, recorded
from daemon.config import chosen_tables
from daemon.errors import CheckFailed, ConfigError

if TYPE_CHECKING:
    from daemon.verify.parity import Row, Tally

LIMIT_DEFAULT = 100
MISMATCHES_SHOWN = 20
NOT_BACKFILLED = "; nobody backfilled it"


def parity_check(
    config: ConfigOption = None,
    data: DataOption = None,
    entity_type: OneTypeOption = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"How many rows of each type. Default: {LIMIT_DEFAULT}.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every row, and totals without a row.")] = False,
    wait: WaitOption = False,
    record: RecordOption = False,
    as_json: Annotated[bool, typer.Option("--print-json", "--json", help="Print JSON instead of a table.")] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the JSON to a file, too, as an analytics-artifact.v1.")
    ] = None,
) -> None:
    """Compare MySQL's columns with MongoDB's totals, the rows with the highest counter first. List each mismatch.

    A row is pending, and no mismatch, if its entity is due, has live counts or is in flight. --wait flushes first.
    A row that is not 0 and has no totals is a mismatch, and named as one that nobody backfilled. Exit 1 if there is a
    mismatch.

    Example: `tallyd parity-check --all --wait --output parity.json`
    """
    from daemon.verify.parity import check

    if limit is not None and all_:
        raise ConfigError("--limit and --all: choose one.")
    loaded = load(config, data, "redis", "mongo", "mysql")
    tables = chosen_tables(loaded, None if entity_type is None else [entity_type])
    rows_max = None if all_ else limit or LIMIT_DEFAULT
    shown: list[Row] = []

    async def work(found: Callable[[Row], None]) -> list[Tally]:
        if wait:
            await flush_first(loaded)
        with progress("Comparing") as move:
            return await check(
                loaded, tables, rows_max, found,
                lambda tally: move(
                    description=f"{tally.entity_type}: {tally.checked:,} rows, {tally.mismatches:,} mismatches"
                ),
            )  # fmt: skip

    with recorded(loaded, "parity-check", wanted=record) as kept:
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
        sums = _sums(tallies)
        kept.figures |= {**sums, "not_backfilled": sum(tally.not_backfilled for tally in tallies)}
        kept.summary = f"{sums['checked']:,} rows checked: no mismatch, {sums['pending']:,} pending."
        if sums["mismatches"]:
            raise CheckFailed(f"The parity check found {sums['mismatches']} mismatches.")


class _Document:
    """A `CheckArtifact`, written row by row: there may be as many as the table has."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._file.write(b'{"rows": [')
        self._separator = b"\n  "

    def add(self, row: Row) -> None:
        self._file.write(self._separator + msgspec.json.encode(row))
        self._separator = b",\n  "

    def end(self, tallies: list[Tally], rows_max: int | None) -> None:
        from daemon.verify.report.artifact import SCHEMA_VERSION, CheckArtifact, instant

        now = dt.datetime.now(dt.UTC)
        artifact = CheckArtifact(
            schema_version=SCHEMA_VERSION, artifact_type="parity", artifact_date=now.date(), generated_at=instant(now),
            limit=rows_max or 0, rows=[], types=tallies, **_sums(tallies),
        )  # fmt: skip
        rest = {name: value for name, value in msgspec.structs.asdict(artifact).items() if name != "rows"}
        self._file.write(b"\n],\n" + msgspec.json.format(msgspec.json.encode(rest), indent=2).lstrip(b"{\n") + b"\n")


def _sums(tallies: list[Tally]) -> dict[str, int]:
    """Of all types."""
    return {name: sum(getattr(tally, name) for tally in tallies) for name in ("checked", "mismatches", "pending")}


@contextmanager
def _outputs(output: Path | None, *, as_json: bool) -> Iterator[list[_Document]]:
    from daemon.files import make_folder_of, replaced

    written = [_Document(sys.stdout.buffer)] if as_json else []
    if output is None:
        yield written
    else:
        make_folder_of(output)
        with replaced(output) as file:
            yield [*written, _Document(file)]
    sys.stdout.flush()


def _print(tallies: list[Tally], shown: list[Row], console: Console) -> None:
    print_table(
        ("type", "table", "by", "checked", "mismatches", "pending", "missing"),
        [
            (
                tally.entity_type,
                tally.table,
                tally.ordered_by,
                *(tally.checked, tally.mismatches, tally.pending),
                "-" if tally.missing is None else tally.missing,
            )
            for tally in tallies
        ],
    )
    for row in shown:
        values = ", ".join(f"{name} {value:,}" for name, value in row.items() if isinstance(value, int))
        untaken = any(
            row["key"] in each.not_backfilled_some and row["entity_type"] == each.entity_type for each in tallies
        )
        say(f"{row['entity_type']} {row['code']} ({row['key']}): {values}{NOT_BACKFILLED if untaken else ''}", "red")
    more = sum(tally.mismatches for tally in tallies) - len(shown)
    if more > 0:
        console.print(f"… and {more:,} more (--output FILE lists them)")
    for tally in tallies:
        if tally.not_backfilled:
            words = (
                f"{tally.not_backfilled:,} of the mismatches have no totals. `tallyd backfill` takes such rows over."
            )
            say(f"{tally.entity_type}: {words}")
        if tally.pending:
            console.print(f"{tally.entity_type}: {tally.pending:,} rows are pending. --wait flushes first.")
        if tally.missing:
            some = ", ".join(tally.missing_some[:3])
            words = f"{tally.missing:,} entities have totals and no row, such as {some}."
            say(f"{tally.entity_type}: {words}")
        if tally.keyless:
            console.print(f"{tally.entity_type}: {tally.keyless:,} rows have no key, so no event can name them.")
    if not any(tally.mismatches for tally in tallies):
        console.print("MySQL equals MongoDB.", style="green")
