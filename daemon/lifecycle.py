"""What both daemons share of their life: the signals that ask something of them, and what a reload has changed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from daemon.config import Config


def on_signals(*, stop: Callable[[], None], reload: Callable[[], None]) -> None:
    """Calls `stop` on SIGTERM and on SIGINT, `reload` on SIGHUP, from within the running loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)


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
