"""What a distribution mended in its Redis without changing the version number, as far as this machine can tell.

Debian and Ubuntu list the vulnerabilities in the package's changelog. That says something about a running server only
if the server runs on this machine, out of that package, and was started after the package was unpacked.
"""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

CHANGELOG = Path("/usr/share/doc/redis-server/changelog.Debian.gz")
PROGRAM = Path("/usr/bin/redis-check-rdb")
"""The file of the package; `redis-server` is a link to it."""
START_TOLERANCE_S = 5.0

_ID = re.compile(r"CVE-\d{4}-\d{4,}")


def mended(info: Mapping[str, Any], changelog: Path = CHANGELOG, program: Path = PROGRAM) -> set[str]:
    """The ids this server's package names as mended; none if it can't be told. `info`: Redis' INFO."""
    try:
        process = psutil.Process(int(info["process_id"]))
        started_s = process.create_time()
        if abs(time.time() - float(info["uptime_in_seconds"]) - started_s) > START_TOLERANCE_S:
            return set()  # a process of another machine that has the same number here
        if _program_of(process, info) != program.resolve(strict=True) or program.stat().st_ctime > started_s:
            return set()  # of other make, or upgraded since: what runs is the version before
        with gzip.open(changelog, "rt", encoding="utf-8", errors="replace") as lines:
            return set(_ID.findall(lines.read()))
    except (psutil.Error, OSError, EOFError, KeyError, ValueError):
        return set()


def _program_of(process: psutil.Process, info: Mapping[str, Any]) -> Path:
    """The file a process runs; of another user's process, what it says itself."""
    try:
        return Path(process.exe())
    except psutil.AccessDenied:
        return Path(str(info["executable"])).resolve()
