"""How commands print: JSON and tables on standard output, progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from daemon.log import neutral

if TYPE_CHECKING:
    from daemon.spool.segment import Stray

WIDTH_NO_TERMINAL = 140
STRAYS_SHOWN = 20


def wide_console() -> Console:
    """For tables that a terminal folds, and a file should not."""
    return Console(width=None if sys.stdout.isatty() else WIDTH_NO_TERMINAL)


def say(text: str, style: str = "", *, console: Console | None = None) -> None:
    """One line for a person. It may hold an id or a name that a stranger chose: nothing in it is markup."""
    (console or Console()).print(Text(neutral(text), style), soft_wrap=True)


def print_json(value: object) -> None:
    """Machine-readable output of a command."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | int]],
    *,
    title: str | None = None,
    console: Console | None = None,
) -> None:
    """A table. Whole numbers get their thousands separated."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else neutral(cell)) for cell in row))
    (console or Console()).print(table)


def print_strays(strays: Sequence[Stray], folder: str, *, console: Console | None = None) -> None:
    """Names the files of a spool that are left as they are, if there are any."""
    if strays:
        say(f"{len(strays)} files in {folder} are left as they are:", "red", console=console)
    for stray in strays[:STRAYS_SHOWN]:
        say(f"  {stray.name}: {stray.why}", console=console)
    if len(strays) > STRAYS_SHOWN:
        say(f"  … and {len(strays) - STRAYS_SHOWN} more", console=console)


def bars(*amount: ProgressColumn, shown: bool) -> Progress:
    """A bar for each task, which stays when the work is done. `amount`: how much of the task is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), *amount, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not shown)


@contextmanager
def progress(text: str, total: int | None = None, *, shown: bool = True) -> Iterator[Callable[..., None]]:
    """One line that goes away when the work is done. Nothing is shown if standard error is no terminal.

    Yields the function that moves it: `move(completed=…)` or `move(description=…)`. `total` None: it is not known.
    """
    columns: tuple[ProgressColumn, ...] = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    if total is not None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        yield partial(bar.update, bar.add_task(text, total=total))
