"""The machine of the figures, and the share of it that other processes used. Names no host, user or path."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path

import psutil
import pymongo
import redis

from bench import wrk
from tests.kit.servers import Stack
from tests.kit.stores import run_sql

CORES = 2
DIRTY = "-dirty"
NOT_CODE = (":!bench/results", ":!bench/README.md", ":!bench/baseline.json")


def take_cores(count: int = CORES) -> int:
    """Keeps this process and all it starts on that many cores, fewer if there are fewer. Returns how many."""
    chosen = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, chosen)
    return len(chosen)


def describe(stack: Stack, root: Path) -> dict[str, str]:
    """Name → text, in the order of the table's head."""
    store = redis.Redis.from_url(stack.redis)
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(stack.mongo)
    options = store.config_get("append*")
    with store, client:
        mysql = {"mysql": str(run_sql(stack.mysql, "SELECT VERSION()")[0][0])} if stack.mysql else {}
        return {
            "cpu": _cpu(),
            "cores": f"{len(os.sched_getaffinity(0))} used of {os.cpu_count()}, load generator included",
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
            "redis": f"{store.info('server')['redis_version']}, AOF {options['appendonly']} {options['appendfsync']}",
            "mongod": str(client.server_info()["version"]),
            **mysql,
            "wrk": wrk.version(),
            **{name: metadata.version(name) for name in ("granian", "msgspec", "hiredis", "uvloop", "pymongo")},
            "commit": commit(root),
        }


class Others:
    """Measures what share of our cores was used by processes that are not ours, the hypervisor's guests included."""

    def __init__(self) -> None:
        self._at = self._look()

    def share(self) -> float:
        """0 to 1, since the last call."""
        before, self._at = self._at, self._look()
        elapsed, busy, ours = (now - then for now, then in zip(self._at, before, strict=True))
        return min(1.0, max(0.0, (busy - ours) / (elapsed * len(os.sched_getaffinity(0)))))

    @staticmethod
    def _look() -> tuple[float, float, float]:
        """The time, how long our cores have been busy, and how long with us, in seconds."""
        cores, every = os.sched_getaffinity(0), psutil.cpu_times(percpu=True)
        busy = sum(sum(every[core]) - every[core].idle - every[core].iowait - every[core].guest for core in cores)
        ours = 0.0
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            try:
                spent = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            ours += spent.user + spent.system + spent.children_user + spent.children_system
        return time.monotonic(), busy, ours


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def commit(root: Path) -> str:
    """The commit of the checkout, with DIRTY behind it if anything but results differs from it."""
    changes = ("status", "--porcelain", "--untracked-files=no", "--", ".", *NOT_CODE)
    return (_git(root, "rev-parse", "--short", "HEAD") or "unknown") + (DIRTY if _git(root, *changes) else "")


def _git(root: Path, *command: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
