"""Who gets a core when there are more processes than cores: programs that answer requests come first.

`give_way` is for the flusher and mongod. Niceness alone does nothing for a process in a session of its own, such as a
server: Linux groups processes by session (autogroup, sched(7)), and niceness counts only within the group. So the group
gets it, too.

`shorten_slice` is for the ingest worker and Redis. They do little at a time and wait for each other. With short slices
they get a shared core at once, even beside processes that compute for milliseconds. Linux 6.12 and later allow it
without privileges (`sched_setattr(2)`, `sched_runtime`). Earlier versions ignore it. Threads and children inherit it.

The gains are in bench/NOTES.md.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import struct
from pathlib import Path

_SYSCALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}
"""Machine → numbers of sched_setattr and sched_getattr, for which glibc (before 2.41) has no functions."""
_ATTR = struct.Struct("=IIQiIQQQ")
"""size, sched_policy, sched_flags, sched_nice, sched_priority, sched_runtime (ns), sched_deadline, sched_period."""

_log = logging.getLogger(__name__)


def give_way(niceness: int, pid: int = 0) -> None:
    """Makes a process (0: the calling one) at least as nice (nice(2), 0 to 19), and its session if that is its own."""
    os.setpriority(os.PRIO_PROCESS, pid, max(niceness, os.getpriority(os.PRIO_PROCESS, pid)))
    if os.getsid(pid) != (pid or os.getpid()):
        return  # of a shell, say: not only ours
    try:
        Path(f"/proc/{pid or 'self'}/autogroup").write_text(str(niceness))
    except OSError as error:
        _log.debug("The session's niceness stays as it is: %s", error)  # a kernel without, or not ours to change


def shorten_slice(slice_us: int, pid: int = 0) -> bool:
    """Gives the first thread of a process (0: the calling thread) slices of so many microseconds (the kernel makes
    100 of less, and 100,000 of more), and leaves its niceness as it is. Call it before there are other threads.

    Returns whether the kernel took it; it costs speed only if not, so nothing is raised.
    """
    if platform.system() != "Linux" or platform.machine() not in _SYSCALLS:
        return False
    set_number, get_number = _SYSCALLS[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    attr = ctypes.create_string_buffer(_ATTR.size)
    refused = libc.syscall(get_number, pid, attr, _ATTR.size, 0)
    if not refused:
        _, policy, _, nice, *_ = _ATTR.unpack(attr.raw)
        wanted = _ATTR.pack(_ATTR.size, policy, 0, nice, 0, slice_us * 1000, 0, 0)
        refused = policy != os.SCHED_OTHER or libc.syscall(set_number, pid, wanted, 0)
    if refused:
        _log.debug("No slices of %d us: %s", slice_us, os.strerror(ctypes.get_errno()))
    return not refused
