"""`just attack`: each attack on a fresh system beside legitimate traffic, and whether the bars are held.

Exit codes: 0 every bar was held; 1 not so; 2 wrong usage.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from bench import machine
from tests.attack import figures, trial
from tests.attack.attacks import ATTACKS
from tests.attack.figures import Found, Results
from tests.attack.trial import Times
from tests.kit.commands import ROOT
from tests.kit.servers import Stack

NOT_OF_THIS = ("wrk",)
"""Parts of the machine's description that no attack uses."""


def main(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME…]", help="Default: all.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long each attack lasts.")] = Times().attack,
    calm: Annotated[float, typer.Option(min=1, help="How long the calm before it is.")] = Times().calm,
    list_: Annotated[bool, typer.Option("--list", help="Show the attacks, and do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON for each attack.")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Put what is found into bench/results and the table of ops/SECURITY.md.")
    ] = False,
) -> None:
    """Attack the running daemon, while 150 events a second of other addresses have to be answered as before.

    Example: `just attack half-bodies --seconds 20`
    """
    unknown = set(names or ()) - {each.name for each in ATTACKS}
    if list_ or unknown:
        for each in ATTACKS:
            typer.echo(f"{each.name:26} {each.probe:5} {each.says}")
        raise SystemExit(2 if unknown else 0)
    chosen = [each for each in ATTACKS if not names or each.name in names]
    found: list[Found] = []
    with tempfile.TemporaryDirectory(prefix="tallyd-attack-") as folder, Stack(Path(folder) / "stack") as stack:
        about = machine.describe(stack, ROOT) if write else {}
        for each in chosen:
            one = trial.run(each, stack, Path(folder) / each.name, Times(calm=calm, attack=seconds))
            found.append(one)
            if write:  # at once: a run takes most of an hour
                _keep({name: text for name, text in about.items() if name not in NOT_OF_THIS}, one)
            typer.echo(figures.line(one) if as_json else _row(one))
    raise SystemExit(1 if any(each.misses for each in found) else 0)


def _keep(about: dict[str, str], one: Found) -> None:
    """It replaces what was found of this attack before."""
    old = figures.read() if figures.RESULTS.exists() else Results(date="", machine={}, found=[])
    merged = {each.attack: each for each in [*old.found, one]}
    ordered = [merged[each.name] for each in ATTACKS if each.name in merged]
    figures.write(msgspec.structs.replace(old, date=figures.today(), machine=about, found=ordered))


def _row(found: Found) -> str:
    return (
        f"{found.attack:26} 202 {found.attacked.share:7.2%}  p99 {found.calm.p99_ms:g} -> {found.attacked.p99_ms:g} ms"
        f"  gap {found.attacked.gap_ms:g} ms  {found.before_mib:.0f} -> {found.peak_mib:.0f} MiB"
        f"  {'; '.join(found.misses) or 'held'}"
    )


if __name__ == "__main__":
    sys.exit(typer.run(main))
