"""The memory of every process of a world, sampled while it runs: does it stay flat?"""

from __future__ import annotations

import threading
import time
from statistics import median
from typing import Any, NamedTuple

import psutil

from tests.chaos.world import World

INTERVAL_S = 2.0
WARM_UP_SHARE = 0.25
"""Of a process's life: caches fill, pools open."""
ENDS = 5
"""Samples whose median is the start, the end, and the value after warm-up."""
DAEMON_GROWTH_MAX = 1.05
DAEMON_GROWTH_MIB = 6.0
"""A daemon may grow by so much after its warm-up, whichever is more."""

MIB = 1024 * 1024


class Sample(NamedTuple):
    at_s: float
    rss: int


class Sampler(threading.Thread):
    """Samples until `stop`. A process is known by its role, its pid and its start."""

    def __init__(self, world: World) -> None:
        super().__init__(name="memory", daemon=True)
        self._world = world
        self._ended = threading.Event()
        self._lives: dict[tuple[str, int, float], list[Sample]] = {}

    def run(self) -> None:
        started_s = time.monotonic()
        while not self._ended.wait(INTERVAL_S):
            at_s = time.monotonic() - started_s
            for role, process in self._processes():
                try:
                    key = (role, process.pid, process.create_time())
                    rss = process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
                self._lives.setdefault(key, []).append(Sample(at_s, rss))

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def report(self) -> dict[str, dict[str, Any]]:
        """Per role the process that lived longest: MiB at its start, after warm-up, at the end; KiB a minute since."""
        longest: dict[str, list[Sample]] = {}
        processes: dict[str, int] = {}
        for (role, _, _), samples in self._lives.items():
            processes[role] = processes.get(role, 0) + 1
            longest[role] = max(longest.get(role, []), samples, key=len)
        return {role: {"processes": processes[role], **_life(samples)} for role, samples in sorted(longest.items())}

    def _processes(self) -> list[tuple[str, psutil.Process]]:
        found = [(name, server.process) for name, server in self._world.servers.items() if server.process is not None]
        for name, daemon in self._world.daemons.items():
            found += [(name if n == 0 else f"{name} worker", each) for n, each in enumerate(daemon.processes())]
        return found


def growing(report: dict[str, dict[str, Any]]) -> list[str]:
    """The daemons whose memory was not flat. The servers' own caches are theirs to fill; they are in the report."""
    return [
        f"{role}: {life['warm_mib']} MiB after warm-up, {life['end_mib']} MiB at the end"
        for role, life in report.items()
        if role.startswith(("ingest", "flush"))
        and life["end_mib"] > max(life["warm_mib"] * DAEMON_GROWTH_MAX, life["warm_mib"] + DAEMON_GROWTH_MIB)
    ]


def _life(samples: list[Sample]) -> dict[str, Any]:
    warm = samples[int(len(samples) * WARM_UP_SHARE) :]
    return {
        "seconds": round(samples[-1].at_s - samples[0].at_s),
        "start_mib": _mib(samples[:ENDS]),
        "warm_mib": _mib(warm[:ENDS]),
        "end_mib": _mib(samples[-ENDS:]),
        "max_mib": round(max(sample.rss for sample in samples) / MIB, 1),
        "kib_per_minute": round(_slope(warm) * 60 / 1024, 1),
    }


def _mib(samples: list[Sample]) -> float:
    return round(median(sample.rss for sample in samples) / MIB, 1)


def _slope(samples: list[Sample]) -> float:
    """Bytes a second, by least squares."""
    n = len(samples)
    mean_s, mean_rss = sum(s.at_s for s in samples) / n, sum(s.rss for s in samples) / n
    spread = sum((s.at_s - mean_s) ** 2 for s in samples)
    return sum((s.at_s - mean_s) * (s.rss - mean_rss) for s in samples) / spread if spread else 0.0
