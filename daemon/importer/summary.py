"""The result of an import, as a table for people and as plain data for `--json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.markup import escape
from rich.table import Table

from daemon.errors import StoreError
from daemon.importer.outcome import FileTally, total
from daemon.importer.session import Outcome
from daemon.log import neutral


def shown(files: Sequence[FileTally]) -> Table:
    """A block of rows for each file and, if there are several, one for their sum. Fits 80 columns."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    for each in (*files, total(files)) if len(files) > 1 else files:
        where = f"from line {each.from_line:,} " if each.format else ""
        grid.add_row("[bold]lines[/]", f"[bold]{each.lines:,}[/]", f"[bold]{escape(neutral(each.name))}[/]")
        grid.add_row("", "", f"{where}in {each.seconds:.1f} s, {_lines_per_s(each):,.0f} lines/s")
        grid.add_row("  counted", f"{each.counted:,}")
        grid.add_row("  duplicates", f"{each.duplicates:,}")
        grid.add_row("  left out", f"{each.left_out.total():,}", _by_reason(each.left_out))
        grid.add_row("  rejected", f"{each.rejected.total():,}", _by_reason(each.rejected))
        if each.unsent:
            grid.add_row("  unsent", f"{each.unsent:,}")
    return grid


def notes(outcome: Outcome, rejects: Path | None, *, again: bool, dry_run: bool) -> list[str]:
    """Notes for the person who reads the table."""
    whole = total(outcome.files)
    said = [f"{each.name}: {each.error}" for each in outcome.files if each.error]
    said += [
        f"{each.name}: nothing new, all of its {each.from_line - 1:,} lines were imported before."
        for each in outcome.files
        if not each.lines and not each.error and each.from_line > 1 and not again
    ]
    said += [
        f"{each.name}: 0 of {each.lines:,} lines counted: check [[import.routes]] and --format."
        + ("" if dry_run else " No line is marked as imported.")
        for each in outcome.files
        if each.lines and not each.events and each.from_line == 1
    ]
    said += [
        f"{each.name}: its first {each.from_line - 1:,} lines are not read again. Their ids are forgotten: they"
        " would count twice."
        for each in outcome.files
        if again and each.from_line > 1
    ]
    if dry_run:
        said.append("Dry run: nothing was counted, and what was imported before was not looked up.")
    if whole.rejected:
        said.append(f"Rejected lines are in {rejects}." if rejects else "Rejected lines were not written anywhere.")
    if whole.resent:
        said.append(
            f"{whole.resent:,} events were sent again because Redis had not answered. Those that had arrived before are"
            " among the duplicates."
        )
    if (outcome.stopped_by or isinstance(outcome.failure, StoreError)) and outcome.files and not dry_run:
        said.append("What was counted is recorded. Run the same command again to go on from there.")
    return said


def plain(outcome: Outcome, rejects: Path | None, *, dry_run: bool) -> dict[str, Any]:
    return {
        "files": [_plain(each) for each in outcome.files],
        "total": {name: value for name, value in _plain(total(outcome.files)).items() if name not in _OF_ONE_FILE},
        "rejects": None if rejects is None else str(rejects),
        "dry_run": dry_run,
        "stopped_by": outcome.stopped_by.name if outcome.stopped_by else None,
        "failure": str(outcome.failure) if outcome.failure else None,
    }


_OF_ONE_FILE = ("name", "format", "from_line", "error")


def _plain(tally: FileTally) -> dict[str, Any]:
    return {**msgspec.to_builtins(tally), "lines_per_second": round(_lines_per_s(tally))}


def _by_reason(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common())


def _lines_per_s(tally: FileTally) -> float:
    return tally.lines / tally.seconds if tally.seconds else 0.0
