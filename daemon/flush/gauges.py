"""The flush daemon's gauges of the stores: how much waits in each, how old it is, and the results of jobs.

`service.py` starts it. It asks in a thread with a loop and connections of its own. So no flush waits for a question,
and no scrape for a store. What a store that is away would say is absent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client.registry import Collector
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from daemon import metrics
from daemon.buffer.connection import infos_of, opened
from daemon.buffer.keys import Keys
from daemon.buffer.state import ShardState, read_state
from daemon.config import Config
from daemon.errors import StoreError
from daemon.replica.mysql import MysqlSink
from daemon.rollups.jobs import read_jobs
from daemon.rollups.mongo import MongoSink

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

_log = logging.getLogger(__name__)

Gauges = list["Metric"]


class StoreGauges(Collector):
    """The last answers of the stores."""

    def __init__(self, config: Callable[[], Config], emptied_at: Callable[[], Mapping[int, float]]) -> None:
        """`config`: the one in force. `emptied_at`: of the flusher that runs."""
        self._config = config
        self._emptied_at = emptied_at
        self._gauges: Gauges = []

    def start(self) -> None:
        threading.Thread(target=lambda: asyncio.run(self._keep()), name="store-gauges", daemon=True).start()

    def collect(self) -> Iterable[Metric]:
        return self._gauges

    async def _keep(self) -> None:
        while True:
            config = self._config()
            try:
                await self._keep_asking(config)
            except Exception:  # noqa: BLE001  (drivers raise more than they say, and old gauges would lie for ever)
                self._gauges = []
                _log.exception("The stores could not be asked for their gauges")
                await asyncio.sleep(config.flush.metrics_interval_s)

    async def _keep_asking(self, config: Config) -> None:
        """Asks until there is another configuration."""
        async with contextlib.AsyncExitStack() as stack:
            mongo = await stack.enter_async_context(MongoSink(config.mongo))
            mysql = await stack.enter_async_context(MysqlSink(config.mysql)) if config.mysql.url else None
            while self._config() is config:
                await self._ask(config, mongo, mysql)
                await asyncio.sleep(config.flush.metrics_interval_s)

    async def _ask(self, config: Config, mongo: MongoSink, mysql: MysqlSink | None) -> None:
        asked = {"redis": self._redis(config), "mongo": _mongo(mongo)} | ({"mysql": _mysql(mysql)} if mysql else {})
        answers = dict(zip(asked, await asyncio.gather(*map(_answer, asked.values())), strict=True))
        up = metrics.STORE_UP.of(((store,), gauges is not None) for store, gauges in answers.items())
        self._gauges = [up, *(gauge for gauges in answers.values() for gauge in gauges or ())]

    async def _redis(self, config: Config) -> Gauges:
        keys = Keys.of(config.redis)
        async with opened(config.redis) as redis:
            asked_at, began = time.time(), time.monotonic()
            seconds, micros = await redis.time()
            offset_s = seconds + micros / 1e6 - asked_at - (time.monotonic() - began) / 2
            memory = await _memory(redis)
            shards = {
                number: await read_state(redis, keys, number, config.dedupe.window_s)
                for number in range(config.redis.shards)
            }
        return [
            metrics.REDIS_CLOCK.at(offset_s),
            *memory,
            *_of_shards(shards),
            metrics.UNFLUSHED.of(
                ((str(number),), self._unflushed_s(number, state)) for number, state in shards.items()
            ),
        ]

    def _unflushed_s(self, number: int, state: ShardState) -> float:
        if not state.dirty and not state.in_flight:
            return 0.0
        emptied_at = self._emptied_at().get(number)
        if emptied_at is not None:
            return time.monotonic() - emptied_at
        return max(0.0, state.now_s - (state.acked_at_s or state.epoch / 1e6))


async def _memory(redis: Redis) -> Gauges:
    with contextlib.suppress(NoPermissionError):  # a user that may not ask has no such gauges
        nodes = await infos_of(redis, "memory")
        memory = max(nodes, key=lambda at: (at["used_memory"] / (at["maxmemory"] or math.inf), at["used_memory"]))
        return [metrics.REDIS_MEMORY.at(memory["used_memory"]), metrics.REDIS_MEMORY_MAX.at(memory["maxmemory"])]
    return []


def _of_shards(shards: Mapping[int, ShardState]) -> Gauges:
    def each(gauge: metrics.Asked, value: Callable[[ShardState], float | None]) -> Metric:
        found = ((str(number), value(state)) for number, state in shards.items())
        return gauge.of(((number,), amount) for number, amount in found if amount is not None)

    return [
        each(metrics.REDIS_EPOCH, lambda state: state.epoch / 1e6 if state.epoch else None),
        each(metrics.DIRTY, lambda state: state.dirty),
        each(metrics.CLAIM_AGE, lambda state: state.in_flight_age_s or 0),
        each(metrics.ACKED_AT, lambda state: state.acked_at_s),
        each(metrics.REPLICA_DUE, lambda state: state.due),
        each(metrics.REPLICA_DUE_AGE, lambda state: state.due_age_s or 0),
        each(metrics.REPLICA_REFUSED, lambda state: state.refused),
        each(metrics.ASIDE, lambda state: state.ledger.get("aside", 0)),
        each(metrics.DEDUPE_EVENTS, lambda state: state.dedupe_events),
        each(metrics.DEDUPE_LAST_EVENTS, lambda state: state.dedupe_last_events),
        metrics.DEDUPE_FILL.at(max(state.dedupe_events / max(1, state.dedupe_buckets) for state in shards.values())),
    ]


async def _mongo(mongo: MongoSink) -> Gauges:
    jobs = {(job.job,): job for job in await read_jobs(mongo)}
    audit = jobs.get(("audit",))
    differences = {} if audit is None else audit.figures
    return [
        metrics.DEAD_LETTERS.at(await mongo.dead_letters.count()),
        metrics.JOB_OK.of((name, job.ok) for name, job in jobs.items()),
        metrics.JOB_AT.of((name, job.at.timestamp()) for name, job in jobs.items()),
        metrics.JOB_SECONDS.of((name, job.seconds) for name, job in jobs.items()),
        metrics.AUDIT_DIFFERENCE.of(
            ((figure.removeprefix("difference:"),), amount)
            for figure, amount in differences.items()
            if figure.startswith("difference:")
        ),
    ]


async def _mysql(mysql: MysqlSink) -> Gauges:
    await mysql.query("SELECT 1")
    return []


async def _answer(question: Awaitable[Gauges]) -> Gauges | None:
    """None: the store is away. The flusher's own log says why."""
    try:
        return await question
    except StoreError as error:
        _log.debug("No gauges: %s", error)
    except Exception:  # noqa: BLE001  (drivers raise more than they say, and the next question must come)
        _log.exception("A store could not be asked for its gauges")
    return None
