"""How far along the flow everything is: per shard, what waits in Redis, what is in flight, what MySQL still lacks.

`tallyd status` and `tallyd report` read it over connections of their own, the read API over its worker's
(`endpoints/status.py`). `trouble.py` says in sentences what of it is wrong.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace
from redis.asyncio import Redis

from daemon.buffer.connection import answered, client_of
from daemon.buffer.keys import Keys
from daemon.buffer.state import ShardState, read_state
from daemon.config import Config
from daemon.errors import StoreError
from daemon.replica.mysql import MysqlSink
from daemon.rollups.floors import Floor, Hold, read_floors
from daemon.rollups.jobs import JobResult, read_jobs
from daemon.rollups.mongo import MongoSink
from daemon.spool.origin import origin_of
from daemon.spool.register import Known, own_name, read_reports
from daemon.spool.segment import Usage, usage


class ShardStatus(Struct, frozen=True):
    """Counts of entities; ages in seconds. None: there is none, or there never was."""

    shard: int
    dirty: int
    in_flight: int
    in_flight_age_s: float | None
    owner: str | None
    """The flusher that has the claim in flight."""
    replica_due: int
    replica_due_age_s: float | None
    """Since the entity that is due the longest became due, or was last postponed."""
    replica_refused: int
    """Those of them whose row MySQL does not take; the hash anl:{shard}:refused says why."""
    last_flush_age_s: float | None
    lag_s: float
    """The most that the oldest count which is not flushed can be old. 0: nothing waits."""
    epoch: int
    """When this shard's memory began to count, in microseconds since 1970. Without a cluster: that of all shards."""
    ledger: dict[str, int]
    """accepted:<counter>, duplicate:<counter>, flushed:<counter>, dead:<counter>: amounts since the data began; aside:
    foreign values moved out of the way; missing: how often a sync found no row for an entity; unknown:
    counts of ids that MySQL did not have (`known`)."""
    acked: int = 0
    """The seq of the last claim that Redis has accounted for; 0: there is none."""
    hold: Hold | None = None
    """Why its counts wait for an operator."""


class Status(Struct, frozen=True):
    shards: list[ShardStatus]
    """Empty if Redis does not answer; `redis_error` says why."""
    redis_error: str | None
    spool: Usage | None
    """What waits on this machine's disk for Redis; None: there is no spool."""
    dead_letters: int | None
    """None: MongoDB does not answer; `mongo_error` says why."""
    mongo_error: str | None
    jobs: list[JobResult] = []
    """The last result of each job that was run with `--record`."""
    mysql_error: str | None = None
    spools: list[Known] = []
    """Of the other hosts, as they reported."""


class OfMongo(NamedTuple):
    """`floors`: of each shard that has one."""

    dead_letters: int
    jobs: list[JobResult]
    floors: Mapping[int, Floor]


class Connections(NamedTuple):
    """What is asked. The functions raise StoreError if their store does not answer."""

    redis: Redis
    mongo: Callable[[], Awaitable[OfMongo]]
    mysql: Callable[[], Awaitable[object]] | None
    """None: no MySQL is configured."""


class Waits:
    """How long counts have waited, for one who looks now and then.

    Redis tells when a claim was last acknowledged. It does not tell when the next count came. So who looks once can
    only say that it was not before that. Who looks again and finds no other acknowledgement knows more.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int | None, float]] = {}
        """Shard → the last acknowledgement, and since when counts were seen to wait behind it."""

    def lag_s(self, number: int, state: ShardState, longest_s: float) -> float:
        """`longest_s`: the most that it can be."""
        now_s = time.monotonic()
        seen = self._seen.get(number)
        if seen is None or seen[0] != state.acked_at_s:
            seen = self._seen[number] = state.acked_at_s, now_s
        return min(longest_s, max(now_s - seen[1], state.in_flight_age_s or 0.0))

    def nothing(self, number: int) -> None:
        """Nothing waits in this shard."""
        self._seen.pop(number, None)


async def read_status(config: Config) -> Status:
    """The status, over connections of its own. Never raises for a store that is away: that is part of the answer."""
    redis, mongo = client_of(config.redis), MongoSink(config.mongo)
    mysql = MysqlSink(config.mysql) if config.mysql.url else None
    try:
        return await look(config, Connections(redis, lambda: ask_mongo(mongo), None if mysql is None else mysql.ping))
    finally:
        await redis.aclose()
        await mongo.close()
        if mysql is not None:
            await mysql.close()


async def look(config: Config, connections: Connections, waits: Waits | None = None) -> Status:
    """The status. `waits`: what was seen at earlier looks, if this is not the only one."""
    asked = [_answer(_shards(config, connections.redis, waits)), _answer(connections.mongo())]
    if connections.mysql is not None:
        asked.append(_answer(connections.mysql()))
    (found, redis_error), (kept, mongo_error), *mysql = await asyncio.gather(*asked)
    shards, epoch, spools = found or ([], 0, [])
    dead_letters, jobs, floors = kept or (None, [], {})
    shards = [_with_hold(shard, floors.get(shard.shard)) for shard in shards]
    spool, own = None, ""
    if config.spool.dir:
        own = await asyncio.to_thread(own_name, Path(config.spool.dir))
        spool = await asyncio.to_thread(usage, Path(config.spool.dir), origin_of(config, epoch))
    mysql_error = mysql[0][1] if mysql else None
    others = [known for known in spools if known.name != own]
    return Status(shards, redis_error, spool, dead_letters, mongo_error, jobs, mysql_error, others)


async def ask_mongo(mongo: MongoSink) -> OfMongo:
    """As of `Connections.mongo`."""
    return OfMongo(await mongo.dead_letters.count(), await read_jobs(mongo), await read_floors(mongo))


def _with_hold(shard: ShardStatus, floor: Floor | None) -> ShardStatus:
    return replace(shard, hold=floor.hold) if floor is not None and floor.holds(shard.acked) else shard


async def _answer(question: Awaitable[Any]) -> tuple[Any, str | None]:
    """The answer, or why there is none."""
    try:
        return await question, None
    except StoreError as error:
        return None, str(error)


async def _shards(config: Config, redis: Redis, waits: Waits | None) -> tuple[list[ShardStatus], int, list[Known]]:
    """And when shard 0 began to count (µs), and all spools. Raises StoreError."""
    keys, window_s = Keys.of(config.redis), config.dedupe.window_s
    with answered(config.redis):
        states = [await read_state(redis, keys, number, window_s) for number in range(config.redis.shards)]
        return (
            [_shard(number, state, waits) for number, state in enumerate(states)],
            states[0].epoch,
            await read_reports(redis, keys),
        )


def _shard(number: int, state: ShardState, waits: Waits | None) -> ShardStatus:
    acked_age_s = None if state.acked_at_s is None else max(0.0, state.now_s - state.acked_at_s)
    lag_s = 0.0
    if state.dirty or state.in_flight:
        lag_s = max(0.0, state.now_s - state.epoch / 1e6) if acked_age_s is None else acked_age_s
        if waits is not None:
            lag_s = waits.lag_s(number, state, lag_s)
    elif waits is not None:
        waits.nothing(number)
    return ShardStatus(
        shard=number,
        dirty=state.dirty,
        in_flight=state.in_flight,
        in_flight_age_s=_rounded(state.in_flight_age_s),
        owner=state.owner,
        replica_due=state.due,
        replica_due_age_s=_rounded(state.due_age_s),
        replica_refused=state.refused,
        last_flush_age_s=_rounded(acked_age_s),
        lag_s=round(lag_s, 3),
        epoch=state.epoch,
        ledger=state.ledger,
        acked=state.acked,
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
