"""The pause before a next attempt. Many processes that lost one store at one moment must not ask it again in step."""

from __future__ import annotations

import random

_dice = random.SystemRandom()  # two workers are forks of one process


def jittered(pause_s: float) -> float:
    """From half of this pause to all of it, in seconds, another one each time."""
    return _dice.uniform(pause_s / 2, pause_s)
