"""The signals that daemons and long commands answer, and which keys a reload has changed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec

from daemon.config import Config


def on_signals(*, stop: Callable[[], None], reload: Callable[[], None]) -> None:
    """Calls `stop` on SIGTERM and on SIGINT, `reload` on SIGHUP, from within the running loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)


@contextlib.asynccontextmanager
async def stopped_by_signals(stopping: threading.Event) -> AsyncIterator[list[signal.Signals]]:
    """SIGINT and SIGTERM set `stopping`, and are listed. A second one of them ends the process, as by default."""
    loop, received = asyncio.get_running_loop(), list[signal.Signals]()

    def stop(number: signal.Signals) -> None:
        received.append(number)
        stopping.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        yield received
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def changed(old: Config, new: Config) -> list[str]:
    """The keys whose values differ, dotted and sorted; for messages, which show no values: some are secret."""
    before, after = dict(_flat(msgspec.to_builtins(old))), dict(_flat(msgspec.to_builtins(new)))
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else name)
    else:
        yield key, value
