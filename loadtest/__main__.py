"""`python -m loadtest SCENARIO`, or `just load SCENARIO`.

Exit codes: 0 every count is exact and every answer was right; 1 not so; 2 wrong usage, or a server is missing.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from daemon.errors import TallydError
from loadtest import report, scenarios
from loadtest.report import Report
from loadtest.run import Plan, Watcher, run
from loadtest.tally import Sample

SECONDS_DEFAULT = 60.0
LINE_EVERY_S = 10
"""How often progress is said where no bar can be drawn."""

out = Console(highlight=False)
progress = Console(stderr=True, highlight=False)


def main(
    scenario: Annotated[str | None, typer.Argument(metavar="SCENARIO", help="Without one, they are listed.")] = None,
    seconds: Annotated[float, typer.Option(min=1, max=86_400, help="How long the load lasts.")] = SECONDS_DEFAULT,
    users: Annotated[
        int | None, typer.Option(min=1, max=2_000, help="Clients, each with a connection. Default: the scenario's.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0, max=1_000_000, help="Requests a second; 0: as fast as they can. Default: the scenario's."),
    ] = None,
    results: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the JSON and the page go.", file_okay=False)
    ] = report.RESULTS,
) -> None:
    """Put a fresh tallyd under load and settle the accounts: what was accepted is in the ledger, in MongoDB and in
    MySQL, entity by entity, or it fails.

    Ctrl-C ends the load early; the accounts are settled all the same.

    Example: `just load redis_outage --seconds 30`
    """
    if scenario is None:
        _list()
        return
    chosen = scenarios.BY_NAME.get(scenario)
    if chosen is None:
        names = ", ".join(scenarios.BY_NAME)
        raise typer.BadParameter(f"there is no {scenario!r}; there are {names}", param_hint="SCENARIO")
    plan = Plan(chosen, seconds, users or chosen.users, chosen.rate if rate is None else rate)
    folder = Path(tempfile.mkdtemp(prefix="tallyd-load-"))
    try:
        with _stopping() as stopping, _watcher(plan) as watcher:
            done, page = run(plan, folder, watcher, stopping)
    except TallydError as error:
        print(f"loadtest: {error}\nThe data and the logs are in {folder}.", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    files = report.write(done, page, results)
    _show(done, files)
    if not done.passed:
        print(f"The data and the logs are in {folder}.", file=sys.stderr)
        raise typer.Exit(1)
    shutil.rmtree(folder)


def _list() -> None:
    table = Table("scenario", "what it does", "users", "requests/s", box=None)
    for each in scenarios.SCENARIOS:
        table.add_row(each.name, each.about, f"{each.users}", f"{each.rate:,.0f}")
    out.print(table)


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set: nothing is interrupted, everything is ended in order."""
    stopping = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _watcher(plan: Plan) -> Iterator[Watcher]:
    """A bar on a terminal, lines elsewhere."""
    if not progress.is_terminal:
        yield Watcher(lambda phase: progress.print(f"{plan.scenario.name}: {phase}"), _print_some)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, console=progress, transient=True) as bar:
        task = bar.add_task(plan.scenario.name, total=plan.seconds, words="")
        yield Watcher(
            lambda phase: bar.update(task, description=f"{plan.scenario.name}: {phase}"),
            lambda sample: bar.update(task, completed=sample.second, words=_words(sample)),
        )


def _print_some(sample: Sample) -> None:
    if sample.second % LINE_EVERY_S == 0:
        progress.print(_words(sample))


def _words(sample: Sample) -> str:
    failed = f"  {sample.failed:,} failed" if sample.failed else ""
    return (
        f"{sample.second:4} s  {sample.requests:,} requests/s  {sample.events:,} events/s  "
        f"p50 {sample.p50_ms:g} ms  p99 {sample.p99_ms:g} ms{failed}"
    )


def _show(done: Report, files: tuple[Path, ...]) -> None:
    out.print(
        f"{done.scenario}: {done.requests:,} requests in {done.seconds:g} s ({done.requests_per_s:,.0f}/s),"
        f" {done.events:,} events accepted, p50 {done.p50_ms:g} ms, p95 {done.p95_ms:g} ms, p99 {done.p99_ms:g} ms"
    )
    for mark in done.marks:
        out.print(f"{mark.name} from {mark.from_s:.1f} s to {mark.to_s:.1f} s")
    table = Table("counter", "accepted by Locust", "ledger", "flushed", "MongoDB", "MySQL")
    for line in done.accounts:
        amounts = (line.accepted, line.ledger, line.flushed, line.mongo, line.mysql)
        table.add_row(line.counter, *(f"{amount:,}" for amount in amounts))
    out.print(table)
    for problem in done.problems:
        out.print(problem, style="red", markup=False)
    if done.passed:
        out.print(f"Exact: {done.entities:,} entities compared, in MongoDB and in MySQL.", style="green")
    for file in files:
        out.print(str(file), style="dim", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
