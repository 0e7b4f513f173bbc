"""`tallyd doctor`: what is wrong with the stores and this machine, and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, run
from daemon.cli.output import print_json, say
from daemon.cli.record import RecordOption, recorded
from daemon.config import secret_files
from daemon.errors import CheckFailed

if TYPE_CHECKING:
    from daemon.doctor.finding import Finding

STYLES = {"ok": "green", "warning": "yellow", "fatal": "bold red", "unknown": "dim"}


def doctor(
    config: ConfigOption = None,
    data: DataOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail, too.")] = False,
    record: RecordOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check the stores and this machine. Explain each finding, and how to mend it. Exit code 1 if one is fatal.

    It deletes what it writes to try the stores. Run it where the daemons run, as their user.

    Example: `tallyd doctor --strict`
    """
    from daemon.doctor.checks import run_all

    loaded = load(config, data, "redis", "mongo")
    with recorded(loaded, "doctor", wanted=record) as kept:
        findings = run(run_all(loaded, secret_files(config, data=data)))
        if as_json:
            print_json(findings)
        else:
            _print(findings, Console())
        sums = {severity: sum(each.severity == severity for each in findings) for severity in STYLES}
        kept.figures |= sums
        kept.summary = f"{len(findings)} checks: {sums['warning']} warnings, {sums['unknown']} not known."
        if sums["fatal"] or (strict and sums["warning"]):
            raise CheckFailed(f"{sums['fatal']} fatal, {sums['warning']} warnings.")


def _print(findings: Sequence[Finding], console: Console) -> None:
    table = Table("check", "result", "found")
    store = ""
    for each in findings:
        before, store = store, each.check.partition(".")[0]
        if before and before != store:
            table.add_section()
        table.add_row(each.check, Text(each.severity, STYLES[each.severity]), Text(each.found))
    console.print(table)
    for severity in ("unknown", "warning", "fatal"):  # the worst last, where the eye is
        for each in findings:
            if each.severity == severity and each.fix:
                _explain(each, console)
    console.print()
    say(*_verdict(findings), console=console)


def _verdict(findings: Sequence[Finding]) -> tuple[str, str]:
    """The last line, and its style."""
    sums = {severity: sum(each.severity == severity for each in findings) for severity in STYLES}
    if sums["ok"] == len(findings):
        return f"All is well: {len(findings)} checks, all ok.", STYLES["ok"]
    words = {"ok": "ok", "warning": "warning" if sums["warning"] == 1 else "warnings", "unknown": "not known"}
    counted = ", ".join(f"{number} {words.get(severity, severity)}" for severity, number in sums.items() if number)
    if sums["fatal"]:
        return f"Not fit to run: counts would be lost, wrong or stuck. {len(findings)} checks: {counted}.", STYLES[
            "fatal"
        ]
    return f"Fit to run. {len(findings)} checks: {counted}.", STYLES["warning"]


def _explain(finding: Finding, console: Console) -> None:
    """As lines that can be copied: without borders and breaks."""
    console.print()
    head = Text.assemble((finding.severity, STYLES[finding.severity]), f" {finding.check}: {finding.found}")
    console.print(head, soft_wrap=True)
    if finding.why:
        console.print(Text(f"  why: {finding.why}"), soft_wrap=True)
    console.print(Text(f"  fix: {finding.fix}"), soft_wrap=True)
