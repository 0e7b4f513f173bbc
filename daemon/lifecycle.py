"""Signals of a daemon that runs its own event loop: SIGTERM and Ctrl-C ask it to stop, nothing more."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable


def on_stop_signal(stop: Callable[[], None]) -> None:
    """Calls `stop` on SIGTERM and on SIGINT, from within the running loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
