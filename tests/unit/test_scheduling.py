"""Short slices: taken by the kernels that know them, inherited, and nothing else of a process changed."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys

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
