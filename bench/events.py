"""The events every benchmark counts, and calls of `ingest.lua` that carry them, encoded by tallyd's own code."""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import hiredis
import msgspec

from daemon.buffer.confirm import Memory
from daemon.buffer.counters import Counters, Limits
from daemon.buffer.keys import Keys
from daemon.buffer.scripts import Script
from daemon.buffer.wire import unlimited
from daemon.config import Config
from daemon.domain.event import Event
from daemon.ingest.decode import Batch, Decoder, build_catalogue

ENTITIES = 5_000

MINUTE = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M")
"""When all events happened, as clients report them when they do, not hours ahead. The same for the whole run: midnight
must not change the work."""
DAY = MINUTE[:10]
"""It names the hash field."""


def on_the_wire(number: int, event_id: str, generation: int = 0) -> dict[str, Any]:
    """One event, as requests.lua makes it. `generation`: which 5,000 entities."""
    i = number % ENTITIES
    return {
        "event_id": event_id,
        "domain": "jav",
        "entity_type": "movie",
        "entity_id": f"0f8fad5b-d9cb-469f-a{generation:03x}-{i:012x}",
        "action": "view" if i % 5 else "download",
        "value": 1,
        "occurred_at": f"{MINUTE}:{i * 7 % 60:02d}.{i * 13 % 1000:03d}Z",
    }


def unique_id(tag: str, number: int) -> str:
    """An event id in the form of a UUID. `tag`: 8 hex digits."""
    return f"{tag}-0000-4000-8000-{number:012x}"


def decoder(config: Config) -> Decoder:
    """tallyd's own."""
    return Decoder(build_catalogue(config), batch_events_max=ENTITIES, clock=time.time)


def admitted(config: Config, count: int, *, generation: int = 0) -> Iterator[Event]:
    """Events as the decoder hands them on: every id new, over the 5,000 entities in turn."""
    models = _decoded(config, generation)
    tag = secrets.token_hex(4)
    for number in range(count):
        model = models[number % ENTITIES]
        yield Event(unique_id(tag, number), model.entity, model.effect)


def _decoded(config: Config, generation: int) -> Sequence[Event]:
    """One event for each of the generation's entities."""
    batch = decoder(config).batch(msgspec.json.encode([on_the_wire(i, "x", generation) for i in range(ENTITIES)]))
    assert isinstance(batch, Batch)
    assert not batch.rejected
    return batch.events


def spread(config: Config, count: int, of: int) -> Iterator[Event]:
    """An event for each of `count` entities, taken evenly from `of`."""
    generations = of // ENTITIES
    models = [model for generation in range(generations) for model in _decoded(config, generation)]
    tag = secrets.token_hex(4)
    for number in range(count):
        model = models[number * of // count]
        yield Event(unique_id(tag, number), model.entity, model.effect)


def calls(config: Config, events: Iterable[Event], events_per_call: int) -> list[bytes]:
    """Calls of `ingest.lua` ready to be written to a socket: what `Counters` sends for these events."""
    recorder = _Recorder(Keys(config.redis.prefix))
    counters = Counters(recorder, 0, Limits.of(config))  # type: ignore[arg-type]  # has what is asked of it

    async def record() -> None:
        left = iter(events)
        while taken := list(islice(left, events_per_call)):
            await counters.ingest([unlimited(taken)])

    asyncio.run(record())
    return recorder.packed


class _Recorder:
    """Stands in the connection's place and keeps what would be sent."""

    is_open, memory = True, Memory("", 0)

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.packed: list[bytes] = []

    async def run(self, script: Script, names: Sequence[str], args: Sequence[Any]) -> list[int]:
        command: Any = ("EVALSHA", script.sha, len(names), *names, *args)
        self.packed.append(hiredis.pack_command(command))
        return []
