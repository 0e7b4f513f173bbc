"""Short slices and niceness: what the kernel then says of a process, its children and its session."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from daemon.scheduling import shorten_slice

SHORT_US = 100
TELL = (
    "import os, re; print(os.sched_getscheduler(0), os.nice(0),"
    " re.search(r'se.slice *: *(\\d+)', open('/proc/self/sched').read())[1])"
)


def told_by(program: str) -> list[int]:
    """What a process of its own prints: policy, niceness, slice in nanoseconds."""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return [int(word) for word in answer.stdout.split()]


def kernel() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    assert found
    return int(found[1]), int(found[2])


def test_a_process_and_its_children_get_short_slices_and_keep_their_niceness() -> None:
    shorten = f"import os; os.nice(1); from daemon.scheduling import shorten_slice; shorten_slice({SHORT_US})"
    kernels_own = told_by(TELL)[2]
    expected = SHORT_US * 1000 if kernel() >= (6, 12) else kernels_own
    assert told_by(f"{shorten}; {TELL}") == [os.SCHED_OTHER, min(os.nice(0) + 1, 19), expected]
    in_a_child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {TELL!r}], check=True)"
    assert told_by(f"{shorten}; {in_a_child}") == [os.SCHED_OTHER, min(os.nice(0) + 1, 19), expected]


def test_a_policy_somebody_chose_is_left_alone() -> None:
    program = (
        "import os; os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0));"
        f" from daemon.scheduling import shorten_slice; print(int(shorten_slice({SHORT_US}))); {TELL}"
    )
    taken, policy, *_ = told_by(program)
    assert (taken, policy) == (0, os.SCHED_BATCH)


def test_a_process_that_is_gone_is_no_error() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert not shorten_slice(SHORT_US, gone.pid)


TELL_GROUP = (
    "import os, pathlib; group = pathlib.Path('/proc/self/autogroup');"
    " print(os.nice(0), *group.read_text().split()[-1:] if group.exists() else [])"
)
HAS_GROUPS = Path("/proc/self/autogroup").exists()
"""Not every kernel groups processes by session."""


def told_in_a_session_of_its_own(program: str) -> list[int]:
    """As `told_by`. The session that runs the tests may be in the kernel's first group, of which it tells nothing."""
    return told_by(f"import os; os.setsid(); {program}")


def test_a_session_of_its_own_gives_way_as_a_whole() -> None:
    program = f"from daemon.scheduling import give_way; give_way(19); {TELL_GROUP}"
    assert told_in_a_session_of_its_own(program) == ([19, 19] if HAS_GROUPS else [19])


def test_a_process_in_somebody_elses_session_gives_way_alone() -> None:
    givers = f"from daemon.scheduling import give_way; give_way(19); {TELL_GROUP}"
    in_a_child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {givers!r}], check=True)"
    assert told_in_a_session_of_its_own(in_a_child) == ([19, 0] if HAS_GROUPS else [19])


def test_who_is_nicer_already_stays_so() -> None:
    program = "import os; os.nice(19); from daemon.scheduling import give_way; give_way(5); print(os.nice(0))"
    assert told_by(program) == [19]
