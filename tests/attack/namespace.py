"""A network namespace with a whole IPv6 /64 of addresses, joined to this machine by a pair of virtual interfaces.

Needs root (or sudo without a password), and `ip`. Nothing outside this machine is reached.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import subprocess
import time
from collections.abc import Iterator

NAMESPACE = f"tallyd{os.getpid()}"
OUTSIDE = "fd00:7a11:1::1"
"""This machine's address on the line between the two."""
INSIDE = "fd00:7a11:1::2"
SUBNET = ipaddress.IPv6Network("fd00:7a11:2::/64")
"""All of these are addresses of the namespace."""
SETTLE_S = 5.0


@contextlib.contextmanager
def entered() -> Iterator[None]:
    """There while the context is."""
    line = f"ta{os.getpid()}"
    _ip("netns", "add", NAMESPACE)
    try:
        _ip("link", "add", line, "type", "veth", "peer", "name", "out", "netns", NAMESPACE)
        _ip("-6", "addr", "add", f"{OUTSIDE}/64", "dev", line, "nodad")
        _ip("link", "set", line, "up")
        for command in (
            ("-6", "addr", "add", f"{INSIDE}/64", "dev", "out", "nodad"),
            ("link", "set", "out", "up"),
            ("link", "set", "lo", "up"),
            ("-6", "route", "add", "local", str(SUBNET), "dev", "lo"),
        ):
            _ip("-n", NAMESPACE, *command)
        _ip("-6", "route", "add", str(SUBNET), "via", INSIDE)
        time.sleep(SETTLE_S)
        yield
    finally:
        _ip("netns", "del", NAMESPACE)  # its end of the line goes with it, and so does ours


def _ip(*words: str) -> None:
    as_root = () if os.geteuid() == 0 else ("sudo", "-n")
    done = subprocess.run([*as_root, "ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
