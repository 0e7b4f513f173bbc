"""`tallyd version`."""

from __future__ import annotations

import json
import sys

from daemon import __version__
from tests.kit.commands import ROOT, TALLYD, run


def test_it_says_what_runs_and_where() -> None:
    found = json.loads(run([*TALLYD, "version", "--json"], check=True).stdout)
    assert found["tallyd"] == __version__
    assert found["python"] == sys.version.split()[0]
    assert found["folder"] == str(ROOT / "daemon")
    assert run([*TALLYD, "version"], check=True).stdout.startswith(f"tallyd {__version__}\nPython ")
