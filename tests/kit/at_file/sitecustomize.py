"""Holds a process at a call on a file, so that a test can kill it there. Python imports this module by its name.

`HOLD` is "before 2 fsync .open": before the second fsync of a file whose path ends with ".open". Or "after". Before a
"write", half of it is written. `REACHED`: the file that says that it waits. When a test deletes it, the process goes
on. Only a test's PYTHONPATH leads here.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

when, nth, call, end = os.environ["HOLD"].split()
real: Any = getattr(os, call)
numbers = itertools.count(1)


def held(file: Any, *data: Any) -> Any:
    path = str(Path(f"/proc/self/fd/{file}").readlink() if isinstance(file, int) else file)
    reached = path.endswith(end) and next(numbers) == int(nth)
    if reached and when == "before":
        if call == "write":
            real(file, data[0][: len(data[0]) // 2])
        hold()
    result = real(file, *data)
    if reached and when == "after":
        hold()
    return result


def hold() -> None:
    reached = Path(os.environ["REACHED"])
    reached.touch()
    while reached.exists():
        time.sleep(0.05)


setattr(os, call, held)
