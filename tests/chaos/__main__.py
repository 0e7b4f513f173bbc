"""`just chaos` and `just soak`: load, random faults, checks in between, a report.

Chaos hits as often as it can and checks after every few faults. A soak is calmer, mostly load; in its second part no
fault ends a process, so that memory can be compared over the rest of the run.
"""

from __future__ import annotations

import json
import random
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from tests.chaos.faults import ENDS_NO_PROCESS, FAULTS
from tests.chaos.memory import Sampler, growing
from tests.chaos.run import Trial, begun


class Plan(NamedTuple):
    """The pace of a run."""

    pause_s: float
    """Between two faults, on average."""
    check_s: float
    """Between two checks, at least."""
    ends_processes_share: float
    """Of the run, from its begin, in which faults may end processes."""
    events_per_s: float


CHAOS = Plan(pause_s=0.3, check_s=10.0, ends_processes_share=1.0, events_per_s=500)
SOAK = Plan(pause_s=8.0, check_s=120.0, ends_processes_share=0.35, events_per_s=600)


def run(
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 300,
    seed: Annotated[int | None, typer.Option(help="Repeats a run's choices. Default: random, and printed.")] = None,
    soak: Annotated[bool, typer.Option("--soak", help="Mostly load; memory has to stay flat, too.")] = False,
    events_per_s: Annotated[float | None, typer.Option(min=1, help="Load.")] = None,
    report: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
) -> None:
    """Put the real daemons under load, kill and freeze them and their servers, and compare every count with a model.

    Exit code 1 if anything was lost, counted twice, or grew. The data is kept then.

    Example: `just chaos --seconds 60 --seed 7`
    """
    seed = secrets.randbelow(2**32) if seed is None else seed
    plan = SOAK if soak else CHAOS
    plan = plan._replace(events_per_s=events_per_s or plan.events_per_s)
    folder = Path(tempfile.mkdtemp(prefix="tallyd-chaos-"))
    _say(f"seed {seed}, {seconds:g} s, {plan.events_per_s:g} events/s, in {folder}")
    found: dict[str, Any] = {"seed": seed, "soak": soak}
    try:
        _run(folder, plan, seed, seconds, found)
    except AssertionError as error:
        found["failure"] = str(error)
    if report is not None:
        report.write_text(json.dumps(found, indent=2) + "\n")
    _say(json.dumps(found, indent=2))
    if "failure" in found:
        _say(f"FAILED with seed {seed}: {found['failure']}\nThe data and the logs are in {folder}.")
        raise SystemExit(1)
    shutil.rmtree(folder)


def _run(folder: Path, plan: Plan, seed: int, seconds: float, found: dict[str, Any]) -> None:
    dice = random.Random(seed)
    shards = dice.choice((1, 2))
    with begun(folder, seed=seed, events_per_s=plan.events_per_s, shards=shards) as trial:
        memory = Sampler(trial.world)
        memory.start()
        started_s = time.monotonic()
        try:
            _hit(trial, plan, dice, seconds)
            trial.check()
            trial.load.pause()
            audit = trial.world.deep_audit()
            found["audit"] = {"holds": audit["holds"], "exact": audit["exact"], "rows_pending": audit["rows_pending"]}
        finally:
            memory.stop()
            found |= {
                "shards": shards,
                "seconds": round(time.monotonic() - started_s),
                "events": dict(sorted(trial.load.tally().items())),
                "lost": trial.lost,
                "doubled": trial.doubled,
                "checks": trial.checks,
                "documents_and_rows": trial.documents,
                "faults": sum(trial.inflicted.values()),
                "faults_by_kind": dict(sorted(trial.inflicted.items())),
                "replies_lost": sum(line.lost for line in trial.world.proxies.values()),
                "memory": memory.report(),
            }
        if plan is not CHAOS and plan.ends_processes_share < 1:
            grown = growing(found["memory"])
            assert not grown, f"memory is not flat: {grown}"


def _hit(trial: Trial, plan: Plan, dice: random.Random, seconds: float) -> None:
    started_s = checked_s = time.monotonic()
    while (passed_s := time.monotonic() - started_s) < seconds:
        time.sleep(min(dice.expovariate(1 / plan.pause_s), max(0.0, seconds - passed_s)))
        fault = dice.choice(FAULTS if passed_s < seconds * plan.ends_processes_share else ENDS_NO_PROCESS)
        _say(f"{passed_s:7.1f} s  {fault.name}")
        trial.inflict(fault, dice)
        if time.monotonic() - checked_s >= plan.check_s:
            trial.check()
            checked_s = time.monotonic()
            tally = dict(trial.load.tally())
            _say(f"{checked_s - started_s:7.1f} s  exact: {trial.documents} documents and rows; {tally}")


def _say(text: str) -> None:
    typer.echo(text, err=True)


if __name__ == "__main__":
    sys.exit(typer.run(run))
