"""The parts of the hot paths, with pytest-benchmark: `test_parts.py` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from bench.ground import Ground, GroundError
from bench.measure import Row
from bench.settings import Settings
from tests.kit.commands import ROOT

TESTS = Path(__file__).with_name("test_parts.py")


class _Stats(msgspec.Struct):
    min: float
    median: float
    max: float


class _Benchmark(msgspec.Struct):
    name: str
    extra_info: dict[str, str | int]
    stats: _Stats


class _Report(msgspec.Struct):
    benchmarks: list[_Benchmark]


def measure(ground: Ground, _: Settings) -> list[Row]:
    """One row a part, in microseconds for one of what it handles: the quickest, the median and the slowest."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "parts.json"
        command = [
            *(sys.executable, "-m", "pytest", "--quiet", "--no-header", "-p", "no:cacheprovider", "-o", "addopts="),
            *("--benchmark-only", f"--benchmark-json={report}", str(TESTS)),
        ]
        environ = {**os.environ, **ground.environ(MYSQL__URL=ground.stack.mysql)}
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise GroundError(f"The benchmarks of the parts failed:\n{done.stdout}{done.stderr}")
        found = msgspec.json.decode(report.read_bytes(), type=_Report)
    return [
        Row(
            name=each.name.removeprefix("test_"),
            what=str(each.extra_info["what"]),
            unit="µs",
            ours=[
                seconds * 1e6 / int(each.extra_info["items"])
                for seconds in (each.stats.min, each.stats.median, each.stats.max)
            ],
        )
        for each in found.benchmarks
    ]
