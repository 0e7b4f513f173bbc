"""A Redis that is laid out differently: no daemon starts on it, none goes on with it, and each says the way out."""

from __future__ import annotations

import re

import pytest

from daemon.devstack import process
from tests.kit.system import System

OTHER = {"format": "1", "shards": "4", "dedupe_window_s": "172800", "epoch": "1"}


@pytest.fixture
def other_layout(system: System) -> System:
    system.redis.hset("anl:layout", mapping=OTHER)
    return system


@pytest.mark.parametrize(
    "command", [["ingest"], ["ingest", "--workers", "3"], ["flush"], ["flush", "--once"]], ids=" ".join
)
def test_a_daemon_refuses_to_start_and_says_the_way_out(other_layout: System, command: list[str]) -> None:
    done = other_layout.tallyd(*command, check=False, HTTP__PORT=str(process.free_port()))
    assert done.returncode == 2, done.stderr
    assert re.search(r"shards\D+4\D+1\b", done.stderr)
    assert "DEL anl:layout" in done.stderr
    assert "flush --once" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert other_layout.redis.hgetall("anl:layout") == {key.encode(): value.encode() for key, value in OTHER.items()}
