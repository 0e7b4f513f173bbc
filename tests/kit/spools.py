"""What hosts report of their spools."""

from __future__ import annotations

import json

import msgspec

from daemon.spool.register import SILENT_S
from tests.kit.system import System

SPOOLS = "anl:spools"


def make_silent(system: System, folder: str = "") -> None:
    """As if a minute had passed since the last reports; `folder`: since that of the spool there."""
    for name, text in system.redis.hgetall(SPOOLS).items():
        report = json.loads(text)
        if folder in ("", report["dir"]):
            report["at"] -= SILENT_S + 1
            system.redis.hset(SPOOLS, name, msgspec.json.encode(report))
