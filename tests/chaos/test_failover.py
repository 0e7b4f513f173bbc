"""The fixed part of `just chaos-cluster`: Redis comes back older under load, and no event is counted twice."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.failover import AMEND, KINDS, Trial, older
from tests.kit.system import System

LACKS_S_MAX = 0.3
STEPS = ("freeze", "journal", "advance", "ack", AMEND)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_doubled_if_redis_comes_back_older(system: System, tmp_path: Path, kind: str) -> None:
    with older(kind, tmp_path) as redis, Trial(system, redis, random.Random(kind), lacks_s_max=LACKS_S_MAX) as trial:
        trial.play()
        assert trial.sums["doubled"] == 0
        system.audit()


def test_nothing_is_doubled_if_a_replica_takes_over_while_a_flusher_is_at_a_step(
    system: System, tmp_path: Path
) -> None:
    with older("failover", tmp_path) as redis, Trial(system, redis, random.Random(1), lacks_s_max=LACKS_S_MAX) as trial:
        for step in STEPS:
            trial.play(step)
        assert trial.sums["doubled"] == 0
        system.audit()
