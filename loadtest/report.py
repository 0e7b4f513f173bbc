"""The files of a run: JSON for programs and a self-contained page for people.

The page is Locust's own report (requests by kind, failures, charts to zoom into) under a head of ours: the verdict, the
accounts, and a second by second plot with the faults marked.
"""

from __future__ import annotations

import io
import os
import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib import metadata
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.plots import figure
from loadtest.compare import Difference, Line
from loadtest.tally import Sample, Totals

RESULTS = Path(__file__).with_name("results")
DIFFERENCES_SHOWN = 10
PACKAGES = ("tallyd", "locust", "granian", "redis", "pymongo")
STYLE = """
#accounts { font: 15px/1.45 system-ui, sans-serif; color: #18181b; background: #fff }
#accounts { padding: 24px max(24px, 50% - 480px) }
#accounts table { border-collapse: collapse; margin: 12px 0 }
#accounts td, #accounts th { padding: 3px 14px 3px 0; text-align: right; font-variant-numeric: tabular-nums }
#accounts td:first-child, #accounts th:first-child { text-align: left }
#accounts .exact { color: #15803d } #accounts .failed { color: #b91c1c }
#accounts svg { width: 100%; height: auto; margin: 10px 0 }
"""


class Mark(Struct):
    """A fault, in seconds since the load began."""

    name: str
    from_s: float
    to_s: float


class Report(Totals, kw_only=True):
    """A run. `problems`: why it failed, empty if it did not."""

    scenario: str
    about: str
    began_at: str
    machine: dict[str, str]
    users: int
    rate: float
    requests_per_s: float
    accounts: list[Line]
    entities: int
    differences: list[Difference]
    differences_more: int
    audit_holds: bool
    problems: list[str]
    marks: list[Mark]
    samples: list[Sample]

    @property
    def passed(self) -> bool:
        return not self.problems


def machine() -> dict[str, str]:
    """The machine of the figures. Names no host, user or path."""
    return {
        "cores": f"{len(os.sched_getaffinity(0))}, load generator and servers included",
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
    }


def write(report: Report, locust_page: str, folder: Path) -> tuple[Path, Path]:
    """Writes both files and returns where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{report.scenario}-{report.began_at.translate({ord(c): None for c in ':-'})}"
    data, page = folder / f"{stem}.json", folder / f"{stem}.html"
    data.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    page.write_text(_page(report, locust_page))
    return data, page


def _page(report: Report, locust_page: str) -> str:
    title = f"<title>tallyd under load: {escape(report.scenario)}</title>"
    head, body, rest = locust_page.partition("<body>")
    return head.replace("<title>Locust</title>", title, 1) + body + _accounts(report) + rest


def _accounts(report: Report) -> str:
    times = {name: [getattr(sample, f"{name}_ms") for sample in report.samples] for name in ("p50", "p95", "p99")}
    verdict = (
        '<p class="exact"><strong>Exact: every event that was answered 202 is counted once, everywhere.</strong></p>'
        if report.passed
        else "".join(f'<p class="failed"><strong>{escape(problem)}</strong></p>' for problem in report.problems)
    )
    figures = {
        "users": f"{report.users}",
        "requests": f"{report.requests:,} in {report.seconds:g} s, {report.requests_per_s:,.0f}/s",
        "events accepted": f"{report.events:,}",
        "requests failed": f"{report.failed:,}",
        "p50, p95, p99": f"{report.p50_ms:g}, {report.p95_ms:g}, {report.p99_ms:g} ms",
        **report.machine,
    }
    accounts = [
        [line.counter, *(f"{n:,}" for n in (line.accepted, line.ledger, line.flushed, line.mongo, line.mysql))]
        for line in report.accounts
    ]
    parts = [
        f'<style>{STYLE}</style><section id="accounts"><h1>{escape(report.scenario)}</h1>',
        f"<p>{escape(report.about)} {escape(report.began_at)}</p>{verdict}",
        _table(["counter", "accepted by Locust", "ledger", "flushed", "MongoDB", "MySQL"], accounts),
        *(f"<p>{escape(str(difference))}</p>" for difference in report.differences[:DIFFERENCES_SHOWN]),
        _chart("requests a second", {"requests": [sample.requests for sample in report.samples]}, report.marks),
        _chart("response times, ms", times, report.marks),
        _table(["", ""], [[name, text] for name, text in figures.items()]),
        "</section>",
    ]
    return "\n".join(parts)


def _chart(what: str, lines: Mapping[str, Sequence[float]], marks: Sequence[Mark]) -> str:
    """A value a second as an SVG element, with the faults as bands. Locust's charts smooth a fault away."""
    drawn, axes = figure()
    for name, values in lines.items():
        axes.plot(range(1, len(values) + 1), values, linewidth=1, label=name)
    for mark in marks:
        axes.axvspan(mark.from_s, max(mark.to_s, mark.from_s + 0.1), alpha=0.2, color="red")
        axes.annotate(mark.name, (mark.from_s, 1), xycoords=("data", "axes fraction"), fontsize="small")
    axes.set(xlabel="seconds", ylabel=what)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    text = io.StringIO()
    drawn.savefig(text, format="svg")
    return "<svg" + text.getvalue().partition("<svg")[2]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
