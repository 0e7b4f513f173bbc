"""`python -m bench`: runs the benchmarks and prints one table.

Exit codes: 0 done; 1 a bar was not held; 2 wrong usage, or it could not run.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from bench import batch, flush, machine, memory, parts, reads, single, wrk
from bench.ground import ROOT, Ground, GroundError, raised
from bench.measure import Row, spread
from bench.settings import CHECK, FULL, Settings
from daemon.errors import TallydError

BENCHMARKS: dict[str, Callable[[Ground, Settings], list[Row]]] = {
    "single": single.measure,
    "batch": batch.measure,
    "flush": flush.measure,
    "memory": memory.measure,
    "reads": reads.measure,
}
ON_REQUEST = ("reads",)
"""Run only with --only: filling MongoDB takes minutes."""
PARTS = "parts"
NAMES = (*BENCHMARKS, PARTS)

CHECK_TOLERANCE = 0.9
CHECK_ATTEMPTS = 3
"""A machine that does something else at the same time must not fail the check; a real loss fails it three times."""

BUSY_SHARE = 0.2
"""If others had more of the cores than this, a bar that was not held is undecided: tallyd needs several processes at
once and suffers more from a full machine than the bare peer does."""

HELD, NOT_HELD, UNDECIDED = "held", "NOT HELD", "undecided"
STYLES = {HELD: "green", NOT_HELD: "red", UNDECIDED: "yellow"}
WIDTH_OF_A_FILE = 200

_progress = Console(stderr=True, highlight=False, style="dim")


CANNOT = (wrk.WrkError, GroundError, TallydError)


class Report(msgspec.Struct):
    """What `--json` writes."""

    machine: dict[str, str]
    rows: list[Row]


def main(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="A short run that fails (exit code 1) if a bar is not held.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help=f"Run only this one: {', '.join(NAMES)}. Repeatable.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of ours and the peer's, in turn.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write every value there.")] = None,
) -> None:
    """Measure tallyd on this machine against what the machine does bare.

    Everything runs here, the load generator too, on two cores. What is measured and how: bench/README.md.

    Example: python -m bench --only single --only flush --rounds 9
    """
    usual = [name for name in (BENCHMARKS if check else NAMES) if name not in ON_REQUEST]
    names = tuple(only or usual)
    for name in names:
        if name not in NAMES:
            raise typer.BadParameter(f"there is no {name!r}; there are {', '.join(NAMES)}", param_hint="--only")
    settings = CHECK if check else FULL
    if rounds is not None:
        settings = settings._replace(rounds=rounds, flush_rounds=rounds)
    failures: list[str] = []
    try:
        about, rows = _run(names, settings, failures, attempts_max=CHECK_ATTEMPTS if check else 1)
    except CANNOT as error:
        print(f"bench: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    marks = {row.name: _mark(row, check=check) for row in rows}
    _show(about, rows, marks)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(Report(about, rows)), indent=1) + b"\n")
    _conclude(rows, marks)
    for failure in failures:
        print(f"bench: {failure}", file=sys.stderr)
    raise typer.Exit(2 if failures else 1 if NOT_HELD in marks.values() else 0)


def _run(
    names: tuple[str, ...], settings: Settings, failures: list[str], *, attempts_max: int
) -> tuple[dict[str, str], list[Row]]:
    """The machine and the rows. A benchmark that could not run is named in `failures`, and the others go on."""
    for variable in [name for name in os.environ if name.startswith("TALLYD_") and "_STACK_" not in name]:
        del os.environ[variable]  # what is measured is the default configuration
    machine.take_cores()
    wrk.program()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tallyd-bench-") as folder, raised(Path(folder)) as ground:
        about = machine.describe(ground.stack, ROOT)
        for name in names:
            try:
                rows += parts.measure() if name == PARTS else _attempts(name, ground, settings, attempts_max)
            except CANNOT as error:
                failures.append(f"{name} could not be measured. {error}")
    return about, rows


def _attempts(name: str, ground: Ground, settings: Settings, attempts_max: int) -> list[Row]:
    """The rows of the first attempt in which all are good, else of the last."""
    rows: list[Row] = []
    for attempt in range(1, attempts_max + 1):
        _progress.print(f"{name} …" + (f" again, attempt {attempt}" if attempt > 1 else ""))
        rows = BENCHMARKS[name](ground, settings)
        if all(row.good(ratios_only=True, tolerance=CHECK_TOLERANCE) for row in rows):
            break
    return rows


def _mark(row: Row, *, check: bool) -> str:
    if not row.bars:
        return ""
    if row.good(ratios_only=True, tolerance=CHECK_TOLERANCE) if check else row.good():
        return HELD
    return UNDECIDED if row.others > BUSY_SHARE else NOT_HELD


def _show(about: dict[str, str], rows: list[Row], marks: dict[str, str]) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE)
    console.print("  ".join(f"[bold]{name}[/] {text}" for name, text in about.items()))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("", "what", "tallyd", "peer", "unit", "ratio", "bar", "", "others had"):
        table.add_column(heading, no_wrap=heading != "what")
    for row in rows:
        table.add_row(
            row.name,
            row.what + (f"\n[dim]against {row.peer_name}[/]" if row.peer_name else ""),
            spread(row.ours),
            spread(row.peer),
            row.unit,
            f"{row.ratio:.2f}" if row.peer else "",
            row.bar_text,
            f"[{STYLES[marks[row.name]]}]{marks[row.name]}[/]" if marks[row.name] else "",
            f"{row.others:.0%}" if row.others else "",
        )
    console.print(table)
    console.print("[dim]Medians (and ranges) of rounds taken in turn; a ratio is the median of the rounds' ratios.[/]")


def _conclude(rows: list[Row], marks: dict[str, str]) -> None:
    """The last lines: every row that is not good, or that all are."""
    for row in rows:
        found = f"{row.value:,.1f} {row.unit}" + (f", ratio {row.ratio:.2f}" if row.peer else "")
        if marks[row.name] == NOT_HELD:
            print(f"bench: {row.name} did NOT hold its bar: {found}; wanted {row.bar_text}.")
        elif marks[row.name] == UNDECIDED:
            print(
                f"bench: {row.name} is undecided: {found}; wanted {row.bar_text}; but others used {row.others:.0%} of"
                " the cores meanwhile. Run it again on a quiet machine."
            )
    judged = [mark for mark in marks.values() if mark]
    print(
        f"bench: {judged.count(HELD)} of {len(judged)} bars held."
        if judged
        else "bench: done; none of these has a bar."
    )


if __name__ == "__main__":
    typer.run(main)
