"""The fixed part of `just chaos-cluster`: Redis comes back older under load, and no event is counted twice."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.failover import KINDS, Trial, older
from tests.kit.system import System


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_doubled_if_redis_comes_back_older(system: System, tmp_path: Path, kind: str) -> None:
    with older(kind, tmp_path) as redis, Trial(system, redis, random.Random(kind), lacks_s_max=0.3) as trial:
        trial.play()
        assert trial.doubled == 0
        system.audit()
