"""The gauges of the stores, when asking for them fails in a way that nobody planned for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.core import GaugeMetricFamily

from daemon.config import Config
from daemon.config.schema import Flush, MongoSection
from daemon.errors import ConfigError
from daemon.flush import gauges


def test_gauges_that_cannot_be_asked_for_are_absent_until_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(mongo=MongoSection(url="mongodb://h"), flush=Flush(metrics_interval_s=0.001))
    stores = gauges.StoreGauges(lambda: config, dict)
    stores._gauges = [GaugeMetricFamily("tallyd_dead_letters", "Of the last answer.", value=7)]
    troubles: Iterator[Exception | None] = iter((ConfigError("mongo.url: a file is gone"), OSError("no room"), None))
    shown: list[int] = []

    class Mongo(contextlib.AbstractAsyncContextManager[Any]):
        def __init__(self, _: object) -> None:
            if (trouble := next(troubles)) is not None:
                raise trouble

        async def __aexit__(self, *_: object) -> None: ...

    async def ask(*_: object) -> None:
        shown.append(len(list(stores.collect())))
        raise asyncio.CancelledError

    monkeypatch.setattr(gauges, "MongoSink", Mongo)
    monkeypatch.setattr(stores, "_ask", ask)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(stores._keep())
    assert shown == [0]
