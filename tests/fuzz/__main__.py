"""`just fuzz`: every target, so many inputs each. An input that breaks one is kept, and its path printed.

Exit codes: 0 nothing was found; 1 something was; 2 wrong usage.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from typing import Annotated, Any

import typer

from tests.fuzz.targets import TARGETS
from tests.kit.commands import ROOT

FOLDER = ROOT / ".fuzz" / "run"
INPUT_BYTES_MAX = 4_096
ONE_INPUT_S_MAX = 10
MIB_MAX = 2_048
EXECUTED = re.compile(r"^stat::number_of_executed_units:\s*(\d+)", re.MULTILINE)
PROBLEM = re.compile(r"^ === Uncaught Python exception: ===\n(.*)", re.MULTILINE)


def main(
    names: Annotated[list[str] | None, typer.Argument(metavar="[TARGET…]", help="Default: all.")] = None,
    examples: Annotated[int, typer.Option(min=1, help="Inputs for each target.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Repeats a run's choices. 0: random.")] = 0,
) -> None:
    """Feed each target with inputs that reach new code, and check what has to hold for any input.

    Example: `just fuzz spool --examples 1000000`
    """
    chosen = [each.name for each in TARGETS if not names or each.name in names]
    if set(names or ()) - set(chosen):
        typer.echo(f"Targets: {', '.join(each.name for each in TARGETS)}", err=True)
        raise SystemExit(2)
    found = False
    for name in chosen:
        one = _run(name, examples, seed)
        found = found or "problem" in one
        typer.echo(json.dumps(one))
    raise SystemExit(1 if found else 0)


def _run(name: str, examples: int, seed: int) -> dict[str, Any]:
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    bounds = [f"-max_len={INPUT_BYTES_MAX}", f"-timeout={ONE_INPUT_S_MAX}", f"-rss_limit_mb={MIB_MAX}"]
    command = [sys.executable, "-m", "tests.fuzz.one", name, str(folder), f"-runs={examples}", f"-seed={seed}"]
    begun_s = time.monotonic()
    log = folder / "log"
    with log.open("wb") as output:
        done = subprocess.run(
            [*command, *bounds, "-print_final_stats=1", f"-artifact_prefix={folder}/"],
            cwd=ROOT, stdout=output, stderr=output, check=False,
        )  # fmt: skip
    text = log.read_text(errors="replace")
    executed = EXECUTED.search(text)
    one: dict[str, Any] = {
        "target": name,
        "inputs": int(executed[1]) if executed else 0,
        "seconds": round(time.monotonic() - begun_s, 1),
    }
    if done.returncode:
        kept = [str(path) for path in folder.iterdir() if path.name.startswith(("crash", "timeout", "oom"))]
        told = PROBLEM.search(text)
        one["problem"] = told[1] if told else text[-500:]
        one["input"] = kept
        one["log"] = str(log)
    return one


if __name__ == "__main__":
    sys.exit(typer.run(main))
