"""Starts to make the image when the tests begin, so that it is there when the machine wants to boot. Needs root."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from daemon.devstack import process
from tests.kit.commands import ROOT

collect_ignore_glob = ["test_*.py"] if os.geteuid() != 0 else []


def pytest_collection_finish(session: pytest.Session) -> None:
    if any("tests/systemd/" in item.nodeid for item in session.items):
        # One process makes it. The others, of the other workers, wait for that one and end.
        command = [*process.dies_with_parent(), sys.executable, "-m", "tests.systemd.image"]
        session.config.add_cleanup(subprocess.Popen(command, cwd=ROOT).wait)
