"""What an import tells `ingest.lua`."""

from __future__ import annotations

import threading
from unittest.mock import sentinel

from daemon import config as configuration
from daemon.importer.store import RedisStore


def test_an_import_has_no_rate_limit() -> None:
    config = configuration.load(environ={"TALLYD_RATE_LIMIT__PER_MINUTE": "120"})
    store = RedisStore(config, [sentinel.connection], sentinel.imports, threading.Event())
    rate_per_minute, *_ = store._counters[0]._ingest_args
    assert rate_per_minute == 0
