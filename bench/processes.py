"""What running processes have used: CPU time and memory, by the kernel's account."""

from __future__ import annotations

from collections.abc import Iterable

import psutil

MIB = 1 << 20


def tree(pid: int) -> list[psutil.Process]:
    """The process and all below it."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """Seconds of CPU, user's and system's, that these have used so far. Raises psutil.NoSuchProcess if one ended."""
    return sum(times.user + times.system for times in (each.cpu_times() for each in processes))


def busiest(pid: int) -> psutil.Process:
    """Of a daemon's processes the one that does the work: a worker, not its parent."""
    return max(tree(pid), key=lambda each: cpu_s([each]))


def rss_mib(process: psutil.Process) -> float:
    """Resident memory."""
    return float(process.memory_info().rss) / MIB
