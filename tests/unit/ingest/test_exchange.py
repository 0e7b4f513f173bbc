from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from daemon.ingest import exchange


class Readable:
    """Granian's does not show what was set."""

    def __init__(self, *_: Any) -> None:
        self._ctx = contextvars.copy_context()
        self._schedule_fn: Any = None


def test_a_request_that_cannot_be_started_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    class Started:
        def __init__(self, _: Any, watcher: int, __: Any) -> None:
            self._watcher = watcher

        def start(self, *_: Any) -> None:
            if self._watcher == 0:
                raise ZeroDivisionError
            started.append(self._watcher)

    async def arrive() -> list[str]:
        loop, failures = asyncio.get_running_loop(), list[str]()
        loop.set_exception_handler(lambda _, context: failures.append(repr(context["exception"])))
        made: Any = exchange.scheduler(None, None, loop, None)  # type: ignore[arg-type]
        for watcher in range(3):
            made._schedule_fn(watcher)
        while len(started) < 2:  # noqa: ASYNC110  (nothing tells)
            await asyncio.sleep(0)
        return failures

    monkeypatch.setattr(exchange, "Exchange", Started)
    monkeypatch.setattr(exchange, "CallbackScheduler", Readable)
    assert asyncio.run(asyncio.wait_for(arrive(), 10)) == ["ZeroDivisionError()"]
    assert started == [1, 2]
