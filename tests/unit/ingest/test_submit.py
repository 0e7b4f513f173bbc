"""A single event goes to its shard without a task of its own, whatever number of shards there are."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence

from daemon.buffer.keys import shard_of
from daemon.buffer.outcome import Counted, Limited, Outcome
from daemon.buffer.wire import Limit, Request
from daemon.config import Ingest, load
from daemon.ingest.accounts import Account
from daemon.ingest.batcher import Batcher, Call
from daemon.ingest.decode import Decoder, build_catalogue
from daemon.ingest.handler import Handler
from daemon.metrics import IngestTally
from tests.kit.events import event
from tests.kit.loop import in_loop

SHARDS = 4
SENDER = "198.51.100.7"


class Shards:
    """Handles each event, and remembers which shard got which request. `left`: what the sender's limit has left."""

    def __init__(self, left: int = 10) -> None:
        config = load(environ={"TALLYD_REDIS__URL": "redis://nowhere", "TALLYD_INGEST__MAX_AGE_S": "0"})
        self.calls: list[tuple[int, Request]] = []
        self.left = left
        batchers = [Batcher(self._call_of(shard), IngestTally(), Ingest()) for shard in range(SHARDS)]
        decoder = Decoder(build_catalogue(config), batch_events_max=1, clock=time.time)
        self.handler = Handler(config, decoder, None, batchers, IngestTally())

    def _call_of(self, shard: int) -> Call:
        async def call(requests: Sequence[Request]) -> list[Counted | Limited]:
            self.calls += [(shard, request) for request in requests]
            return [self._outcome(request) for request in requests]

        return call

    def _outcome(self, request: Request) -> Counted | Limited:
        if request.limit is not None and request.limit.events_per_minute:
            if not self.left:
                return Limited(500)
            self.left -= 1
        return Counted(len(request.events), room=self.left if request.limit else 0)

    async def send(self, entity: str, limit: Limit | None) -> Outcome:
        told: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        account = Account(SENDER, "", 0, time.monotonic, limit)
        body = json.dumps(event(entity_id=entity)).encode()
        assert self.handler.submit(body, account, told.set_result)
        return await told


def shard_of_movie(entity: str) -> int:
    return shard_of(f"jav:movie:{entity}", SHARDS)


@in_loop
async def test_without_a_limit_it_is_one_call_to_the_shard_of_its_entity() -> None:
    shards = Shards()
    for number in range(20):
        assert await shards.send(f"m{number}", None) == Counted(1)
    assert [shard for shard, _ in shards.calls] == [shard_of_movie(f"m{number}") for number in range(20)]


@in_loop
async def test_the_limit_is_charged_in_the_senders_shard_before_the_event_is_counted() -> None:
    shards, own = Shards(), shard_of(SENDER, SHARDS)
    elsewhere = next(f"m{number}" for number in range(99) if shard_of_movie(f"m{number}") != own)
    here = next(f"m{number}" for number in range(99) if shard_of_movie(f"m{number}") == own)
    assert await shards.send(elsewhere, Limit(60, 5)) == Counted(1, room=9)
    (charged_in, charge), (counted_in, count) = shards.calls
    assert (charged_in, charge.limit, charge.events) == (own, Limit(60, 5), ())
    assert (counted_in, count.limit, len(count.events)) == (shard_of_movie(elsewhere), Limit(0, 5), 1)
    assert await shards.send(here, Limit(60, 5)) == Counted(1, room=8)
    assert len(shards.calls) == 3, "both lie in one shard"


@in_loop
async def test_what_the_limit_refuses_is_not_counted() -> None:
    shards, own = Shards(left=0), shard_of(SENDER, SHARDS)
    elsewhere = next(f"m{number}" for number in range(99) if shard_of_movie(f"m{number}") != own)
    assert await shards.send(elsewhere, Limit(60, 0)) == Limited(500)
    assert [shard for shard, _ in shards.calls] == [own]
