"""Parts of the hot paths, one benchmark each. Not collected by `just test`; `python -m bench --only parts` runs it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from pymongo.asynchronous.database import AsyncDatabase

from bench import events
from daemon import config as configuration
from daemon.config import Config, MongoSection
from daemon.domain.event import Event, Rejection
from daemon.domain.rollup import Rollup
from daemon.flush.rollup import build
from daemon.ingest import response
from daemon.ingest.decode import Batch
from daemon.sinks.mongo import MongoSink

BATCH = 200


@pytest.fixture(scope="module")
def config() -> Config:
    """The defaults."""
    return configuration.load(environ={})


@pytest.fixture(scope="module")
def amounts(config: Config) -> list[tuple[str, list[tuple[str, str]]]]:
    """What a claim of 5,000 entities hands over."""
    return [
        (event.entity, [(field, amount) for _, field, amount in event.effect.increments])
        for event in events.admitted(config, events.ENTITIES)
    ]


def told(benchmark: Any, what: str, items: int = 1) -> Any:
    """The benchmark, with the words for the table and the number of things one call handles."""
    benchmark.extra_info.update(what=what, items=items)
    return benchmark


def test_decode_single(benchmark: Any, config: Config) -> None:
    decoder = events.decoder(config)
    bodies = [msgspec.json.encode(events.on_the_wire(n, events.unique_id("00000000", n))) for n in range(1000)]
    told(benchmark, "decode and admit a single event", len(bodies))
    assert isinstance(benchmark(lambda: [decoder.single(body) for body in bodies])[0], Event)


def test_decode_batch(benchmark: Any, config: Config) -> None:
    decoder = events.decoder(config)
    wire = [events.on_the_wire(n, events.unique_id("00000000", n)) for n in range(BATCH)]
    batch = told(benchmark, f"decode and admit a batch of {BATCH}, an event", BATCH)(
        decoder.batch, msgspec.json.encode(wire)
    )
    assert isinstance(batch, Batch)
    assert len(batch.events) == BATCH


def test_refuse(benchmark: Any, config: Config) -> None:
    decoder = events.decoder(config)
    wrong = {**events.on_the_wire(0, ""), "value": 0, "entity_type": "film", "occurred_at": "yesterday"}
    body = msgspec.json.encode(wrong)

    def refuse() -> response.Response:
        judged = decoder.single(body)
        assert isinstance(judged, Rejection)
        return response.invalid(judged)

    assert told(benchmark, "refuse an event with 4 wrong fields: 422")(refuse).status == 422


def test_encode(benchmark: Any, config: Config) -> None:
    admitted = list(events.admitted(config, 4 * BATCH))
    assert told(benchmark, "encode a call of 800 events, an event", len(admitted))(
        events.calls, config, admitted, len(admitted)
    )


def test_rollup(benchmark: Any, amounts: list[tuple[str, list[tuple[str, str]]]]) -> None:
    rollup = told(benchmark, "roll up a claim of 5,000, an entity", len(amounts))(build, amounts)
    assert [len(documents) for documents in rollup.documents.values()] == [events.ENTITIES] * 5


def test_statements(
    benchmark: Any, amounts: list[tuple[str, list[tuple[str, str]]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From documents to what pymongo is handed; what pymongo would do with it is cut off."""
    rollup = build(amounts)
    handed: list[int] = []

    async def command(_self: object, _name: str, _target: str, *, updates: list[Any], **_: Any) -> dict[str, Any]:
        handed.append(len(updates))
        return {"ok": 1}

    monkeypatch.setattr(AsyncDatabase, "command", command)

    def statements(rollup: Rollup) -> None:
        handed.clear()

        async def write() -> None:
            sink = MongoSink(MongoSection(url="mongodb://127.0.0.1:1/x"))  # never connects
            await sink.write(rollup, 1, {"jav": ("download", "view")})
            await sink.close()

        asyncio.run(write())

    told(benchmark, "build the five bulk writes of 5,000 entities, an entity", events.ENTITIES)(statements, rollup)
    assert sum(handed) == events.ENTITIES * len(rollup.documents)
