"""A trial: a world, the load on it, the model, faults, and the comparison with the expected counts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from tests.chaos.faults import Fault
from tests.chaos.load import MOVIES, Load
from tests.chaos.world import World, raised
from tests.kit.oracle import COUNTERS, Document, Model, differences, replica

DIFFERENCES_SHOWN = 10


class Trial:
    """Create it with `begun`. The load runs whenever no check does."""

    def __init__(self, world: World, load: Load) -> None:
        self.world = world
        self.load = load
        self.inflicted: Counter[str] = Counter()
        self.checks = 0
        self.lost = self.doubled = 0
        """Amounts missing from the totals, and amounts too many, when a check last looked."""
        self.documents = 0
        """Documents and rows the last check compared."""

    def inflict(self, fault: Fault, dice: random.Random) -> None:
        """Applies one fault under load, and brings everything up again."""
        try:
            fault.act(self.world, dice)
        finally:
            self.world.up()
        self.inflicted[fault.name] += 1

    def check(self) -> None:
        """Compares everything with the model, exactly. AssertionError if there is a difference."""
        world, load = self.world, self.load
        load.pause()
        world.drain()
        fate, accepted = load.fate(), world.accepted()
        for counter in COUNTERS:
            least, most = fate.acked[counter], fate.acked[counter] + fate.unknown[counter]
            assert least <= accepted[counter] <= most, f"{counter}: {accepted[counter]} not in {least} … {most}"
        load.resend()
        world.drain()
        assert not load.trouble, load.trouble
        found, rows = world.documents(), world.replica()
        expected = load.model.rollups(found)
        wrong = list(differences(expected, found))
        wrong += differences({"jav": replica(expected["totals"], MOVIES)}, {"jav": rows})
        self.lost, self.doubled = _lost_and_doubled(expected["totals"], found["totals"])
        assert not wrong, f"{len(wrong)} differences:\n" + "\n".join(islice(wrong, DIFFERENCES_SHOWN))
        assert world.dead_letters() == 0
        ledger, sent = world.ledger(), load.model.totals()
        for counter, amount in sent.items():
            booked = [ledger.get(f"{name}:{counter}", 0) for name in ("accepted", "flushed")]
            assert booked == [amount, amount], f"{counter}: sent {amount}, accepted and flushed {booked}"
        self.checks += 1
        self.documents = sum(len(documents) for documents in found.values()) + len(rows)
        load.resume()


def _lost_and_doubled(expected: Mapping[str, Document], found: Mapping[str, Document]) -> tuple[int, int]:
    lost = doubled = 0
    for id_ in expected.keys() | found.keys():
        for counter in COUNTERS:
            difference = found.get(id_, {}).get(counter, 0) - expected.get(id_, {}).get(counter, 0)
            lost, doubled = lost + max(0, -difference), doubled + max(0, difference)
    return lost, doubled


@contextmanager
def begun(path: Path, *, seed: int, events_per_s: float, shards: int = 1, **settings: str) -> Iterator[Trial]:
    """A trial whose load has begun."""
    with raised(path, shards=shards, **settings) as world:
        world.add_movies(*MOVIES)
        load = Load(world.serving.port, Model(), seed=seed, events_per_s=events_per_s)
        load.start()
        try:
            yield Trial(world, load)
        finally:
            load.stop()
