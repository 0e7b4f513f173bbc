"""Shows that the guard sees what it is there for: on copies of the code, each with one deliberate slow-down.

The slow-downs are text appended to, or put before, a file of the copy. The code itself has no switch for them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from bench.ground import ROOT

CLEAN_RUNS = 5
COPIED = ("daemon", "lua", "bench")


class SlowDown(NamedTuple):
    """`text` goes to the end of `file`, or to its beginning."""

    what: str
    file: str
    text: str
    at_end: bool = True


SLOW_DOWNS = (
    SlowDown(
        "a sleep of 20 µs for each event that is decoded",
        "daemon/ingest/decode.py",
        """
import time

_good, _batch = Decoder.good, Decoder.batch


def _slow_good(self, body):
    time.sleep(20e-6)
    return _good(self, body)


def _slow_batch(self, body):
    batch = _batch(self, body)
    for _ in getattr(batch, "events", ()):
        time.sleep(20e-6)
    return batch


Decoder.good, Decoder.batch = _slow_good, _slow_batch
""",
    ),
    SlowDown(
        "ingest.lua runs five commands more for each event",
        "lua/ingest.lua",
        "for i = 1, #table.concat(ARGV) / 19 do redis.call('HEXISTS', KEYS[2], 'x') end\n",
        at_end=False,
    ),
    SlowDown(
        "claim.lua looks at all that is dirty each time, so that a flush becomes quadratic",
        "lua/claim.lua",
        "redis.call('SMEMBERS', KEYS[1])\n",
        at_end=False,
    ),
)


def demonstrate() -> bool:
    """Checks a clean copy five times and each slow-down once. Returns whether every verdict was right."""
    wrong = 0
    for run in range(CLEAN_RUNS):
        wrong += _check(f"clean, {run + 1} of {CLEAN_RUNS}", None) != 0
    for slow_down in SLOW_DOWNS:
        wrong += _check(slow_down.what, slow_down) != 1
    print(f"bench: {wrong or 'no'} wrong verdict{'' if wrong == 1 else 's'}.")
    return not wrong


def _check(what: str, slow_down: SlowDown | None) -> int:
    """The exit code of the guard on a copy."""
    with tempfile.TemporaryDirectory(prefix="tallyd-bench-copy-") as folder:
        copy = Path(folder)
        for name in COPIED:
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        if slow_down is not None:
            _apply(slow_down, copy)
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "bench", "--check"],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("bench: ")]
    print(
        f"{what}: exit code {done.returncode} after {time.monotonic() - started:.0f} s", *said, sep="\n  ", flush=True
    )
    return done.returncode


def _apply(slow_down: SlowDown, copy: Path) -> None:
    file = copy / slow_down.file
    text = file.read_text()
    file.write_text(text + slow_down.text if slow_down.at_end else slow_down.text + text)
