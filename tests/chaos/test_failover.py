"""The fixed part of `just chaos-cluster`: Redis comes back older under load, and each event counts once.

If a count is wrong, `play` says so.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.failover import AMEND, KILLED, NO_POWER, Trial, older
from tests.kit.system import System

LACKS_S_MAX = 0.3
STEPS = ("confirm", "ack", AMEND)


@contextmanager
def begun(system: System, folder: Path, kind: str, *, replicated: bool = False) -> Iterator[Trial]:
    dice = random.Random(kind)
    with (
        older(kind, folder) as redis,
        Trial(system, redis, dice, lacks_s_max=LACKS_S_MAX, replicated=replicated) as trial,
    ):
        yield trial
        system.audit()


@pytest.mark.parametrize("kind", ["power", "cluster"])
def test_nothing_is_lost_if_redis_comes_back_older(system: System, tmp_path: Path, kind: str) -> None:
    with begun(system, tmp_path, kind) as trial:
        trial.play()


def test_nothing_is_lost_if_a_replica_takes_over_while_a_flusher_is_at_a_step(system: System, tmp_path: Path) -> None:
    """Or if all workers are killed with the primary. Without their files, all that is lost was not confirmed."""
    with begun(system, tmp_path, "failover") as trial:
        for step in STEPS:
            trial.play(step)
        trial.play(host=KILLED)
        assert not trial.sums["lost"]
        trial.play(host=NO_POWER)
        assert trial.sums["lost"]


def test_nothing_is_lost_with_a_host_if_answers_wait_for_the_replica(system: System, tmp_path: Path) -> None:
    with begun(system, tmp_path, "failover", replicated=True) as trial:
        trial.play(host=NO_POWER)
        assert not trial.sums["lost"]
