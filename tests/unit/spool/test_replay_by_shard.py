"""A replay while some shards of a cluster are away: each shard's events are sent once it takes them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from daemon.buffer.keys import shard_of
from daemon.domain.action import Effect
from daemon.domain.event import Event
from daemon.errors import RedisStoreError
from daemon.spool.origin import Origin
from daemon.spool.record import encode
from daemon.spool.replay import Replayed, Replayer
from daemon.spool.segment import Writer
from tests.kit.loop import in_loop

HERE = Origin(7, 1, 3, 172_800, "a:1,b:1")
SHARDS = 3
EFFECT = Effect((("view", "view:2026-02-19", "1"),))


class Nodes:
    """Three shards, of which some are `away`."""

    def __init__(self) -> None:
        self.away: set[int] = set()
        self.sent: list[tuple[int, str]] = []
        self.asked = 0

    async def ingest(self, events: list[Event]) -> int:
        (shard,) = {shard_of(each.entity, SHARDS) for each in events}
        self.asked += 1
        if shard in self.away:
            raise RedisStoreError(f"shard {shard} is away")
        self.sent += [(shard, each.event_id) for each in events]
        return len(events)


async def write(folder: Path, name: str, shards: set[int]) -> None:
    """A segment with four events of each of these shards."""
    writer = await asyncio.to_thread(Writer, folder, HERE)
    for number in range(4):
        keys = {shard_of(key, SHARDS): key for key in (f"jav:movie:m{each}" for each in range(30))}
        for shard in sorted(shards):
            writer.append(encode([Event(f"{name}{shard}{number}", keys[shard], EFFECT)]))
    await asyncio.to_thread(writer.seal)


@in_loop
async def test_each_shard_gets_its_events_once_and_a_segment_stays_until_all_have(tmp_path: Path) -> None:
    nodes = Nodes()
    await write(tmp_path, "mixed", {0, 1, 2})
    await write(tmp_path, "away", {1})
    await write(tmp_path, "here", {0, 2})
    replayer = Replayer(tmp_path, nodes.ingest, lambda: HERE, call_events_max=5, shards=SHARDS)
    nodes.away = {1}
    done = Replayed()
    with pytest.raises(RedisStoreError, match="shard 1 is away"):
        await replayer.replay(done)
    assert replayer.away.keys() == {1}
    assert (done.segments, done.events) == (1, 16)
    assert {shard for shard, _ in nodes.sent} == {0, 2}

    asked = nodes.asked
    with pytest.raises(RedisStoreError):
        await replayer.replay(done)
    assert nodes.asked == asked + 1, "nothing is sent again, and who is away is asked once"

    nodes.away = set()
    await replayer.replay(done)
    assert (done.segments, done.events) == (3, 24)
    assert len(nodes.sent) == len(set(nodes.sent)) == 24
    assert replayer.away == {}
    assert (await replayer.contents()).segments == []


@in_loop
async def test_a_shard_that_goes_away_half_way_is_not_asked_again_in_this_replay(tmp_path: Path) -> None:
    nodes = Nodes()
    for name in "abc":
        await write(tmp_path, name, {0, 1})
    replayer = Replayer(tmp_path, nodes.ingest, lambda: HERE, call_events_max=2, shards=SHARDS)
    nodes.away = {0, 1}
    for _ in range(2):
        asked = nodes.asked
        with pytest.raises(RedisStoreError):
            await replayer.replay(Replayed())
        assert nodes.asked == asked + 2
    nodes.away = {0}
    with pytest.raises(RedisStoreError):
        await replayer.replay(Replayed())
    assert sorted(set(nodes.sent)) == sorted((1, f"{name}1{number}") for name in "abc" for number in range(4))
