"""Liveness and readiness: the answers for a supervisor and a load balancer. `app.py` calls it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import time
from collections.abc import Sequence
from http import HTTPStatus

from daemon import __version__
from daemon.buffer.connection import Connection
from daemon.errors import LayoutError, StoreError
from daemon.ingest.batcher import Batcher
from daemon.ingest.durable import Durable
from daemon.metrics import FAULTS
from daemon.response import Health, Ready, Response, Version, json_response, readiness

RUN_ID = os.environ.get("TALLYD_RUN_ID", "")
"""The main process sets it. It tells two servers on one port (SO_REUSEPORT) apart."""
PROBE_INTERVAL_S = 1.0
"""How often a worker asks Redis whether it is there and laid out as configured."""
SLACK_S = 1.0
"""A busy event loop may take so much longer than the time-outs of the calls on it."""
STUCK_MEMORY_S = 10.0
"""How long a worker is not ready after calls of it had to be ended."""

_log = logging.getLogger(__name__)


async def healthz(*_: object) -> Response:
    """This worker runs."""
    return json_response(HTTPStatus.OK, Health("ok", __version__, RUN_ID, os.getpid()))


async def version(*_: object) -> Response:
    """What runs."""
    return json_response(HTTPStatus.OK, Version(__version__, platform.python_version()))


class Condition:
    """Whether a worker can count. It answers from memory: a task asks Redis, and `look` ends what is stuck.

    Create it in the running loop.
    """

    def __init__(self, probe: Connection, durable: Durable | None, batchers: Sequence[Batcher]) -> None:
        self._probe = probe
        self._durable = durable
        self._batchers = batchers
        spool_s = 2 * durable.append_s_max if durable is not None else 0.0  # one may wait for another
        self._call_s_max = probe.call_s_max + spool_s + SLACK_S
        self._probe_s_max = probe.call_s_max + PROBE_INTERVAL_S + SLACK_S
        self._redis = "" if probe.is_open else "does not answer"
        """Why Redis does not count, as of the last probe."""
        self._probed_at = time.monotonic()
        self._ended_at = -STUCK_MEMORY_S
        self._said: str | None = None
        self._prober = asyncio.create_task(self._ask())

    def close(self) -> None:
        self._prober.cancel()

    def look(self) -> None:
        """Ends the calls that take longer than their bound, and logs what is stuck. Call it every second."""
        if ended := sum(batcher.end_stuck(self._call_s_max) for batcher in self._batchers):
            self._ended_at = time.monotonic()
            _log.error("%d calls took longer than %g s. Their requests get 503.", ended, self._call_s_max)
        what = self.stuck()
        if what != self._said:
            if what is not None:
                FAULTS.labels("stuck").inc()
                _log.error("%s takes longer than its bound. This worker is not ready until it moves.", what)
            else:
                _log.info("Nothing is stuck any more.")
            self._said = what

    def stuck(self) -> str | None:
        """What takes longer than its bound. None if nothing does."""
        now = time.monotonic()
        if self._durable is not None and (what := self._durable.stuck()):
            return what
        if now - self._ended_at < STUCK_MEMORY_S:
            return "A call with new events"
        if now - self._probed_at > self._probe_s_max:
            return "The probe of Redis"
        return None

    def ready(self) -> Ready:
        """Whether events can be counted, or can go to the spool; and whether nothing is stuck."""
        if what := self.stuck():
            return Ready("unavailable", stuck=what)
        if self._durable is not None and self._durable.spooling:
            if self._durable.nearly_full:
                return Ready("unavailable", "does not answer", spool="is nearly full")
            return Ready("spooling")
        if self._redis or not self._probe.is_open:
            return Ready("unavailable", self._redis or "does not answer")
        return Ready("ready")

    async def readyz(self, *_: object) -> Response:
        """What `ready` says."""
        return readiness(self.ready())

    async def _ask(self) -> None:
        while True:
            try:
                await self._probe.ping()
            except LayoutError:
                self._redis = "is laid out differently"
            except StoreError:
                self._redis = "does not answer"
            except Exception:  # noqa: BLE001  (drivers raise more than they say, and the next probe must come)
                FAULTS.labels("probe").inc()
                _log.exception("The probe of Redis failed")
                self._redis = "does not answer"
            else:
                self._redis = ""
                with contextlib.suppress(StoreError):  # it may take no writes at the moment
                    await self._probe.mark()
            self._probed_at = time.monotonic()
            await asyncio.sleep(PROBE_INTERVAL_S)
