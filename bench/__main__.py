"""`python -m bench`: measures, prints one table, and writes the results and the README made of them.

Exit codes: 0 done; 1 a bar was not held, or something got slower; 2 wrong usage, or it could not run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench import guard, machine, page, results, suite, table
from bench.measure import Row
from bench.results import Result
from bench.settings import FULL, QUICK
from tests.kit.commands import ROOT


def main(
    *,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"Measure only this group: {', '.join(suite.GROUPS)}. Repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Leave out the groups already measured of this very commit.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of ours and the peers', in turn.")] = None,
    quick: Annotated[bool, typer.Option(help="The main rows in under a minute; writes no files.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every value there, and nowhere else.")
    ] = None,
    page_only: Annotated[
        bool, typer.Option("--page", help="Only make README.md and the plots of the results there are.")
    ] = False,
    check: Annotated[
        bool, typer.Option(help="Fail (exit code 1) if something got slower than bench/baseline.json.")
    ] = False,
    baseline: Annotated[bool, typer.Option(help="Measure bench/baseline.json anew.")] = False,
) -> None:
    """Measure tallyd on this machine against what else the machine can do.

    Everything runs here, on two cores, the load generator too. What is measured and how: bench/README.md.

    Examples:

        python -m bench                                  everything, about 15 minutes

        python -m bench --only flush --only scale        these groups again, into the same results

        python -m bench --quick                          the main rows, under a minute

        python -m bench --check                          did anything get slower?
    """
    if sum((quick, page_only, check, baseline)) > 1:
        raise typer.BadParameter("--quick, --page, --check and --baseline exclude each other")
    for name in only or ():
        if name not in suite.GROUPS:
            raise typer.BadParameter(f"there is no {name!r}; there are {', '.join(suite.GROUPS)}", param_hint="--only")
    try:
        if page_only:
            page.write()
            good = True
        elif check or baseline:
            good = guard.check() if check else guard.write_baseline(rounds)
        else:
            good = _measure(only, resume=resume, rounds=rounds, quick=quick, json_file=json_file)
    except suite.CANNOT as error:
        print(f"bench: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    raise typer.Exit(0 if good else 1)


def _measure(only: list[str] | None, *, resume: bool, rounds: int | None, quick: bool, json_file: Path | None) -> bool:
    names = only or [name for name in (suite.QUICK if quick else suite.GROUPS) if name not in suite.ON_REQUEST]
    if resume:
        commit = machine.commit(ROOT)
        names = [name for name in names if not _measured_of(name, commit)]
    settings = QUICK if quick else FULL
    if rounds is not None:
        settings = settings._replace(rounds=rounds, flush_rounds=rounds)
    found: list[Result] = []
    files = not (quick or json_file)

    def done(result: Result) -> None:
        found.append(result)
        if files:
            results.write(result)

    with table.progress(len(names)) as begin:
        failures = suite.run(names, settings, done, lambda name: begin(suite.GROUPS[name].what))
    rows: list[Row] = [row for result in found for row in result.rows]
    if found:
        table.show(found[-1].machine, rows)
    if json_file is not None:
        json_file.write_bytes(results.encode(found))
    if files:
        page.write()
    good = table.conclude(rows)
    for failure in failures:
        print(f"bench: {failure}", file=sys.stderr)
    if failures:
        raise typer.Exit(2)
    return good


def _measured_of(name: str, commit: str) -> bool:
    result = results.read(name)
    return result is not None and result.machine["commit"] == commit and not commit.endswith(machine.DIRTY)


if __name__ == "__main__":
    typer.run(main)
