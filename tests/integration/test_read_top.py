"""Top lists against the obvious way: add everything up and sort. Lists of any shape, bases, ties, deep and shallow."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.domain.window import Window, span_of
from daemon.errors import StoreError
from daemon.read import top as top_module
from daemon.read.top import Ranked, TopReader
from daemon.rollups.mongo import MongoSink
from tests.kit.proxy import Gate
from tests.kit.system import ROLLUPS, WAIT_TIMEOUT_S, System, event, wait_until

TODAY = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
DAYS = [(TODAY - dt.timedelta(n)).date().isoformat() for n in range(8)]
"""One more than a window of seven has."""

Amounts = dict[tuple[str, str], tuple[int, int]]
"""(entity id, day) → counted, base."""

amounts = st.dictionaries(
    st.tuples(st.sampled_from([f"m{n}" for n in range(12)]), st.sampled_from(DAYS)),
    st.tuples(st.integers(0, 40), st.one_of(st.just(0), st.integers(0, 60))),
    max_size=60,
)


@pytest.fixture(scope="module")
def indexed(shared_system: System) -> System:
    shared_system.make_indexes()
    return shared_system


@pytest.fixture
def small_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a dozen entities are many."""
    monkeypatch.setattr(top_module, "DEPTH_FIRST", 1)
    monkeypatch.setattr(top_module, "DEPTH_GROWTH", 2)


def fill(system: System, found: Amounts) -> None:
    documents = [
        {
            "_id": f"jav:movie:{entity}:{day}", "domain": "jav", "entity_type": "movie", "entity_id": entity,
            "date": day, "view": counted, **({"base": {"view": base}} if base else {}),
        }
        for (entity, day), (counted, base) in found.items()
    ]  # fmt: skip
    for name, left_out in (("daily", ()), ("totals", ("date",))):
        collection = system.mongo[f"analytics_entity_{name}"]
        collection.delete_many({})
        if name == "totals":
            documents = list(summed(documents))
        if documents:
            collection.insert_many([{k: v for k, v in each.items() if k not in left_out} for each in documents])


def summed(documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Totals out of daily documents."""
    for entity in {each["entity_id"] for each in documents}:
        own = [each for each in documents if each["entity_id"] == entity]
        base = sum(each.get("base", {}).get("view", 0) for each in own)
        yield {
            **own[0], "_id": f"jav:movie:{entity}", "view": sum(each["view"] for each in own), "base": {"view": base}
        }  # fmt: skip


def expected(found: Amounts, window: Window) -> Counter[str]:
    span = span_of(window, TODAY)
    sums: Counter[str] = Counter()
    for (entity, day), (counted, base) in found.items():
        if window == "total" or day in span.buckets:
            sums[entity] += counted + base
    return +sums


def read(system: System, window: Window, limit: int, timeout_s: float = 10) -> list[Ranked]:
    async def work() -> list[Ranked]:
        mongo = MongoSink(system.config().mongo)
        try:
            return await TopReader(mongo, timeout_s).read("jav", "movie", "view", window, limit, TODAY)
        finally:
            await mongo.close()

    return asyncio.run(work())


def agrees(found: list[Ranked], sums: Counter[str], limit: int) -> bool:
    """Of equals at the end of the list, any may be on it."""
    return (
        [row.amount for row in found] == sorted(sums.values(), reverse=True)[:limit]
        and all(row.amount == sums[row.entity_id] for row in found)
        and found == sorted(found, key=lambda row: (-row.amount, row.entity_id))
    )


@pytest.mark.usefixtures("small_rounds")
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(amounts, st.sampled_from(["total", "day", "7d"]), st.integers(1, 5))
def test_the_list_is_what_adding_up_everything_gives(
    indexed: System, found: Amounts, window: Window, limit: int
) -> None:
    fill(indexed, found)
    assert agrees(read(indexed, window, limit), expected(found, window), limit)


def flat(amount: int) -> Amounts:
    """Every entity is ahead on one day and has little on the others: the first line of each list says nothing."""
    return {(f"m{n}", day): (amount if n % 7 == at else 1, 0) for n in range(40) for at, day in enumerate(DAYS[:7])}


@pytest.mark.usefixtures("small_rounds")
@pytest.mark.parametrize("limit", ["LINES_MAX", "LOOKUPS_MAX"])
def test_what_would_be_read_too_deep_is_added_up_by_the_server(
    indexed: System, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    found = flat(50)
    fill(indexed, found)
    added_up = []
    by_sum = TopReader._by_sum

    async def watched(self: TopReader, *args: Any) -> list[Ranked]:
        added_up.append(args)
        return await by_sum(self, *args)

    monkeypatch.setattr(TopReader, "_by_sum", watched)
    assert agrees(read(indexed, "7d", 3), expected(found, "7d"), 3)
    assert added_up == []
    monkeypatch.setattr(top_module, limit, 20)
    assert agrees(read(indexed, "7d", 3), expected(found, "7d"), 3)
    assert len(added_up) == 1


def test_adding_up_has_an_end(indexed: System, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(indexed, flat(50))
    monkeypatch.setattr(top_module, "LINES_MAX", 0)
    with pytest.raises(StoreError):
        read(indexed, "7d", 3, timeout_s=1e-6)


def test_flushing_does_not_wait_for_the_indexes_of_lists(system: System) -> None:
    """Over millions of documents that exist already, building them takes minutes."""
    system.count(event(entity_id="m"))
    mongo = Gate(system.env["TALLYD_MONGO__URL"], b"top_view")
    totals = system.mongo.analytics_entity_totals
    with mongo.running(), system.flusher(MONGO__URL=mongo.url(), FLUSH__INTERVAL_S="0.1"):
        assert mongo.tripped.wait(WAIT_TIMEOUT_S)
        wait_until(lambda: system.rollup("totals") == {"jav:movie:m": {"view": 1}}, "it is flushed")
        assert "top_view" not in totals.index_information()
        mongo.release()
        wait_until(lambda: "base_view" in totals.index_information(), "the index is there")


def test_only_the_lists_that_are_offered_cost_indexes(system: System) -> None:
    system.count(event(entity_id="m"))
    system.flush(READ__TOP_WINDOWS='["total", "7d"]')
    has_lists = {name: "top_view" in system.mongo[f"analytics_entity_{name}"].index_information() for name in ROLLUPS}
    assert has_lists == {"totals": True, "daily": True, "weekly": False, "monthly": False, "yearly": False}


@pytest.mark.parametrize("window", ["total", "day", "24h", "30d", "year"])
def test_each_list_is_read_by_its_index(indexed: System, window: Window) -> None:
    """Of a million documents no more than the lines wanted are looked at."""
    span = top_module._CounterSpan({"domain": "jav", "entity_type": "movie"}, "view", span_of(window, TODAY))
    for field, index in ((span.counter, "top_view"), (span.base, "base_view")):
        plan = indexed.mongo.command(
            "explain",
            {"aggregate": span.kind.collection, "pipeline": span.list_pipeline(0, 0, field, 10), "cursor": {}},
            verbosity="queryPlanner",
        )
        planner = plan["stages"][0]["$cursor"] if "stages" in plan else plan
        text = str(planner["queryPlanner"]["winningPlan"])
        assert f"'indexName': '{index}'" in text
        assert "'stage': 'SORT'" not in text
