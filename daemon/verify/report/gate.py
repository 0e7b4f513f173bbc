"""Whether each of the last days has evidence of its own in which nothing differs. Called by `tallyd report gate`.

It reads the files of a report and no store. An artifact that was written after its day is no evidence of that day: its
parity is that of the day on which it was written.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from daemon.verify.report.archive import MANIFESTS
from daemon.verify.report.generate import parity_file
from daemon.verify.report.verify import verify_files


class BadDay(Struct, frozen=True):
    """`why`: how the sentence about the date goes on."""

    date: dt.date
    why: str


class Gate(Struct, frozen=True):
    """The days that were asked for, and those of them that are bad or missing, the oldest first."""

    first: dt.date
    last: dt.date
    bad: list[BadDay]


def read_gate(folder: Path, days: int, today: dt.date) -> Gate:
    """The last `days` days. Today is one of them once it has an artifact."""
    last = today if (folder / parity_file(today)).exists() else today - dt.timedelta(days=1)
    window = [last - dt.timedelta(days=back) for back in reversed(range(days))]
    problems = {problem.file: problem for problem in reversed(verify_files(folder, strict=False).problems)}
    bad = []
    for day in window:
        name = parity_file(day)
        wrong = next((problems[file] for file in (name, *MANIFESTS) if file in problems), None)
        if not (folder / name).exists():
            why: str | None = "has no artifact"
        elif wrong is not None:
            why = f"cannot be relied on: {' '.join(filter(None, wrong))}"
        else:
            why = _why(msgspec.json.decode((folder / name).read_bytes()))
        if why:
            bad.append(BadDay(day, why))
    return Gate(window[0], last, bad)


def _why(found: Mapping[str, Any]) -> str | None:
    """The bad news of an artifact that is in order. Those of other producers have no `day`."""
    written = found["generated_at"].partition("T")[0]
    day = found.get("day")
    agreement = day.get("agreement") if isinstance(day, dict) else None
    disagreements = agreement.get("disagreements") if isinstance(agreement, dict) else 0
    if found["mismatches"]:
        return f"has {found['mismatches']:,} rows that differ"
    if disagreements:
        return f"has {disagreements:,} rollups that disagree"
    if not found["checked"]:
        return "has an artifact that compared no row"
    return None if written == found["artifact_date"] else f"has an artifact of another day: it was written on {written}"
