"""Every attack for two seconds, on one pair of daemons: who was held up, what the attackers got, and every count.

`just attack` does the same for a minute each, and measures times and memory. Here only counts and answers are compared.
The attack from a whole IPv6 network needs root: it is left to `just attack`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from daemon.config import Config
from tests.attack import crowd, planted, trial
from tests.attack.attacks import ATTACKS, Attack
from tests.attack.figures import ANSWER_BYTES_MAX
from tests.attack.legit import Answered, Legit
from tests.attack.world import World, raised
from tests.kit.servers import Stack

SECONDS = 2.0
PLANTED_SHARE = 0.03
HERE = [attack for attack in ATTACKS if not attack.namespace]
EXPECTED = {"202", "400", "404", "408", "413", "422", "429", "200", "401", "not read", "held", "closed", "cut off"}
"""Statuses of answers, and why there was none. A time-out is nowhere among them, nor is 500 or 503."""
UNAVAILABLE = (
    "reads-of-a-frozen-mongod", "summary-variants", "top-variants", "series-of-nothing", "totals-of-nothing",
    "fresh-totals", "many-days",
)  # fmt: skip
"""Reads of a store that is away, or of which few are asked at once: these may get 503."""


class Ran(NamedTuple):
    """What was sent to the daemons so far."""

    legit: list[Answered]
    acked: list[int]
    unknown: list[int]
    asked: list[int]


@pytest.fixture(scope="module")
def world(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One system for all attacks, with the settings and the number of files of all of them."""
    with raised(stack, tmp_path_factory.mktemp("world")) as world:
        planted.ninety_days(world, PLANTED_SHARE)
        for attack in HERE:
            world.env |= {f"TALLYD_{key}": value for key, value in attack.settings.items()}
        command = next(attack.command for attack in HERE if attack.name == "idle-and-few-files")
        with world.daemons(command):
            yield world


@pytest.fixture(scope="module")
def ran() -> Ran:
    return Ran([], [], [], [])


@pytest.mark.parametrize("attack", HERE, ids=[attack.name for attack in HERE])
def test_nobody_else_is_refused_or_forgotten_during(attack: Attack, world: World, ran: Ran, tmp_path: Path) -> None:
    port, block = world.ingest.port, 1 + HERE.index(attack)
    with Legit(port, tmp_path / "legit", block=block) as senders:
        with contextlib.nullcontext() if attack.meanwhile is None else attack.meanwhile(world):
            begun_s = time.monotonic()
            sent = trial.attacked(attack, port, block, SECONDS)
        ended_s = time.monotonic()
        addresses = (f"127.0.200.{block}", crowd.source(block))
        released = asyncio.run(trial.released_after(port, addresses, ended_s))
        answered = senders.stop()
    minutes = 1 + (time.monotonic() - begun_s) / 60
    ran.legit.extend(answered)
    ran.acked.append(sent.acked)
    ran.unknown.append(sent.unknown)
    ran.asked.extend(each.asked for each in released)
    assert [each for each in answered if each.status != 202] == []
    assert sent.outcomes.keys() <= EXPECTED | ({"503"} if attack.name in UNAVAILABLE else set())
    assert all(each.taken for each in released)
    assert sent.acked <= attack.senders * Config().rate_limit.per_minute * minutes
    if attack.name in trial.ALWAYS_REFUSED:
        assert sent.acked == 0
        assert sent.answer_bytes_max <= ANSWER_BYTES_MAX


def test_every_count_is_exact_in_the_end(world: World, ran: Ran) -> None:
    world.drain()
    assert sum(world.legit_views().values()) == len(ran.legit)
    least = len(ran.legit) + sum(ran.acked)
    assert least <= world.views() <= least + sum(ran.unknown) + sum(ran.asked)
    assert world.audit()["exact"]
