"""Actions: what a client may report, and what each does to the counters.

The client names an action and a value, never a counter. An action turns them, with the event's bucket of the finest
rollup, into an effect: the increments one event makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from daemon.domain.counter import field_name

Step = Literal["one", "value"]
"""How an action moves a counter: by 1, or by the event's value."""

_EFFECTS_CACHED = 8_192


class Effect:
    """The increments of one event: (counter, hash field, amount) each, the amount as the text Redis will be given.

    Compared and hashed by identity: an action hands out the same object for the same value and bucket, so a call that
    carries thousands of events carries each distinct effect once.
    """

    __slots__ = ("increments",)

    def __init__(self, increments: tuple[tuple[str, str, str], ...]) -> None:
        self.increments = increments


class Action:
    """One configured action of one domain. `value_min` to `value_max`, both included, is what its value may be."""

    __slots__ = ("_effects", "counters", "name", "value_max", "value_min")

    def __init__(self, name: str, value_min: int, value_max: int, counters: Mapping[str, Step]) -> None:
        self.name = name
        self.value_min = value_min
        self.value_max = value_max
        self.counters = dict(counters)
        self._effects: dict[tuple[int, str], Effect] = {}

    def effect(self, value: int, bucket: str) -> Effect:
        """What an event with this value adds in this bucket of the finest rollup."""
        known = self._effects.get((value, bucket))
        if known is not None:
            return known
        if len(self._effects) >= _EFFECTS_CACHED:
            self._effects.clear()
        effect = Effect(
            tuple(
                (counter, field_name(counter, bucket), "1" if step == "one" else str(value))
                for counter, step in self.counters.items()
            )
        )
        self._effects[value, bucket] = effect
        return effect
