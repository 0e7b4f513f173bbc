"""`tallyd backfill`: what was counted before tallyd, taken over. The work is in `daemon.move.backfill`."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, print_json, run
from daemon.config import chosen_tables, require
from daemon.errors import CheckFailed

if TYPE_CHECKING:
    from daemon.move.backfill.changes import Change
    from daemon.move.backfill.session import Outcome

LISTED_ON_TERMINAL = 20
WIDTH_NO_TERMINAL = 140


def backfill(
    config: ConfigOption = None,
    data: DataOption = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="DOMAIN.TYPE", help="Only these entity types. Default: every mapped one."),
    ] = None,
    chunk: Annotated[int, typer.Option(min=1, max=10_000, help="Rows of one page.")] = 500,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")] = False,
    daily: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Then take over the history of days in FILE: CSV with a header, or NDJSON; gzipped or not.",
        ),
    ] = None,
    reconcile: Annotated[
        bool,
        typer.Option("--reconcile", help="Also take over what was added to the columns while tallyd was switched off."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Take over what was counted before tallyd: each row's columns become the base of its totals, which are base +
    counted from then on. MySQL is only read.

    Run it as often as you like, also while events are counted: a base is set once. A row nobody took over is taken
    over by the first sync that would write it. Ctrl-C stops it after the chunk; run again, it goes on.

    `--daily`: columns entity (jav:movie:ID; or domain, entity_type, entity_id), date, counter, amount. A line says what
    the day's base is: it is set, not added. Weeks, months and years are summed from the days.

    `--reconcile`: base = column - counted, for rows that are not behind. Only while `tallyd flush` is stopped.

    Exit codes: 0 all was taken over; 1 something could not be, and is listed; 2 wrong usage or configuration.

    Example: `tallyd backfill --type jav.movie --dry-run`
    """
    from daemon.move.backfill import session

    loaded = load(config, data)
    require(loaded, "redis", "mongo", "mysql")
    tables = chosen_tables(loaded, types)
    stopping, received = threading.Event(), list[signal.Signals]()

    async def work() -> Outcome:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, _stop, number, received, stopping)
        return await session.run(
            loaded, tables, screen, stopping, chunk=chunk, dry_run=dry_run, daily=daily, reconcile=reconcile
        )

    with Screen(as_json=as_json) as screen:
        outcome = run(work())
    if as_json and dry_run:
        print(msgspec.json.encode(outcome).decode())  # the last line of NDJSON
    elif as_json:
        print_json(outcome)
    else:
        _print(outcome, Console(width=None if sys.stdout.isatty() else WIDTH_NO_TERMINAL), dry_run=dry_run)
    if received:
        typer.echo(f"Stopped by {received[0].name}. Run the same command again to go on.", err=True)
        raise typer.Exit(128 + received[0])
    if outcome.problems:
        raise CheckFailed(f"{outcome.problems} lines or entities could not be taken over.")


def _stop(number: signal.Signals, received: list[signal.Signals], stopping: threading.Event) -> None:
    received.append(number)
    stopping.set()


class RateColumn(ProgressColumn):
    """What is done in a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f}/s")


class Screen:
    """The watcher of a run: a bar on standard error if that is a terminal, and the changes of a dry run on standard
    output."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            RateColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not (sys.stdout.isatty() and sys.stderr.isatty()),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, name: str, rows: int, done: int) -> None:
        self._task = self._progress.add_task(name, total=max(rows, done) or None, completed=done)

    def advance(self, rows: int) -> None:
        assert self._task is not None
        self._progress.advance(self._task, rows)

    def change(self, change: Change) -> None:
        print(msgspec.json.encode(change).decode() if self._as_json else change)


def _print(outcome: Outcome, console: Console, *, dry_run: bool) -> None:
    if outcome.tables:
        table = Table(
            "table", "processed", "would be upserted" if dry_run else "upserted", "unchanged", "skipped", "due"
        )
        for tally in outcome.tables:
            amounts = (tally.processed, tally.upserted, tally.unchanged, tally.skipped, tally.due)
            name = f"{tally.name} (after {tally.rows_before:,})" if tally.rows_before else tally.name
            table.add_row(name, *(f"{amount:,}" for amount in amounts))
        console.print(table)
    if (history := outcome.history) is not None:
        console.print(
            f"{history.name}: {history.lines:,} lines; {history.days:,} days {'would be ' if dry_run else ''}set,"
            f" {history.unchanged:,} unchanged; weeks, months and years of {history.entities:,} entities summed.",
            markup=False,
        )
    for tally in outcome.tables:
        _list(console, tally.skipped_listed, tally.skipped, "")
        _list(console, tally.problems_listed, tally.problems, "red")
        if tally.due and not dry_run:
            console.print(f"{tally.due:,} rows of {tally.name} are due: the next `tallyd flush` sets base + counted.")
    if history is not None:
        _list(console, history.problems_listed, history.problems, "red")
    for each in outcome.verification:
        table = Table(
            "#", "MySQL", each.counter, "MongoDB", each.counter, title=f"{each.name}: the largest, to compare"
        )
        for number, place in enumerate(each.places, start=1):
            sides = ((place.mysql_id, place.mysql), (place.mongo_id, place.mongo))
            cells = [
                cell for id_, amount in sides for cell in (("", "") if id_ is None else (escape(id_), f"{amount:,}"))
            ]
            table.add_row(str(number), *cells)
        console.print(table)
        if not each.equal:
            console.print(
                "They differ. Rows that are due do until the next sync; `tallyd audit` tells what should not."
            )


def _list(console: Console, listed: list[str], count: int, style: str) -> None:
    for line in listed[:LISTED_ON_TERMINAL]:
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
    more = count - len(listed[:LISTED_ON_TERMINAL])
    if more > 0:
        console.print(f"… and {more:,} more (--json lists up to 1,000)")
