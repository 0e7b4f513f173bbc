"""Where a call's events become durable: in Redis, or in the spool while Redis does not take them.

The batchers call it, each for its shard. `STEPS` says what holds if the worker dies. The first failed call trips
the switch. From then on no call waits for Redis, and one task asks for it. Meanwhile `outage.py` keeps senders to their
limits. Once Redis takes an event of the spool, the switch is reset: new events go to Redis at once, while the rest is
still being replayed. In a cluster each shard has a switch: one node that is away spools its own shards' events.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence

from daemon import log, metrics
from daemon.buffer.connection import Connection, RefusedError
from daemon.buffer.counters import Counters, ingest_events
from daemon.buffer.keys import shard_of
from daemon.buffer.outcome import Counted, Failed, Outcome
from daemon.buffer.wire import Request
from daemon.config import Config
from daemon.domain.event import Event
from daemon.errors import LayoutError, SpoolStoreError, StoreError
from daemon.ingest.accounts import is_producer
from daemon.ingest.outage import Outage
from daemon.retry import jittered
from daemon.spool.origin import Origin, origin_of
from daemon.spool.replay import Replayed, Replayer
from daemon.spool.segment import SEALED
from daemon.spool.spool import Spool

STEPS = {
    "send": "The client has no answer and sends the events again. If Redis counted them, they are duplicates then.",
    "append": "The client has no answer and sends the events again. A torn record is cut off, a whole one is replayed.",
    "fsync": "The client has no answer and sends the events again. The replay or the repetition is a duplicate.",
    "answer": "The events are in Redis or in a segment. A segment is deleted only after Redis answered for all of it.",
}
"""Each step of `ingest` in order, and what holds if the worker dies after it. `append` and `fsync`: while Redis takes
no events."""

_SPOOL_FULL = Failed("The spool takes no events of this sender.", "spool")

_log = logging.getLogger(__name__)


class Durable:
    """The shards' counters, with the spool in reserve. One a worker; create it in the running loop."""

    def __init__(self, counters: Sequence[Counters], probe: Connection, config: Config) -> None:
        """`counters`: one a shard, in order, over the connections of new events. `probe`: a connection of its own for
        probing and replaying, so that neither waits for new events."""
        self._counters = counters
        self._probe = probe
        self._config = config
        self._section = section = config.spool
        self._spool = Spool(section, self._origin)
        self._outage = Outage(section, config.http.workers)
        self._keyless_bytes_max = section.bytes_max * (100 - section.producers_percent) // 100
        self._replaying = replaying = probe.for_shards(len(counters))
        self._replay_counters = [each.with_connection(by) for each, by in zip(counters, replaying, strict=True)]
        self._replayer = Replayer(
            self._spool.directory, self._replay_call, self._origin, call_events_max=section.replay_call_events_max,
            shards=len(counters) if probe.is_of_cluster else 1,
        )  # fmt: skip
        self._spool_bytes = 0
        """In the spool's folder, when the keeper last looked."""
        self._tripped_at: dict[int, float] = {}
        """Shard → since when its events go to the spool. Without a cluster: all shards, or none."""
        self._spooled: set[int] = set()
        """Shards that the current segment may hold events of."""
        self.append_s_max = section.timeout_ms / 1000
        """Bound of one write to the spool."""
        self._step_s_max = self.append_s_max + len(counters) * probe.call_s_max
        self._moved_at: float | None = None
        """When the keeper made its last step; None while it waits for its next turn."""
        self._trouble = ""
        self._keeper = asyncio.create_task(self._keep())

    @property
    def spooling(self) -> bool:
        return bool(self._tripped_at)

    @property
    def nearly_full(self) -> bool:
        """Whether the spool has little room for the senders there are."""
        bytes_max = self._section.bytes_max if self._config.ingest.require_key else self._keyless_bytes_max
        return self._spool_bytes * 100 >= bytes_max * self._section.ready_percent

    def stuck(self) -> str | None:
        """What takes longer than its bound. None if nothing does."""
        if self._spool.stuck:
            return "A write to the spool"
        if self._moved_at is not None and time.monotonic() - self._moved_at > self._step_s_max:
            return "The replay of the spool"
        return None

    async def close(self) -> None:
        """Call after the last `ingest`. Stops the replay where it is, and seals this worker's segment."""
        self._keeper.cancel()
        await asyncio.wait([self._keeper])
        await self._spool.close()

    async def ingest(self, shard: int, requests: Sequence[Request]) -> Sequence[Outcome]:
        """Like `Counters.ingest`; spooled events count as new. Raises StoreError if neither store took any."""
        if shard not in self._tripped_at:
            try:
                return await self._counters[shard].ingest(requests)
            except LayoutError:
                raise  # the configuration is wrong: spooling would only hide it
            except StoreError as error:
                if isinstance(error, RefusedError) and not error.passing:
                    raise  # it would refuse the replay too
                with log.bound(shard=shard):
                    self._trip(shard, error)
        self._spooled.add(shard)
        return await self._put_aside(requests)

    async def _put_aside(self, requests: Sequence[Request]) -> list[Outcome]:
        """Appends what the senders may spool: those with a key, and the others as long as the spool has room for both.

        The events of one kind are on the disk together, or none of them is.
        """
        outcomes: list[Outcome] = [self._outage.take(request) for request in requests]
        events: dict[bool, list[Event]] = {True: [], False: []}
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, Counted):
                events[is_producer(request.sender)] += request.events[: outcome.new]
        bytes_max = {True: None, False: self._keyless_bytes_max}
        kinds = [kind for kind, some in events.items() if some]
        appends = (self._spool.append(events[kind], bytes_max[kind]) for kind in kinds)
        refused = {kind for kind, taken in zip(kinds, await asyncio.gather(*appends), strict=True) if not taken}
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, Counted) and is_producer(request.sender) in refused:
                self._outage.give_back(request, outcome.new)
        if kinds and len(refused) == len(kinds):
            raise SpoolStoreError("Neither Redis nor the spool takes events.")
        metrics.SPOOLED.inc(sum(len(events[kind]) for kind in kinds if kind not in refused))
        return [
            _SPOOL_FULL if isinstance(outcome, Counted) and request.events and is_producer(request.sender) in refused
            else outcome
            for request, outcome in zip(requests, outcomes, strict=True)
        ]  # fmt: skip

    def _trip(self, shard: int, error: StoreError) -> None:
        metrics.CALL_FAILURES.inc()
        if shard not in self._tripped_at:
            now_s = time.monotonic()
            self._tripped_at |= dict.fromkeys(self._with(shard), now_s)
            metrics.SPOOLING.set(1)
            _log.error("%s. Events go to the spool in %s until it takes them again.", error, self._spool.directory)

    def _reset(self, shard: int) -> None:
        if shard in self._tripped_at:
            _log.info("Redis takes events again, after %.1f s.", time.monotonic() - self._tripped_at[shard])
            for each in self._with(shard):
                self._tripped_at.pop(each, None)
            metrics.SPOOLING.set(self.spooling)

    def _with(self, shard: int) -> Sequence[int]:
        """The shards that are away if this one is."""
        return (shard,) if self._probe.is_of_cluster else range(len(self._counters))

    async def _keep(self) -> None:
        """Probes Redis while events are spooled, and replays the spool."""
        while True:
            await asyncio.sleep(jittered(self._section.probe_ms / 1000))
            done, trouble = Replayed(), ""
            self._moved(done)
            try:
                await self._attempt(done)
            except StoreError as error:
                _log.debug("Redis does not take the spool yet: %s", error)
            except OSError as error:
                trouble = f"The spool in {self._spool.directory} cannot be replayed: {error}"
            except Exception:  # noqa: BLE001  (drivers raise more than they say, and nobody else replays the spool)
                metrics.FAULTS.labels("replay").inc()
                _log.exception("Replaying the spool in %s failed", self._spool.directory)
            if trouble and trouble != self._trouble:
                _log.error("%s", trouble)
            self._trouble = trouble
            self._moved_at = None
            if done.segments:
                _log.info(
                    "Replayed %d events of %d segments from the spool; %d were new.",
                    done.events, done.segments, done.counted,
                )  # fmt: skip

    async def _attempt(self, done: Replayed) -> None:
        """Looks at Redis and the spool once. Raises StoreError if Redis does not take events."""
        contents = await self._replayer.contents()
        self._spool_bytes = contents.bytes
        if not self.spooling and all(path.name in self._replayer.strays for path in contents.segments):
            self._outage.clear()  # what is left is nobody's here, so it is nobody's share
            if not contents.segments:
                return
        with contextlib.nullcontext() if not self._probe.is_of_cluster else contextlib.suppress(StoreError):
            await self._probe.ping()  # its epoch says which segments are its own
        sealed = (path.suffix == SEALED and path.name not in self._replayer.strays for path in contents.segments)
        if not any(sealed) or not self.spooling or self._spooled - self._tripped_at.keys():
            # New events go to Redis; or a sealed segment is needed to try it with.
            self._spooled = set(self._tripped_at)
            await self._spool.seal()
        if not self._probe.is_of_cluster:
            await self._replayer.replay(done, self._moved)
            self._reset(0)
            return
        try:
            await self._replayer.replay(done, self._moved)
        except StoreError:
            await self._reset_those_there()
            raise
        await self._reset_those_there()

    async def _reset_those_there(self) -> None:
        """Of a cluster: also shards that the spool holds nothing of."""
        for shard in self._tripped_at.keys() - self._replayer.away.keys():
            with contextlib.suppress(StoreError), log.bound(shard=shard):
                await self._replaying[shard].ping()
                self._reset(shard)

    def _origin(self) -> Origin:
        """The Redis of the last connection."""
        return origin_of(self._config, self._probe.epoch)

    def _moved(self, _: Replayed) -> None:
        self._moved_at = time.monotonic()

    async def _replay_call(self, events: list[Event]) -> int:
        """In a cluster, of one shard."""
        counted = await ingest_events(self._replay_counters, events)
        shard = shard_of(events[0].entity, len(self._counters))
        with log.bound(shard=shard):
            self._reset(shard)
        return counted
