"""The scripts of tracker and dashboard alone, in Node's test runner: `tests/web/unit`."""

from __future__ import annotations

import re

from ops.web.build import NODE
from tests.kit.commands import ROOT, run

UNIT = ROOT / "tests" / "web" / "unit"


def test_the_scripts_keep_their_promises_without_a_browser() -> None:
    done = run([NODE, "--test", "--test-force-exit", "--test-reporter=spec", *sorted(UNIT.glob("*.test.js"))])
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"pass (\d+)", done.stdout)[-1]) > len(list(UNIT.glob("*.test.js")))
