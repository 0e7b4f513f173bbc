"""The regression guard: is anything dearer than in bench/baseline.json, beyond what the machine's noise explains?

Each figure is a cost of tallyd over a calibration measured in the same rounds, so a slower machine changes neither. Of
both the smallest of all rounds counts: whatever else the machine does can only add to a cost. While a figure is too
high, more rounds are measured, as long as the time lasts; noise goes away by that, a loss does not.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.table import Table

from bench import machine, table, wrk
from bench.costs import Costs, Meter
from bench.ground import GroundError, forget_configuration, raised
from bench.results import encode
from tests.kit.commands import ROOT

BASELINE = Path(__file__).with_name("baseline.json")
ROUNDS = 3
ROUNDS_OF_BASELINE = 10
TIME_S = 120
"""No further round is begun after this, so all is over in three minutes; on a busy machine, with fewer rounds."""

WORKER, FLUSHER, STORE, SHORT, WALL, BYTES = 1.4, 1.6, 1.35, 1.8, 2.0, 1.1
"""How many times the baseline a figure may be: CPU time of a Python process; of Redis and mongod; of Redis where there
is little of it; time on the clock; bytes. See bench/README.md for the noise these were chosen by."""


class Watched(NamedTuple):
    """`cost` over `calibration`, both named as in costs.py."""

    cost: str
    calibration: str
    tolerance: float
    what: str


WATCHED: dict[str, Watched] = {
    "single-cpu": Watched("single_worker", "bare_worker", WORKER, "the worker's CPU time for a single event"),
    "single-redis": Watched("single_redis", "redis_plain", STORE, "Redis' CPU time for a single event"),
    "single-wall": Watched("single_wall", "bare_wall", WALL, "time for a single event"),
    "batch-cpu": Watched("batch_worker", "bare_worker", WORKER, "the worker's CPU time for an event in a batch"),
    "batch-redis": Watched("batch_redis", "redis_plain", STORE, "Redis' CPU time for an event in a batch"),
    "batch-wall": Watched("batch_wall", "bare_wall", WALL, "time for an event in a batch"),
    "flush-cpu": Watched("flush_cpu", "plain_cpu", FLUSHER, "the flusher's CPU time for an entity"),
    "flush-redis": Watched("flush_redis", "redis_plain", SHORT, "Redis' CPU time for flushing an entity"),
    "flush-mongo": Watched("flush_mongo", "plain_mongo", STORE, "MongoDB's CPU time for an entity"),
    "flush-wall": Watched("flush_wall", "plain_wall", WALL, "time for flushing an entity"),
    "growth-cpu": Watched("flush_many_cpu", "flush_few_cpu", FLUSHER, "the flusher's, of 20,000 against of 2,000"),
    "growth-redis": Watched("flush_many_redis", "flush_few_redis", SHORT, "Redis', of 20,000 against of 2,000"),
    "dedupe-bytes": Watched("dedupe_bytes", "string_bytes", BYTES, "dedupe memory for an event"),
}


class Baseline(msgspec.Struct, frozen=True):
    """What was measured on a quiet machine. `figures`: name → cost over calibration."""

    machine: dict[str, str]
    figures: dict[str, float]


def figures(costs: Costs) -> dict[str, float]:
    """Each watched cost as a multiple of its calibration."""
    return {name: min(costs[each.cost]) / min(costs[each.calibration]) for name, each in WATCHED.items()}


def lost(found: dict[str, float], baseline: dict[str, float]) -> list[str]:
    """The names of the figures beyond what is tolerated."""
    return [name for name, each in WATCHED.items() if found[name] > baseline[name] * each.tolerance]


def check() -> bool:
    """Measures, prints and compares. Raises GroundError without a baseline of all that is watched."""
    baseline = _baseline()
    found, rounds, _ = _measure(ROUNDS, baseline)
    _show(found, baseline)
    losses = lost(found, baseline)
    for name in losses:
        each = WATCHED[name]
        print(
            f"bench: {name} is lost: {each.what} is {found[name] / baseline[name]:.2f} times what it was;"
            f" {each.tolerance:g} is tolerated."
        )
    print(f"bench: {len(WATCHED) - len(losses)} of {len(WATCHED)} figures held, in {rounds} rounds.")
    return not losses


def write_baseline(rounds: int | None) -> bool:
    """Measures bench/baseline.json anew."""
    found, _, about = _measure(rounds or ROUNDS_OF_BASELINE, None)
    BASELINE.write_bytes(encode(Baseline(about, {name: round(figure, 4) for name, figure in found.items()})))
    _show(found, found)
    return True


def _baseline() -> dict[str, float]:
    known: dict[str, float] = {}
    if BASELINE.exists():
        known = msgspec.json.decode(BASELINE.read_bytes(), type=Baseline).figures
    if missing := WATCHED.keys() - known.keys():
        raise GroundError(
            f"bench/baseline.json has no {', '.join(sorted(missing))}: make it with `just bench-baseline` on a quiet"
            " machine."
        )
    return known


def _measure(rounds: int, baseline: dict[str, float] | None) -> tuple[dict[str, float], int, dict[str, str]]:
    """The figures, the rounds it took, and the machine. Against a baseline, more rounds while something is lost."""
    forget_configuration()
    machine.take_cores()
    wrk.program()
    started = time.monotonic()
    with (
        table.progress(rounds + 1) as begin,
        tempfile.TemporaryDirectory(prefix="tallyd-bench-") as folder,
        raised(Path(folder)) as ground,
    ):
        about = machine.describe(ground.stack, ROOT)
        meter = Meter(ground)
        try:
            begin("preparing")
            meter.prepare()
            measured = 0
            while not measured or (
                time.monotonic() - started < TIME_S
                and (measured < rounds or (baseline and lost(figures(meter.costs), baseline)))
            ):
                begin(f"round {measured + 1}")
                meter.round()
                measured += 1
            return figures(meter.costs), measured, about
        finally:
            meter.close()


def _show(found: dict[str, float], baseline: dict[str, float]) -> None:
    printed = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("", "what", "over its calibration", "baseline", "times", "tolerated"):
        printed.add_column(heading)
    for name, each in WATCHED.items():
        printed.add_row(
            name,
            each.what,
            f"{found[name]:.3f}",
            f"{baseline[name]:.3f}",
            f"{found[name] / baseline[name]:.2f}",
            f"{each.tolerance:g}",
        )
    table.stdout().print(printed)
