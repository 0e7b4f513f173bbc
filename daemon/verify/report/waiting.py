"""What is not in MongoDB or MySQL yet: live, in flight, due, and in the spool of this machine."""

from __future__ import annotations

from collections.abc import Sequence

from daemon.domain.counter import add_up
from daemon.domain.rollup import DAILY
from daemon.errors import StoreError
from daemon.read.status import Status
from daemon.verify.audit.hot import Hot
from daemon.verify.report.artifact import Amounts, Waiting


def waiting(status: Status, hot: Sequence[Hot]) -> Waiting:
    """Raises StoreError if a store did not answer when `status` was read."""
    if status.redis_error or status.mongo_error:
        raise StoreError(status.redis_error or status.mongo_error)
    return Waiting(
        live=add_up(shard.live for shard in hot),
        in_flight=add_up(shard.in_flight_sums() for shard in hot),
        dirty_entities=sum(shard.dirty for shard in status.shards),
        due_rows=sum(shard.replica_due for shard in status.shards),
        dead_letters=status.dead_letters or 0,
        spool_segments=status.spool.segments if status.spool else 0,
        spool_bytes=status.spool.bytes if status.spool else 0,
    )


def live_of_day(hot: Sequence[Hot], date: str) -> Amounts:
    return add_up(shard.live_by_day.get(date, {}) for shard in hot)


def in_flight_of_day(hot: Sequence[Hot], date: str) -> Amounts:
    return add_up(
        document.amounts
        for shard in hot
        if shard.in_flight is not None
        for document in shard.in_flight.documents[DAILY]
        if document.bucket == date
    )
