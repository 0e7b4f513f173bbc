"""The parts of a daemon's life that need no daemon: what a reload changed, when the watchdog is due, what hangs."""

from __future__ import annotations

import asyncio
import os
import time

import msgspec
import pytest

from daemon import notify
from daemon.config import Config
from daemon.flush.flusher import Flusher
from daemon.lifecycle import changed


def config(**sections: dict[str, object]) -> Config:
    return msgspec.convert(sections, Config)


def test_changed_keys_are_named_without_their_values() -> None:
    before = config(redis={"url": "redis://:old@a"}, rate_limit={"per_minute": 60})
    after = config(redis={"url": "redis://:new@a"}, rate_limit={"per_minute": 60}, producers={"keys": {"p": "k" * 16}})
    assert changed(before, before) == []
    assert changed(before, after) == ["producers.keys.p", "redis.url"]


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "20000000"}, 10),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}, 10),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getppid())}, None),
        ({"WATCHDOG_USEC": "no number"}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_time(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], interval_s: float | None
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert notify.watchdog_interval_s() == interval_s


def test_a_step_that_outlasts_its_time_outs_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look() -> None:
        flusher = Flusher(config(redis={"url": "redis://a", "timeout_ms": 1}, mongo={"url": "mongodb://a"}))
        try:
            with flusher._step("a claim of shard 0"):
                assert flusher.stuck() is None, "it has begun just now"
                later = time.monotonic() + 24 * 3600
                monkeypatch.setattr(time, "monotonic", lambda: later)
                assert flusher.stuck() == "a claim of shard 0"
            assert flusher.stuck() is None, "a pause may take as long as it likes"
        finally:
            monkeypatch.undo()
            await flusher.close()

    asyncio.run(look())
