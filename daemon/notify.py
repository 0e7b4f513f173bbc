"""What a daemon tells systemd: that it is ready, that it gets on, that it ends. The protocol is that of sd_notify(3).

A datagram of `KEY=value` lines to the socket named in NOTIFY_SOCKET; without that variable nothing happens. Written
here because it is twenty lines: `sdnotify` does no more and is unmaintained, `systemd-python` needs a compiler and
libsystemd's headers.
"""

from __future__ import annotations

import logging
import os
import socket
import time

SEND_TIMEOUT_S = 1.0
"""systemd's queue is short; a message waits this long for a place in it."""

_log = logging.getLogger(__name__)


def notify(*lines: str) -> None:
    """Sends the lines as one message, for example `notify("READY=1", "STATUS=Listening")`. Never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # Linux' abstract namespace
        address = f"\0{address[1:]}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(SEND_TIMEOUT_S)
            sender.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        _log.warning("systemd could not be told %s: %s", lines[0], error)


def ready(status: str) -> None:
    """Start-up, or a reload, is over."""
    notify("READY=1", f"STATUS={status}")


def reloading() -> None:
    """A reload begins; `ready` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval_s() -> float | None:
    """How often `WATCHDOG=1` is due: half of what systemd allows, as sd_watchdog_enabled(3) advises. None: never."""
    allowed_us = os.environ.get("WATCHDOG_USEC", "")
    if not allowed_us.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(allowed_us) / 1e6 / 2
