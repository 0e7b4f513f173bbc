"""GET status and GET dead: whether all is well, for operators. No store that is away fails the first one."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Iterable
from typing import Annotated, Any

from msgspec import Meta

from daemon import __version__
from daemon.config import Config, moved_counters
from daemon.domain.entity import Entity
from daemon.metrics import rejected_events
from daemon.read.endpoint import Endpoint, Question
from daemon.read.gate import Kind
from daemon.read.parameters import Parameters
from daemon.read.status import ShardStatus, look
from daemon.read.trouble import Trouble, troubles
from daemon.response import Amount, Body
from daemon.rollups.jobs import JobResult
from daemon.spool.segment import Usage

TEXT_CHARS_MAX = 300
"""Of a text that a store, a command or a foreign value brought."""
AMOUNTS_MAX = 20
"""Of one dead letter. An entity has a few counters; a foreign document may have any number of them."""
LETTERS_DEFAULT = 20

Counters = dict[str, Amount]
Seconds = float


class Events(Body):
    accepted: Counters
    duplicate: Counters
    flushed: Counters
    dead: Counters
    rejected: Annotated[
        dict[str, int],
        Meta(
            description="Events by why they were not taken, of this daemon since it began: as of `tallyd_rejections` in"
            " ops/metrics.md, and limited, robot. The others are amounts since the data began."
        ),
    ]


class Shard(Body):
    shard: int
    dirty: int
    in_flight: int
    in_flight_age_s: Seconds | None
    owner: str | None
    replica_due: int
    replica_refused: int
    last_flush_age_s: Seconds | None


class FlushLag(Body):
    lag_s: Annotated[Seconds, Meta(description="How long the oldest count waits to be flushed, as far as was seen.")]


class Spool(Body):
    spooling: Annotated[bool, Meta(description="Events wait on this machine's disk.")]
    segments: int
    bytes: int
    bytes_max: int
    oldest_age_s: Seconds | None
    damaged: int


class Store(Body):
    ok: bool
    error: str | None


class Stores(Body):
    redis: Store
    mongo: Store
    mysql: Annotated[Store | None, Meta(description="null: none is configured.")]


class Job(Body):
    job: str
    ok: bool
    at: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
    seconds: Seconds
    summary: str
    exit_code: int
    host: str


class SystemStatus(Body):
    version: str
    enabled: bool
    uptime_s: Seconds
    workers: int
    counters: list[str]
    events: Events
    shards: Annotated[list[Shard], Meta(description="Empty while Redis does not answer.")]
    flush: FlushLag
    spool: Annotated[Spool | None, Meta(description="null: there is none.")]
    dead_letters: Annotated[int | None, Meta(description="null: MongoDB does not answer.")]
    stores: Stores
    jobs: list[Job]
    trouble: Annotated[list[Trouble], Meta(description="The worst first. Empty: all is well.")]


class DeadLetter(Body):
    id: str
    at: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
    shard: int
    seq: Amount
    collection: str
    document: str
    amounts: dict[str, int | str]
    reason: str


class DeadLetters(Body):
    waiting: int
    letters: list[DeadLetter]


class ReadStatus(Endpoint):
    summary = "Whether all is well, and what to do if not"
    answer = SystemStatus

    @property
    def description(self) -> str:
        return f"For operators. Up to {self.config.dashboard.status_ttl_ms} ms (`dashboard.status_ttl_ms`) old."

    def ask(self, place: Entity, parameters: Parameters) -> Question:  # noqa: ARG002  (it is about everything)
        return self.question(Kind.STATUS, ttl_ms=self.config.dashboard.status_ttl_ms)

    async def _read(self) -> SystemStatus:
        config, stores = self.config, self.stores
        found, rejected = await asyncio.gather(
            look(config, stores.connections, stores.waits), asyncio.to_thread(rejected_events)
        )
        return SystemStatus(
            version=__version__,
            enabled=config.enabled,
            uptime_s=round(time.monotonic() - stores.started_at_s, 3),
            workers=stores.workers,
            counters=list(moved_counters(config)),
            events=Events(
                accepted=_sums(found.shards, "accepted"),
                duplicate=_sums(found.shards, "duplicate"),
                flushed=_sums(found.shards, "flushed"),
                dead=_sums(found.shards, "dead"),
                rejected=rejected,
            ),
            shards=[_shard(shard) for shard in found.shards],
            flush=FlushLag(max((shard.lag_s for shard in found.shards), default=0.0)),
            spool=_spool(config, found.spool),
            dead_letters=found.dead_letters,
            stores=Stores(
                _store(found.redis_error),
                _store(found.mongo_error),
                _store(found.mysql_error) if config.mysql.url else None,
            ),
            jobs=[_job(job) for job in found.jobs],
            trouble=[
                Trouble(each.level, _cut(each.text), _cut(each.do))
                for each in troubles(config, found, dt.datetime.now(dt.UTC))
            ],
        )


class ReadDead(Endpoint):
    summary = "The dead letters that wait for a decision, the oldest first"
    answer = DeadLetters

    @property
    def description(self) -> str:
        return f"For operators. A text has {TEXT_CHARS_MAX} characters at most; `tallyd dead show` has all of it."

    def ask(self, place: Entity, parameters: Parameters) -> Question:  # noqa: ARG002  (it is about everything)
        limit = parameters.integer("limit", 1, self.config.dashboard.letters_max, LETTERS_DEFAULT)
        return self.question(Kind.STATUS, limit, ttl_ms=self.config.dashboard.status_ttl_ms)

    async def _read(self, limit: int) -> DeadLetters:
        first = self.stores.mongo.dead_letters.first
        waiting, letters = await self.stores.ask(lambda: first(limit, TEXT_CHARS_MAX))
        return DeadLetters(
            waiting,
            [
                DeadLetter(
                    id=_cut(letter.id),
                    at=_instant(letter.at),
                    shard=letter.shard,
                    seq=letter.seq,
                    collection=letter.collection,
                    document=_cut(letter.document),
                    amounts={_cut(name): _amount(n) for name, n in list(letter.amounts.items())[:AMOUNTS_MAX]},
                    reason=_cut(letter.reason),
                )
                for letter in letters
            ],
        )


def _sums(shards: Iterable[ShardStatus], booked: str) -> Counters:
    sums: Counters = {}
    for shard in shards:
        for field, amount in shard.ledger.items():
            kind, _, counter = field.partition(":")
            if kind == booked:
                sums[counter] = sums.get(counter, 0) + amount
    return sums


def _shard(shard: ShardStatus) -> Shard:
    return Shard(
        shard.shard, shard.dirty, shard.in_flight, shard.in_flight_age_s, shard.owner and _cut(shard.owner),
        shard.replica_due, shard.replica_refused, shard.last_flush_age_s,
    )  # fmt: skip


def _spool(config: Config, found: Usage | None) -> Spool | None:
    if found is None:
        return None
    age_s = None if found.oldest_age_s is None else round(found.oldest_age_s, 3)
    return Spool(found.segments > 0, found.segments, found.bytes, config.spool.bytes_max, age_s, found.damaged)


def _store(error: str | None) -> Store:
    return Store(error is None, error and _cut(error))


def _job(job: JobResult) -> Job:
    return Job(job.job, job.ok, _instant(job.at), job.seconds, _cut(job.summary), job.exit_code, _cut(job.host))


def _instant(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _amount(found: Any) -> int | str:
    """An amount as it is, and a foreign value as a text."""
    return found if isinstance(found, int) else _cut(str(found))


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARS_MAX else f"{text[: TEXT_CHARS_MAX - 1]}…"
