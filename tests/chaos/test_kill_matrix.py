"""The fixed part of `just chaos`: a world under load, hit at the steps other tests leave out, one after the other.

`tests/fault/` kills the flusher before and after each step of `STEPS`; here are the other faults. After every fault all
five rollups and all rows are compared with the model, document by document.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.chaos.faults import FAULTS, Fault
from tests.chaos.run import Trial, begun

ELSEWHERE = ("flusher killed before", "flusher killed after")
"""In tests/fault/test_flusher_killed.py and test_backfill_killed.py."""
LEFT_TO_CHAOS = (
    "at any time", "ingest frozen before Lua", "flusher frozen past its lease before bulk weekly",
    "flusher frozen past its lease before bulk monthly", "flusher frozen past its lease before bulk yearly",
    "mongo restarted", "mysql restarted", "redis restarted", "mysql rows locked", "its settle arrives late",
    "its floor arrives late", "its GET_LOCK arrives late",
)  # fmt: skip
"""Much like others that are here; each takes seconds."""
FIXED = [
    fault
    for fault in FAULTS
    if not fault.name.startswith(ELSEWHERE) and not any(part in fault.name for part in LEFT_TO_CHAOS)
]


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """One world for all faults."""
    with begun(tmp_path_factory.mktemp("world"), seed=1, events_per_s=400) as trial:
        yield trial


@pytest.mark.parametrize("fault", FIXED, ids=[fault.name for fault in FIXED])
def test_every_count_is_exact_after(trial: Trial, fault: Fault) -> None:
    trial.inflict(fault, random.Random(fault.name))
    trial.check()


def test_the_audit_holds_in_the_end(trial: Trial) -> None:
    trial.load.pause()
    report = trial.world.deep_audit()
    assert report["holds"]
    assert report["exact"]
    assert report["rows_pending"] == report["spooled_segments"] == 0
