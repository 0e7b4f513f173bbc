"""The benchmarks and the load test stand on `tests/kit`, and run where pytest is not installed."""

from __future__ import annotations

import sys

from tests.kit.commands import run


def test_benchmarks_load_tests_and_chaos_import_no_pytest() -> None:
    program = "import bench.__main__, loadtest.__main__, tests.chaos.__main__, sys; sys.exit('pytest' in sys.modules)"
    run([sys.executable, "-c", program], check=True)
