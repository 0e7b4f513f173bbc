"""Actions: what a client may report, and what each does to the counters.

The client names an action and a value, never a counter. An action turns them, with the event's bucket (a day or an
hour), into an effect: the increments one event makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from daemon.domain.counter import field_name

Step = Literal["one", "value"]
"""How an action moves a counter: by 1, or by the event's value."""

_EFFECTS_CACHED = 8_192


class Visit(NamedTuple):
    """What an event does that its visitor repeats: less. Each event begins the window anew."""

    action: str
    window_ms: int
    repeated: Effect


class Effect:
    """The increments of one event: (counter, hash field, amount) each, the amount as the text Redis will be given.
    `visit`: if its visitor did the same lately, another effect counts.

    Compared and hashed by identity: an action hands out the same object for the same value and bucket, so a call that
    carries thousands of events carries each distinct effect once.
    """

    __slots__ = ("increments", "visit")

    def __init__(self, increments: tuple[tuple[str, str, str], ...], visit: Visit | None = None) -> None:
        self.increments = increments
        self.visit = visit


class Action:
    """One configured action of one domain. `value_min` to `value_max`, both included, is what its value may be."""

    __slots__ = ("_effects", "counters", "name", "raw", "value_max", "value_min", "window_ms")

    def __init__(
        self,
        name: str,
        value_min: int,
        value_max: int,
        counters: Mapping[str, Step],
        raw: Mapping[str, Step] | None = None,
        window_ms: int = 0,
    ) -> None:
        """`raw`: the counters that a visitor's repetition within `window_ms` moves; every event moves them, too."""
        self.name = name
        self.value_min = value_min
        self.value_max = value_max
        self.counters = dict(counters)
        self.raw = dict(raw or {})
        self.window_ms = window_ms
        self._effects: dict[tuple[int, str], Effect] = {}

    def effect(self, value: int, bucket: str) -> Effect:
        """The amounts that an event with this value adds in this bucket, a day or an hour."""
        known = self._effects.get((value, bucket))
        if known is not None:
            return known
        if len(self._effects) >= _EFFECTS_CACHED:
            self._effects.clear()
        raw = _increments(self.raw, value, bucket)
        visit = Visit(self.name, self.window_ms, Effect(raw)) if self.window_ms else None
        effect = Effect(_increments(self.counters, value, bucket) + raw, visit)
        self._effects[value, bucket] = effect
        return effect


def _increments(counters: Mapping[str, Step], value: int, bucket: str) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (counter, field_name(counter, bucket), "1" if step == "one" else str(value))
        for counter, step in counters.items()
    )
