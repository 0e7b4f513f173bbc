"""bench/README.md: made of README.in.md and the results, and of nothing else. `just bench` and `--page` write it."""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from bench import plots, results, table
from bench.measure import Row, number, spread
from bench.results import Result
from bench.suite import GROUPS

TEMPLATE = Path(__file__).with_name("README.in.md")
PAGE = Path(__file__).with_name("README.md")

Results = Mapping[str, Result]

BARS = (
    "single",
    "single-nginx",
    "single-fastapi",
    "batch",
    "latency",
    "flush",
    "scale",
    "scale-script",
    "replica",
    "memory",
    "durable",
    "memory-ingest",
    "scale-memory",
    "redis-cpu",
)
"""The rows that have a bar, in the order of the table that lists them all."""


PLOTS = {
    "single": "![Throughput by peer](results/throughput.svg)",
    "scale": "![Flush time by entities](results/flush.svg)",
}
"""Group → its plot on the page, which `plots.py` draws."""


def write() -> None:
    """Makes the page and the plots anew."""
    found = read_all()
    PAGE.write_text(text(found), encoding="utf-8")
    plots.write(found, results.FOLDER)


def read_all() -> dict[str, Result]:
    """The results there are, by group."""
    return {group: result for group in GROUPS if (result := results.read(group)) is not None}


def text(found: Results) -> str:
    """The page for these results."""
    rows = {row.name: row for result in found.values() for row in result.rows}
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        bars="\n".join(_bar_line(rows.get(name), name) for name in BARS),
        groups="\n\n".join(_group(group, found[group]) for group in GROUPS if group in found),
        plots="\n\n".join(line for group, line in PLOTS.items() if group in found),
        machines="\n".join(_machines(found)),
    )


def _bar_line(row: Row | None, name: str) -> str:
    if row is None:
        return f"| {name} | not measured yet | | | | | |"
    ratio = number(row.ratio) if row.peer else ""
    value = f"{number(row.value)} {row.unit}"
    peer = f"{number(median(row.peer))} {row.unit}: {row.peer_name}" if row.peer else ""
    return f"| {name} | {row.what} | {value} | {peer} | {ratio} | {row.bar_text} | {table.mark(row)} |"


def _group(group: str, result: Result) -> str:
    """All rows of a group with their ranges."""
    lines = [
        f"### {group}: {GROUPS[group].what}",
        "",
        f"{result.date}, commit {result.machine['commit']}",
        "",
        "| row | what | tallyd | peer | unit | ratio | p50 / p99 ms | others had |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result.rows:
        peer = f"{spread(row.peer)}<br>{row.peer_name}" if row.peer else ""
        ratio = number(row.ratio) if row.peer else ""
        latency = f"{row.p50_ms:g} / {row.p99_ms:g}" if row.p99_ms else ""
        others = f"{row.others:.0%}" if row.others else ""
        lines.append(
            f"| {row.name} | {row.what} | {spread(row.ours)} | {peer} | {row.unit} | {ratio} | {latency} | {others} |"
        )
    return "\n".join(lines)


def _machines(found: Results) -> list[str]:
    """Each machine, with the groups measured on it."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for group, result in found.items():
        groups.setdefault(tuple(result.machine.items()), []).append(group)
    return [
        f"- {', '.join(names)}: " + "; ".join(f"{name} {value}" for name, value in about)
        for about, names in groups.items()
    ]
