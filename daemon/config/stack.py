"""The folder of the embedded stack, as far as the configuration looks into it: the addresses, and whether it is up.

`daemon.devstack` writes it. This module starts and stops nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DATA_DEFAULT = Path(".tallyd")
_WRAPPER = Path("justw")


def file_of(data: Path) -> Path:
    return data / "stack.json"


def is_down(data: Path) -> bool:
    """Whether there was a stack in this folder, and nothing says that it is up."""
    try:
        return (data / "log").is_dir() and not file_of(data).exists()
    except OSError:
        return False


def is_up(addresses: Mapping[str, Any]) -> bool:
    """`addresses`: the content of the file. It stays behind if `tallyd dev` was killed."""
    pids = addresses.get("pids")
    return not isinstance(pids, dict) or not pids or any(map(_lives, pids.values()))


def stopped(data: Path) -> str:
    """The sentence about a stack that is down."""
    dev = "./justw dev" if _WRAPPER.is_file() else "tallyd dev"
    if data == DATA_DEFAULT:
        return f"The stack in ./{data} is stopped: `{dev}` starts it."
    return f"The stack in {data} is stopped: `{dev} --data {data}` starts it."


def _lives(pid: Any) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:  # of another user
        return True
    except (OSError, TypeError, OverflowError):
        return False
    return True
