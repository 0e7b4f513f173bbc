"""Tests that are coroutines, each in an event loop of its own, and what they do to it."""

from __future__ import annotations

import asyncio
import sys
from asyncio import events
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, Self

P = ParamSpec("P")


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Fails the test after a minute, so that a mistake does not hang."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(60):
                await test(*args, **kwargs)

        asyncio.run(bounded())

    return run


class Stretches:
    """How much runs in the event loop's thread without a break, counted in calls of functions: the same on every
    machine, other than a time."""

    def __init__(self) -> None:
        self.longest = 0
        self._calls = 0
        self._run = events.Handle._run

    def __enter__(self) -> Self:
        def run(handle: events.Handle) -> None:
            self._calls = 0
            self._run(handle)
            self.longest = max(self.longest, self._calls)

        def count(_frame: object, event: str, _arg: object) -> None:
            self._calls += event in ("call", "c_call")

        events.Handle._run = run  # type: ignore[method-assign,assignment]
        sys.setprofile(count)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        events.Handle._run = self._run  # type: ignore[method-assign]
