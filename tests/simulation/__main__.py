"""`just simulate`: 100 nodes and small worlds with new seeds, for minutes. It stops at the first wrong count.

A seed that is printed plays the same again: `just simulate --seed 7 --seconds 1`.
"""

from __future__ import annotations

import secrets
import time
from typing import Annotated, NamedTuple

import typer

from tests.simulation.world import ONE_SHARD, SPLIT, Faults, Outcome, Size, World


class Kind(NamedTuple):
    """`may_be_held`: some faults of it are none that a crash explains."""

    size: Size
    faults: Faults
    may_be_held: bool = False


KINDS = {
    "100 nodes": Kind(Size(), Faults()),
    "one shard": Kind(ONE_SHARD, Faults()),
    "isolated primaries": Kind(ONE_SHARD, SPLIT, may_be_held=True),  # several in a row fall back further than one
    "no replicas": Kind(ONE_SHARD._replace(replicas=0), Faults()),
    "Redis loses its memory": Kind(ONE_SHARD, Faults(wipe=10)),
    "MongoDB is restored": Kind(ONE_SHARD, Faults(mongo_older=10), may_be_held=True),
    "a stale replica takes over": Kind(ONE_SHARD, Faults(take_over_stale=10), may_be_held=True),
    "100 nodes, all of it": Kind(Size(), Faults(wipe=1, mongo_older=1, take_over_stale=1), may_be_held=True),
}


def main(
    seconds: Annotated[float, typer.Option(min=1, help="For how long.")] = 180,
    seed: Annotated[int | None, typer.Option(help="The first seed.")] = None,
) -> None:
    """Simulate 100 nodes that fail as they please, and compare every count."""
    first = secrets.randbelow(10**9) if seed is None else seed
    typer.echo(f"seeds from {first}")
    until, worlds = time.monotonic() + seconds, 0
    tallies: dict[str, list[Outcome]] = {name: [] for name in KINDS}
    while time.monotonic() < until:
        for name, kind in KINDS.items():
            for _ in range(1 if kind.size == Size() else 20):
                outcome = World(first + worlds, kind.size, kind.faults).run()
                if not outcome.is_exact or (outcome.held and not kind.may_be_held):
                    typer.echo(f"WRONG: {name}, seed {first + worlds}: {outcome}")
                    raise typer.Exit(1)
                tallies[name].append(outcome)
                worlds += 1
    for name, outcomes in tallies.items():
        acknowledged, faults = (
            sum(each.acknowledged for each in outcomes),
            sum(each.faults.total() for each in outcomes),
        )
        held, excused = sum(bool(each.held) for each in outcomes), sum(each.excused for each in outcomes)
        typer.echo(
            f"{name}: {len(outcomes):,} worlds, {faults:,} faults, {acknowledged:,} events acknowledged, 0 lost,"
            f" 0 doubled; {excused:,} that a loss of memory may take; {held:,} worlds with a held shard"
        )


if __name__ == "__main__":
    typer.run(main)
