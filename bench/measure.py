"""A measurement: values of ours and of the peer taken in turn, their ratio round by round, and the bar."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median
from typing import Literal, NamedTuple

from msgspec import Struct

from bench.machine import Others


class Bar(Struct, frozen=True):
    """A bound that a row has to keep: on the ratio to the peer, or on the value itself."""

    on: Literal["ratio", "value"]
    sense: Literal["at least", "at most"]
    limit: float

    def held(self, row: Row) -> bool:
        found = row.ratio if self.on == "ratio" else row.value
        return found >= self.limit if self.sense == "at least" else found <= self.limit

    def text(self, unit: str) -> str:
        sign = "≥" if self.sense == "at least" else "≤"
        return f"ratio {sign} {self.limit:g}" if self.on == "ratio" else f"{sign} {self.limit:,.10g} {unit}"


class Row(Struct, frozen=True, kw_only=True):
    """One line of the table. `ours` and `peer` hold a value a round; equal places were measured next to each other."""

    name: str
    what: str
    unit: str
    ours: list[float]
    peer: list[float] = []
    peer_name: str = ""
    bars: tuple[Bar, ...] = ()
    """The row is good if one of them is held. None: the row only informs."""
    all_bars: bool = False
    """Good only if all of them are."""
    others: float = 0.0
    """The largest share of the cores that other processes had during a round."""
    p50_ms: float = 0.0
    p99_ms: float = 0.0

    @property
    def ratio(self) -> float:
        """Ours over the peer's: the median of the rounds' ratios, so that a slow minute of the machine cancels out."""
        return median(a / b for a, b in zip(self.ours, self.peer, strict=True)) if self.peer else 0.0

    @property
    def value(self) -> float:
        """Ours: the median."""
        return median(self.ours)

    @property
    def bar_text(self) -> str:
        return (" and " if self.all_bars else " or ").join(bar.text(self.unit) for bar in self.bars)

    @property
    def good(self) -> bool:
        """Whether its bars are held, or it has none."""
        held = [bar.held(self) for bar in self.bars]
        return not held or (all(held) if self.all_bars else any(held))


QUIET_SHARE = 0.1
"""Rounds in which others used more of the cores than this are measured again, as often as the settings allow."""


class Rounds(NamedTuple):
    """The values of each of the things that were measured in turn."""

    values: list[list[float]]
    others: float
    """The largest share of the cores that other processes had during a round."""


def in_turn(rounds: int, *measures: Callable[[int], float], again_max: int, warm_up: int = 1) -> Rounds:
    """Measures these in turn, after `warm_up` rounds that don't count. Each is told the round's number.

    `again_max`: how many more rounds to measure for each one wanted, on a machine that is not quiet. Which are kept
    depends on how quiet it was and never on what they found.
    """
    measured: list[tuple[float, list[float]]] = []
    watch = Others()
    for number in range(warm_up + rounds * (1 + again_max)):
        watch.share()
        values = [measure(number) for measure in measures]
        if number < warm_up:
            continue
        measured.append((watch.share(), values))
        if sum(share <= QUIET_SHARE for share, _ in measured) == rounds:
            break
    kept = sorted(measured)[:rounds]
    return Rounds([list(values) for values in zip(*(values for _, values in kept), strict=True)], kept[-1][0])


def spread(values: Iterable[float]) -> str:
    """Median and range, for people."""
    ordered = sorted(values)
    if not ordered:
        return ""
    text = number(median(ordered))
    return text if len(ordered) == 1 else f"{text}  ({number(ordered[0])} … {number(ordered[-1])})"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
