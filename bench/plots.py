"""The plots of bench/README.md, as SVG: throughput by peer, and flush time by entities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from bench.measure import Row
from bench.results import Result

WIDTH_IN, HEIGHT_IN = 8, 3.2
OURS, THEIRS = "#1f6f8b", "#b9c4c9"
PEERS = {
    "single": "bare Granian app: answers, counts nothing",
    "single-nginx": "nginx + LuaJIT: counts, hardly validates",
    "single-fastapi": "FastAPI + Uvicorn + redis-py",
}


def write(found: Mapping[str, Result], folder: Path) -> None:
    """Writes throughput.svg and flush.svg, those of which there are results."""
    if "single" in found:
        _save(_throughput({row.name: row for row in found["single"].rows}), folder / "throughput.svg")
    if "scale" in found:
        _save(_flush_time(found["scale"].rows), folder / "flush.svg")


def _throughput(rows: dict[str, Row]) -> Any:
    bars = {"tallyd: validates, dedupes, counts, books": rows["single"].value}
    bars |= {label: median(rows[name].peer) for name, label in PEERS.items() if name in rows}
    drawn, axes = figure()
    shown = axes.barh(list(bars), list(bars.values()), color=[OURS, *[THEIRS] * (len(bars) - 1)])
    axes.bar_label(shown, fmt="{:,.0f}", padding=4)
    axes.invert_yaxis()
    axes.set_xlabel("single events a second, one worker, 64 connections")
    axes.margins(x=0.12)
    return drawn


def _flush_time(rows: list[Row]) -> Any:
    points = {
        int(size): row.value for row in rows if (size := row.name.removeprefix("scale-")).isdecimal()
    }  # µs an entity by entities
    drawn, axes = figure()
    entities = sorted(points)
    seconds = [points[n] * n / 1e6 for n in entities]
    axes.loglog(entities, seconds, "o-", color=OURS, label="measured")
    axes.loglog(entities, [seconds[-1] * n / entities[-1] for n in entities], "--", color=THEIRS, label="linear")
    for n, place in zip(entities, zip(entities, seconds, strict=True), strict=True):
        axes.annotate(f"{points[n]:.0f} µs each", place, textcoords="offset points", xytext=(6, -12))
    axes.set_xlabel("dirty entities")
    axes.set_ylabel("seconds to flush")
    axes.legend(frameon=False)
    return drawn


def figure() -> tuple[Any, Any]:
    """An empty figure and its axes, for an SVG. Called by the load test's report, too."""
    import matplotlib as mpl  # noqa: PLC0415  (only the plots need it, and it takes a second)

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "tallyd"  # the same file for the same results
    from matplotlib import pyplot  # noqa: PLC0415  (after the backend was chosen)

    drawn, axes = pyplot.subplots(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return drawn, axes


def _save(drawn: Any, path: Path) -> None:
    drawn.savefig(path, metadata={"Date": None, "Creator": None})
