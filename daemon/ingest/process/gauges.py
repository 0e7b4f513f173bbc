"""The metrics of the ingest daemon's main process: its workers' values, and its own.

`server.py` registers it. The workers write their values to files (`daemon/metrics.py`), and this adds them up.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import multiprocess
from prometheus_client.registry import Collector

from daemon import metrics
from daemon.config import Config
from daemon.ingest.process.supervisor import Supervisor
from daemon.ingest.process.worker import BEAT_S
from daemon.response import Ready
from daemon.spool.segment import usage

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


class WorkerMetrics(Collector):
    """The sums over all workers, of the ingest daemon's metrics only."""

    def __init__(self) -> None:
        self._own = {family.name for family in metrics.INGEST.collect()}
        self._files = multiprocess.MultiProcessCollector(None)  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        return [family for family in self._files.collect() if family.name in self._own]  # type: ignore[no-untyped-call]


class ProcessGauges(Collector):
    """The values that the main process knows or can look up."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def collect(self) -> Iterable[Metric]:
        supervisor = self._supervisor
        now, pulses = time.monotonic(), [pulse for pulse in supervisor.pulses().values() if pulse is not None]
        yield metrics.WORKERS.at(len(pulses))
        yield metrics.LOOP_LAG.at(
            max((max(pulse.lag_s, now - pulse.turned_at - BEAT_S) for pulse in pulses), default=0)
        )
        yield from _spool(supervisor.config)
        yield metrics.KEY_EXPIRES.of(
            ((entry.id,), dt.datetime.fromisoformat(entry.expires).replace(tzinfo=dt.UTC).timestamp())
            for entry in supervisor.config.keys.entries
            if entry.expires
        )
        yield metrics.CONFIG_GENERATION.at(supervisor.generation)
        yield metrics.CONFIG_RELOAD_OK.at(supervisor.reload_ok)


def _spool(config: Config) -> Iterable[Metric]:
    if not config.spool.dir:
        return
    found = usage(Path(config.spool.dir))
    if found.error is None:
        yield metrics.SPOOL_BYTES.at(found.bytes)
        yield metrics.SPOOL_OLDEST.at(found.oldest_age_s or 0)
    yield metrics.SPOOL_BYTES_MAX.at(config.spool.bytes_max)


def hanging(supervisor: Supervisor) -> str | None:
    """The part of the daemon that hangs, for an answer; None if none does."""
    pid = supervisor.hanging()
    return None if pid is None else f"Worker process {pid}: its event loop, or a call"


def ready(supervisor: Supervisor) -> Ready:
    """Whether all workers can count."""
    if what := hanging(supervisor):
        return Ready("unavailable", stuck=what)
    unready = [pid for pid, pulse in supervisor.pulses().items() if pulse is None or not pulse.ready]
    return (
        Ready("unavailable", stuck=f"Worker process {unready[0]}. Its own /readyz says why")
        if unready
        else Ready("ready")
    )
