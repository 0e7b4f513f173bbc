"""Totals out of MongoDB: readers go together in one query, and each is told its own."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from daemon.errors import StoreError
from daemon.read.totals import QUERY_IDS_MAX, TotalsReader
from tests.kit.loop import in_loop


class Held:
    """A MongoDB that knows every key, and answers when the test says so."""

    def __init__(self) -> None:
        self.queries: list[set[str]] = []
        self.gate = asyncio.Event()
        self.away = False

    async def totals(self, ids: Collection[str]) -> dict[str, Any]:
        self.queries.append(set(ids))
        await self.gate.wait()
        if self.away:
            raise StoreError("away")
        return {id_: {"_id": id_} for id_ in ids if not id_.startswith("no")}


def reader(mongo: Held) -> TotalsReader:
    return TotalsReader(mongo.totals)


@in_loop
async def test_who_asks_during_a_query_goes_with_the_next_one() -> None:
    mongo = Held()
    totals = reader(mongo)
    first = asyncio.create_task(totals.documents(["a"]))
    await asyncio.sleep(0.001)
    others = [asyncio.create_task(totals.documents(keys)) for keys in (["a", "b"], ["c"], ["no such"])]
    await asyncio.sleep(0.001)
    others[1].cancel()
    assert mongo.queries == [{"a"}], "a query that began before it was asked for would be too old"
    mongo.gate.set()
    assert await first == {"a": {"_id": "a"}}
    assert await others[0] == {"a": {"_id": "a"}, "b": {"_id": "b"}}
    assert await others[2] == {}
    assert mongo.queries == [{"a"}, {"a", "b", "c", "no such"}]


@in_loop
async def test_a_query_has_a_bound_beyond_its_first_request() -> None:
    mongo = Held()
    mongo.gate.set()
    totals = reader(mongo)
    many = [[f"{n}:{i}" for i in range(QUERY_IDS_MAX // 2 + 1)] for n in range(3)]
    found = await asyncio.gather(*(totals.documents(keys) for keys in many))
    assert [list(each) for each in found] == many
    assert [len(query) for query in mongo.queries] == [QUERY_IDS_MAX // 2 + 1] * 3


@in_loop
async def test_a_failure_is_told_to_all_who_waited_and_the_next_one_asks_again() -> None:
    mongo = Held()
    mongo.gate.set()
    mongo.away = True
    totals = reader(mongo)
    found = await asyncio.gather(*(totals.documents(["a"]) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in found] == [StoreError] * 3
    mongo.away = False
    assert await totals.documents(["a"]) == {"a": {"_id": "a"}}


@pytest.mark.parametrize("requests", [1, 50])
@in_loop
async def test_readers_that_ask_at_once_cost_one_query(requests: int) -> None:
    mongo = Held()
    mongo.gate.set()
    totals = reader(mongo)
    await asyncio.gather(*(totals.documents([str(n)]) for n in range(requests)))
    assert len(mongo.queries) == 1
