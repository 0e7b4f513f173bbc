"""A run from its begin to its verdict: the system up, the swarm on it, the faults in between, the accounts settled.

The swarm's samples come in on a thread; everything that starts or stops a process happens here, on the main one, to
which their lives are tied.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from daemon.devstack import process
from loadtest import compare, report
from loadtest.faults import FAULT_S_MAX, FAULTS
from loadtest.report import Mark, Report
from loadtest.scenarios import Scenario
from loadtest.system import PATIENT, LoadedSystem, Unfit, raised, unfit
from loadtest.tally import LOCUST_REPORT, TALLY, Orders, Sample, Tally, Totals
from tests.kit.commands import ROOT, inherited

SETTLE_TIMEOUT_S = 240.0
"""For the swarm after the load: open requests end, and unknown ones are sent again."""
POLL_S = 0.1
FAILURES_SHOWN = 3


class Plan(NamedTuple):
    """A scenario with what can be chosen about it."""

    scenario: Scenario
    seconds: float
    users: int
    rate: float


class Watcher(NamedTuple):
    """Who is told how it goes."""

    phase: Callable[[str], None]
    """Called with the present phase."""
    sample: Callable[[Sample], None]
    """Each second of load. Called on another thread."""


def run(plan: Plan, folder: Path, watcher: Watcher, stopping: threading.Event) -> tuple[Report, str]:
    """Runs it and returns the report and Locust's own page. All files lie in `folder`, which is empty before.

    `stopping`, when set, ends the load early; the accounts are settled all the same.
    Raises Unfit, or another TallydError, if nothing can be said.
    """
    began_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    watcher.phase("starting the stores and daemons")
    with raised(folder / "stack", plan.scenario.entities, stopping) as system:
        swarm = Swarm(plan, system, folder, watcher)
        try:
            watcher.phase("load")
            marks = _inflict(plan, system, swarm)
            tally = swarm.tally(stopping)
        finally:
            swarm.kill()
        watcher.phase("flushing what is left")
        system.settle()
        watcher.phase("comparing every entity")
        verdict = compare.compare(tally, system)
        with unfit():
            audit = system.audit("--deep", check=False, **PATIENT)
    page = (folder / LOCUST_REPORT).read_text()
    return _report(plan, began_at, tally, swarm.samples, marks, verdict, audit), page


class Swarm:
    """The running producers."""

    def __init__(self, plan: Plan, system: LoadedSystem, folder: Path, watcher: Watcher) -> None:
        self.samples: list[Sample] = []
        self.began = threading.Event()
        self.began_s = time.monotonic()
        """Monotonic; known once `began` is set."""
        self._folder = folder
        self._seconds = plan.seconds
        self._watcher = watcher
        self._log = folder / "swarm.log"
        orders = Orders(plan.scenario.name, system.serving.url, plan.users, plan.rate, plan.seconds, str(folder))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *process.dies_with_parent(),
                    *(sys.executable, "-m", "loadtest.swarm", msgspec.json.encode(orders).decode()),
                ],
                env=inherited(),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us alone
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def running(self) -> bool:
        return self._process.poll() is None

    def tally(self, stopping: threading.Event) -> Tally:
        """Waits for the end and returns the tally. Raises Unfit if they did not come to it."""
        deadline_s = time.monotonic() + self._seconds + SETTLE_TIMEOUT_S
        asked = False
        while self.running():
            if stopping.is_set() and self.began.is_set() and not asked:
                self._process.terminate()
                asked = True
            if time.monotonic() > deadline_s:
                raise Unfit(f"The producers did not come to an end; see {self._log}")
            time.sleep(POLL_S)
        self._reader.join()
        if self._process.returncode != 0:
            raise Unfit(f"The producers failed:\n{process.log_tail(self._log, since_byte=0)}")
        return msgspec.json.decode((self._folder / TALLY).read_bytes(), type=Tally)

    def kill(self) -> None:
        if self.running():
            self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            sample = msgspec.json.decode(line, type=Sample)
            if not self.samples:
                self.began_s = time.monotonic() - sample.second
                self.began.set()
            self.samples.append(sample)
            self._watcher.sample(sample)


def _inflict(plan: Plan, system: LoadedSystem, swarm: Swarm) -> list[Mark]:
    """The scenario's faults, each at its time. Returns those that were done; fewer if the run ends early."""
    marks: list[Mark] = []
    for fault in FAULTS.get(plan.scenario.name, ()):
        while not swarm.began.is_set() or time.monotonic() < swarm.began_s + fault.from_share * plan.seconds:
            if not swarm.running() or system.stopping.wait(POLL_S):
                return marks
        from_s = time.monotonic() - swarm.began_s
        fault.act(system, min(FAULT_S_MAX, (fault.to_share - fault.from_share) * plan.seconds))
        marks.append(Mark(fault.name, round(from_s, 2), round(time.monotonic() - swarm.began_s, 2)))
    return marks


def _report(
    plan: Plan,
    began_at: str,
    tally: Tally,
    samples: list[Sample],
    marks: list[Mark],
    verdict: compare.Verdict,
    audit: dict[str, Any],
) -> Report:
    return Report(
        scenario=plan.scenario.name,
        about=plan.scenario.about,
        began_at=began_at,
        machine=report.machine(),
        users=plan.users,
        rate=plan.rate,
        requests_per_s=round(tally.requests / tally.seconds, 1),
        accounts=verdict.lines,
        entities=verdict.entities,
        differences=verdict.differences,
        differences_more=verdict.differences_more,
        audit_holds=audit["holds"],
        problems=_problems(tally, verdict, audit),
        marks=marks,
        samples=samples,
        **{name: getattr(tally, name) for name in Totals.__struct_fields__},
    )


def _problems(tally: Tally, verdict: compare.Verdict, audit: dict[str, Any]) -> list[str]:
    """Why the run failed. Never that it was slow."""
    problems = []
    if tally.failed:
        most = Counter(tally.failures).most_common(FAILURES_SHOWN)
        seen = "; ".join(f"{failure} ({count:,} times)" for failure, count in most)
        problems.append(f"{tally.failed:,} of {tally.requests:,} requests were not answered as they must be: {seen}")
    if tally.unsettled:
        problems.append(f"{tally.unsettled:,} requests were never answered: whether they count is unknown.")
    if not tally.events:
        problems.append("No event was accepted: there is nothing to compare.")
    if not verdict.exact:
        differences = len(verdict.differences) + verdict.differences_more
        problems.append(f"The counts differ in {differences:,} places. The first: {verdict.differences[0]}")
    if not audit["holds"]:
        problems.append(f"The audit found {len(audit['broken']) + audit['broken_more']:,} differences.")
    elif not (audit["exact"] and audit["deep"]) or audit["rows_pending"] or audit["spooled_segments"]:
        problems.append("The audit could not compare everything: not all was at rest.")
    return problems
