"""A line chart as SVG: seconds on the x axis, faults as shaded bands.

Locust's own charts are no substitute: they smooth over ten seconds, in which a fault disappears.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 960, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 28
TICKS = 5
COLOURS = ("#2563eb", "#d97706", "#dc2626")


class Line(NamedTuple):
    """One value a second, from second 1 on."""

    name: str
    values: Sequence[float]


class Band(NamedTuple):
    """A stretch of time that is marked."""

    name: str
    from_s: float
    to_s: float


def chart(title: str, unit: str, lines: Sequence[Line], bands: Sequence[Band] = ()) -> str:
    """The SVG element. The y axis begins at 0."""
    seconds = max([1, *(len(line.values) for line in lines)])
    top = _ceiling(max([0.0, *(value for line in lines for value in line.values)]))

    def x(second: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * min(second, seconds) / seconds, 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top, 1)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" font-size="12">']
    parts.append(f'<text x="{LEFT}" y="16" font-weight="bold">{escape(title)} ({escape(unit)})</text>')
    for band in bands:
        width = max(1.5, x(band.to_s) - x(band.from_s))
        area = f'x="{x(band.from_s)}" y="{TOP}" width="{width:.1f}" height="{HEIGHT - TOP - BOTTOM}"'
        parts.append(f'<rect {area} fill="#fca5a5" opacity="0.45"><title>{escape(band.name)}</title></rect>')
        parts.append(f'<text x="{x(band.from_s) + 3}" y="{TOP + 12}" fill="#991b1b">{escape(band.name)}</text>')
    for tick in range(TICKS + 1):
        value, second = top * tick / TICKS, seconds * tick / TICKS
        parts.append(f'<path d="M{LEFT} {y(value)}H{WIDTH - RIGHT}" stroke="#8884" fill="none"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{value:g}</text>')
        parts.append(f'<text x="{x(second)}" y="{HEIGHT - 8}" text-anchor="middle">{second:.0f} s</text>')
    for number, (line, colour) in enumerate(zip(lines, COLOURS, strict=False)):
        points = " ".join(f"{x(second)},{y(value)}" for second, value in enumerate(line.values, 1))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(
            f'<text x="{WIDTH - RIGHT - 70 * number}" y="16" fill="{colour}" text-anchor="end">{line.name}</text>'
        )
    return "\n".join([*parts, "</svg>"])


def _ceiling(value: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below it."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= value)
