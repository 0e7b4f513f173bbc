"""The table on the terminal, and the verdict on each row."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.measure import Row, number, spread

HELD, NOT_HELD, UNDECIDED = "held", "NOT HELD", "undecided"
STYLES = {HELD: "green", NOT_HELD: "red", UNDECIDED: "yellow", "": ""}
WIDTH_OF_A_FILE = 200

BUSY_SHARE = 0.2
"""If others had more of the cores than this, a bar that was not held is undecided: tallyd needs several processes at
once and suffers more from a full machine than a peer does."""


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar of so many steps; call what it gives at the beginning of each, with its name."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting the servers", total=total)
        begun = -1

        def begin(what: str) -> None:
            nonlocal begun
            begun += 1
            bar.update(task, description=what, completed=begun, total=max(total, begun))

        yield begin


def mark(row: Row) -> str:
    """What became of the row's bar; "" if it has none."""
    if not row.bars:
        return ""
    return HELD if row.good else UNDECIDED if row.others > BUSY_SHARE else NOT_HELD


def stdout() -> Console:
    """Where tables go; a file has no width of its own."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE)


def show(machine: dict[str, str], rows: Sequence[Row]) -> None:
    """Prints what was measured, and on what."""
    console = stdout()
    console.print("  ".join(f"[bold]{name}[/] {text}" for name, text in machine.items()))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("", "what", "tallyd", "peer", "unit", "ratio", "bar", "", "others had"):
        table.add_column(heading, no_wrap=heading != "what")
    for row in rows:
        verdict = mark(row)
        table.add_row(
            row.name,
            row.what + (f"\n[dim]against {row.peer_name}[/]" if row.peer_name else ""),
            spread(row.ours),
            spread(row.peer),
            row.unit,
            number(row.ratio) if row.peer else "",
            row.bar_text,
            f"[{STYLES[verdict]}]{verdict}[/]" if verdict else "",
            f"{row.others:.0%}" if row.others else "",
        )
    console.print(table)
    console.print("[dim]Medians (and ranges) of rounds taken in turn; a ratio is the median of the rounds' ratios.[/]")


def conclude(rows: Sequence[Row]) -> bool:
    """The last lines: every row that is not good, or that all are. Returns whether no bar was missed."""
    for row in rows:
        found = f"{number(row.value)} {row.unit}" + (f", ratio {number(row.ratio)}" if row.peer else "")
        if mark(row) == NOT_HELD:
            print(f"bench: {row.name} did NOT hold its bar: {found}; wanted {row.bar_text}.")
        elif mark(row) == UNDECIDED:
            print(
                f"bench: {row.name} is undecided: {found}; wanted {row.bar_text}; but others used {row.others:.0%} of"
                " the cores meanwhile. Run it again on a quiet machine."
            )
    marks = [mark(row) for row in rows if row.bars]
    if marks:
        print(f"bench: {marks.count(HELD)} of {len(marks)} bars held.")
    return NOT_HELD not in marks
