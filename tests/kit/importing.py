"""Running `tallyd import` in a test: log lines, the command as it is used, and the counts in Redis."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.kit.stores import hash_of
from tests.kit.system import ROOT, System

EXAMPLE = str(ROOT / "ops" / "weblog.example.toml")
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:27.0) Gecko/20100101 Firefox/27.0"

Counts = dict[tuple[str, str, str], int]
"""(entity key, counter, day) → amount."""


def line(n: int, path: str = "/a", status: int = 200, agent: str = FIREFOX) -> bytes:
    at = dt.datetime(2015, 5, 17, tzinfo=dt.UTC) + dt.timedelta(seconds=n)
    return f'10.0.0.1 - - [{at:%d/%b/%Y:%H:%M:%S} +0000] "GET {path} HTTP/1.1" {status} 5 "-" "{agent}"\n'.encode()


def run(system: System, *args: str | Path, check: bool = True, **env: str) -> dict[str, Any]:
    """Imports with the example's mapping; what `--json` prints, with the exit code as `exit`."""
    done = system.tallyd("import", "--config", EXAMPLE, "--json", *map(str, args), check=check, **env)
    assert done.stdout, done.stderr
    return {**json.loads(done.stdout), "exit": done.returncode, "said": done.stderr}


def pipe(system: System, content: bytes, **env: str) -> dict[str, Any]:
    """Imports standard input."""
    with importing(system, "--json", "-", **env) as process:
        out, _ = process.communicate(content, timeout=60)
    return dict(json.loads(out))


@contextmanager
def importing(system: System, *args: str | Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A running import, killed at the end if it still runs."""
    with (system.scratch / "import.stderr").open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "daemon.cli", "import", "--config", EXAMPLE, *map(str, args)],
            env={**os.environ, **system.environ(**env)},
            cwd=system.scratch,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()


def live(system: System, shards: int = 1) -> Counts:
    """The counts in Redis."""
    counts = {}
    for shard in range(shards):
        prefix = f"anl:{{{shard}}}:counters:"
        for key in system.redis.scan_iter(f"{prefix}*", count=10_000):
            for field, amount in hash_of(system.redis, key).items():
                counter, day = field.split(":")
                counts[key.decode().removeprefix(prefix), counter, day] = int(amount)
    return counts


def views(system: System) -> int:
    return sum(amount for (_, counter, _), amount in live(system).items() if counter == "view")


def forget(system: System) -> None:
    """Empties the dedupe memory, as time does."""
    for key in system.redis.scan_iter("anl:{0}:seen*", count=10_000):
        system.redis.delete(key)
