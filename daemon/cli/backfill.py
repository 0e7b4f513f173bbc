"""`tallyd backfill`: takes over what was counted before tallyd. The work is in `daemon.move.backfill`."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, ProgressColumn, Task
from rich.text import Text

from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, run
from daemon.cli.output import bars, print_json, print_table, say, wide_console
from daemon.config import chosen_tables
from daemon.errors import CheckFailed
from daemon.lifecycle import stopped_by_signals
from daemon.log import neutral

if TYPE_CHECKING:
    from signal import Signals

    from daemon.move.backfill.changes import Change
    from daemon.move.backfill.session import Outcome

LISTED_ON_TERMINAL = 20


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
    """Take over what was counted before tallyd. Each row's columns become the base of its totals. From then on a total
    is base + counted. MySQL is only read.

    Run it as often as you like, also while events are counted: a base is set once. The first sync that would write a
    row takes it over, too. Ctrl-C stops the command after the chunk. The next run goes on from there.

    `--daily`: columns entity (jav:movie:ID; or domain, entity_type, entity_id), date, counter, amount. A line says what
    the day's base is: it is set, not added. Weeks, months and years are summed from the days.

    `--reconcile`: base = column - counted, for rows that are not due. Only while `tallyd flush` is stopped.

    Exit codes: 0 all was taken over; 1 something was not, and is listed; 2 wrong usage or configuration.

    Example: `tallyd backfill --type jav.movie --dry-run`
    """
    from daemon.move.backfill import session

    loaded = load(config, data, "redis", "mongo", "mysql")
    tables = chosen_tables(loaded, types)

    async def work(screen: Screen) -> tuple[Outcome, list[Signals]]:
        stopping = threading.Event()
        async with stopped_by_signals(stopping) as received:
            outcome = await session.run(
                loaded, tables, screen, stopping, chunk=chunk, dry_run=dry_run, daily=daily, reconcile=reconcile
            )
        return outcome, received

    with bars(MofNCompleteColumn(), RateColumn(), shown=sys.stdout.isatty() and sys.stderr.isatty()) as bar:
        outcome, received = run(work(Screen(bar, as_json)))
    if as_json and dry_run:
        print(msgspec.json.encode(outcome).decode())  # the last line of NDJSON
    elif as_json:
        print_json(outcome)
    else:
        _print(outcome, wide_console(), dry_run=dry_run)
    if received:
        typer.echo(f"Stopped by {received[0].name}. Run the same command again to go on.", err=True)
        raise typer.Exit(128 + received[0])
    if outcome.problems:
        raise CheckFailed(f"{outcome.problems} lines or entities were not taken over.")


class RateColumn(ProgressColumn):
    """Rows or bytes a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f}/s")


class Screen(NamedTuple):
    """The watcher of a run: a bar for each table or file, and the changes of a dry run on standard output."""

    bar: Progress
    as_json: bool

    def begin(self, name: str, rows: int, done: int) -> None:
        self.bar.add_task(name, total=max(rows, done) or None, completed=done)

    def advance(self, rows: int) -> None:
        self.bar.advance(self.bar.task_ids[-1], rows)

    def change(self, change: Change) -> None:
        print(msgspec.json.encode(change).decode() if self.as_json else neutral(str(change)))


def _print(outcome: Outcome, console: Console, *, dry_run: bool) -> None:
    if outcome.tables:
        print_table(
            ("table", "processed", "would be upserted" if dry_run else "upserted", "unchanged", "skipped", "due"),
            [
                (
                    f"{each.name} (after {each.rows_before:,})" if each.rows_before else each.name,
                    *(each.processed, each.upserted, each.unchanged, each.skipped, each.due),
                )
                for each in outcome.tables
            ],
            console=console,
        )
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
    for found in outcome.verification:
        print_table(
            ("#", "MySQL", found.counter, "MongoDB", found.counter),
            [
                (number, *("" if cell is None else cell for cell in msgspec.structs.astuple(place)))
                for number, place in enumerate(found.places, start=1)
            ],
            title=f"{found.name}: the largest, to compare",
            console=console,
        )
        if not found.equal:
            console.print(
                "They differ. Rows that are due differ until the next sync. `tallyd audit` shows other differences."
            )


def _list(console: Console, listed: list[str], count: int, style: str) -> None:
    for line in listed[:LISTED_ON_TERMINAL]:
        say(line, style, console=console)
    more = count - len(listed[:LISTED_ON_TERMINAL])
    if more > 0:
        console.print(f"… and {more:,} more (--json lists up to 1,000)")
