"""Documents of a claim that get the same amounts are written together, and each as exactly as if it were alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from daemon.domain.entity import Entity
from daemon.domain.outcome import Failure, SinkResult
from daemon.domain.rollup import DAILY, KINDS, TOTALS, Document, Kind, Rollup
from daemon.rollups import mongo as sink_of_mongo
from daemon.rollups.errors import UNAPPLICABLE
from daemon.rollups.mongo import MongoSink
from tests.kit.system import System

SEQ, LATER = 50, 60
ZEROS = {"jav": ("download", "view")}


def claim(amounts: dict[str, dict[str, int]], kind: Kind = DAILY) -> Rollup:
    """Amounts per entity id, of one rollup."""
    documents = []
    for id_, by_counter in amounts.items():
        entity = Entity("jav", "movie", id_)
        bucket = None if kind is TOTALS else "2026-02-19"
        document_id = entity.key if bucket is None else f"{entity.key}:{bucket}"
        documents.append(Document(document_id, entity, bucket, by_counter))
    return Rollup({kind: [] for kind in KINDS} | {kind: documents}, [])


def write(system: System, *claims: tuple[Rollup, int], router: bool = False) -> list[SinkResult]:
    """Applies claims, each under its seq. `router`: as if one of a sharded cluster answered."""

    async def run() -> list[SinkResult]:
        async with MongoSink(system.config().mongo) as mongo:
            if router:
                mongo._sharded = True
            await mongo.ensure_indexes()
            return [await mongo.write(rollup, seq, ZEROS) for rollup, seq in claims]

    return asyncio.run(run())


def stored(system: System, kind: Kind = DAILY) -> dict[str, Any]:
    return {document["entity_id"]: document for document in system.mongo[kind.collection].find()}


@pytest.mark.parametrize("kind", [TOTALS, DAILY], ids=lambda kind: kind.name)
def test_what_is_inserted_together_is_what_would_be_inserted_alone(system: System, kind: Kind) -> None:
    write(system, (claim({"a": {"view": 3}}, kind), SEQ), (claim({"b": {"view": 3}, "c": {"view": 3}}, kind), SEQ))
    alone, *together = (
        {name: value for name, value in document.items() if name not in ("_id", "entity_id", "updated_at")}
        for document in stored(system, kind).values()
    )
    assert together == [alone, alone]
    assert {type(document["view"]) for document in stored(system, kind).values()} == {int}


@pytest.mark.parametrize("documents_max", [2, 3, 2_000], ids="up to {} a command".format)
def test_some_are_there_some_are_new_and_some_have_it_already(
    system: System, monkeypatch: pytest.MonkeyPatch, documents_max: int
) -> None:
    monkeypatch.setattr(sink_of_mongo, "COMMAND_DOCUMENTS_MAX", documents_max)
    two, three = {"view": 2, "download": 1}, {"view": 3}
    whole = claim({id_: two if id_ in "efg" else three for id_ in "abcdefg"}, TOTALS)
    once = (claim({id_: {"view": 10} for id_ in "abe"}, TOTALS), SEQ - 1)
    half = (claim({"b": three, "f": two}, TOTALS), SEQ)
    *_, first, again = write(system, once, half, (whole, SEQ), (whole, SEQ))
    assert first == SinkResult(5, already=2, inserted=3)
    assert again == SinkResult(0, already=7)
    found = stored(system, TOTALS)
    assert {id_: (each["view"], each["download"], each["flush_seq"]) for id_, each in found.items()} == {
        "a": (13, 0, SEQ), "b": (13, 0, SEQ), "c": (3, 0, SEQ), "d": (3, 0, SEQ),
        "e": (12, 1, SEQ), "f": (2, 1, SEQ), "g": (2, 1, SEQ),
    }  # fmt: skip


def test_a_late_flusher_finds_that_all_of_them_hold_a_later_claim(system: System) -> None:
    rollup = claim({id_: {"view": 1} for id_ in "abc"})
    *_, late = write(system, (rollup, LATER), (rollup, SEQ))
    assert late == SinkResult(0, already=3)
    assert {(each["view"], each["flush_seq"]) for each in stored(system).values()} == {(1, LATER)}


def test_one_that_cannot_take_it_holds_up_none_of_the_others(system: System) -> None:
    ids = "abcdefgh"
    before = (claim({id_: {"view": 1} for id_ in ids[:6]}), SEQ - 1)
    write(system, before)
    daily = system.mongo[DAILY.collection]
    daily.update_one({"entity_id": "d"}, {"$set": {"view": "seven"}})
    daily.update_one({"entity_id": "e"}, {"$set": {"flush_seq": "a text"}})
    whole = (claim({id_: {"view": 2} for id_ in ids}), SEQ)
    first, again = write(system, whole, whole)
    refused = Failure(DAILY.collection, "jav:movie:d:2026-02-19", UNAPPLICABLE[14])
    assert (first.failures, again) == ((refused,), SinkResult(0, already=7, failures=(refused,)))
    assert first.applied + first.already == 7
    found = stored(system)
    assert {id_: each["view"] for id_, each in found.items()} == {
        "a": 3, "b": 3, "c": 3, "d": "seven", "e": 3, "f": 3, "g": 2, "h": 2,
    }  # fmt: skip


def test_a_natural_key_of_another_refuses_one_of_the_new_documents(system: System) -> None:
    write(system, (claim({"a": {"view": 1}}), SEQ - 1))
    daily = system.mongo[DAILY.collection]
    other = daily.find_one_and_delete({"entity_id": "a"})
    daily.insert_one({**other, "_id": "another"})
    [result] = write(system, (claim({id_: {"view": 2} for id_ in "abc"}), SEQ))
    assert result.applied == 2
    assert [failure.id for failure in result.failures] == ["jav:movie:a:2026-02-19"]


def test_a_router_is_asked_for_each_document(system: System) -> None:
    """It counts a document twice while that is moved to another shard: on the old one, too."""
    rollup = claim({id_: {"view": 1} for id_ in "abc"})
    system.mongo.command("profile", 2)
    try:
        assert write(system, (rollup, SEQ), (rollup, LATER), router=True) == [SinkResult(3)] * 2
    finally:
        system.mongo.command("profile", 0)
    updates = list(system.mongo["system.profile"].find({"op": "update", "ns": {"$regex": "analytics_entity_daily$"}}))
    assert [each["command"]["multi"] for each in updates] == [False] * 6
