"""A claim turned into documents, against a computation that shares nothing with it."""

from __future__ import annotations

import datetime as dt
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from daemon.domain.rollup import (
    COARSER,
    COMPLETE,
    DAILY,
    HOURLY,
    KINDS,
    MONTHLY,
    TOTALS,
    WEEKLY,
    YEARLY,
    Malformed,
    Rollup,
)
from daemon.rollups.build import build
from tests.kit.system import ROLLUPS, expected_rollups

INT64_MAX = 2**63 - 1
Amounts = list[tuple[str, list[tuple[str, str]]]]

entities = st.builds("{}:{}:{}".format, st.sampled_from(["jav", "web"]), st.sampled_from(["movie", "tag"]),
                     st.sampled_from(["a", "b", "a:b", "ü/{1}", "2026-02-19"]))  # fmt: skip
counters = st.sampled_from(["view", "download", "rating_sum"])
days = st.dates(dt.date(1, 1, 1), dt.date(9999, 12, 31)) | st.sampled_from(
    [dt.date(2024, 12, 29), dt.date(2024, 12, 30), dt.date(2024, 2, 29), dt.date(2026, 12, 31), dt.date(2027, 1, 1)]
)
small = st.integers(-1_000, 10**9)


def as_claim(counted: list[tuple[str, str, dt.date, int]]) -> Amounts:
    """As `claim.lua` hands it out: an entity's fields together, each field once."""
    claim: dict[str, Counter[str]] = {}
    for entity, counter, day, amount in counted:
        claim.setdefault(entity, Counter())[f"{counter}:{day.isoformat()}"] += amount
    return [(entity, [(field, str(amount)) for field, amount in fields.items()]) for entity, fields in claim.items()]


OF_A_DAY = (TOTALS, DAILY, *COARSER)
"""The rollups whose bucket of a day the calendar tells."""


def as_dict(rollup: Rollup) -> dict[str, dict[str, dict[str, int]]]:
    for kind, documents in rollup.documents.items():
        assert len({document.id for document in documents}) == len(documents), f"{kind.name}: a document twice"
    return {kind.name: {document.id: document.amounts for document in rollup.documents[kind]} for kind in OF_A_DAY}


@settings(max_examples=300)
@given(st.lists(st.tuples(entities, counters, days, small), max_size=30))
@example([("jav:movie:a", "view", dt.date(2024, 12, 30), 1), ("jav:movie:a", "view", dt.date(2025, 1, 1), 2)])
@example([("jav:movie:a", "view", dt.date(2026, 12, 31), 1), ("jav:movie:a", "view", dt.date(2027, 1, 1), 2)])
def test_documents_agree_with_the_calendar(counted: list[tuple[str, str, dt.date, int]]) -> None:
    rollup = build(as_claim(counted))
    expected = expected_rollups(counted)
    if all(day.year >= 1000 for _, _, day, _ in counted):  # strftime writes earlier years without their zeros
        assert as_dict(rollup) == expected
    assert rollup.malformed == []
    assert tuple(rollup.documents) == KINDS
    assert [kind.name for kind in OF_A_DAY] == list(ROLLUPS)


@given(st.lists(st.tuples(entities, counters, days, small), max_size=30))
def test_every_rollup_sums_to_the_same(counted: list[tuple[str, str, dt.date, int]]) -> None:
    rollup = build(as_claim(counted))
    expected: Counter[str] = Counter()
    for _, counter, _, amount in counted:
        expected[counter] += amount
    assert Counter(rollup.sums()) == expected
    for kind, documents in rollup.documents.items():
        sums: Counter[str] = Counter()
        for document in documents:
            sums.update(document.amounts)
        assert sums == (Counter() if kind is HOURLY else expected)


@given(
    st.lists(st.tuples(entities, counters, st.datetimes(), small), max_size=20),
    st.lists(st.tuples(entities, counters, days, small), max_size=10),
)
def test_hours_add_to_every_rollup_and_days_beside_them_to_no_hour(
    by_hour: list[tuple[str, str, dt.datetime, int]], by_day: list[tuple[str, str, dt.date, int]]
) -> None:
    """Both are in one claim: workers learn at different moments that a domain counts by hours."""
    hours: Counter[tuple[str, str, str]] = Counter()
    for entity, counter, at, amount in by_hour:
        hours[entity, counter, f"{at:%Y-%m-%dT%H}".rjust(13, "0")] += amount
    claim = as_claim(by_day)
    claim += [(entity, [(f"{counter}:{hour}", str(amount))]) for (entity, counter, hour), amount in hours.items()]
    rollup = build(claim)
    assert rollup.malformed == []
    assert as_dict(rollup) == as_dict(build(as_claim([*by_day, *((e, c, at.date(), n) for e, c, at, n in by_hour)])))
    wanted: dict[str, Counter[str]] = {}
    for (entity, counter, hour), amount in hours.items():
        wanted.setdefault(f"{entity}:{hour}", Counter())[counter] += amount
    assert {document.id: document.amounts for document in rollup.documents[HOURLY]} == wanted
    assert all(d.id == f"{d.entity.key}:{d.bucket}" for d in rollup.documents[HOURLY])


def test_a_document_knows_its_entity_and_bucket() -> None:
    rollup = build([("jav:movie:a:b", [("view:2026-02-19", "3")])])
    documents = [document for kind in (TOTALS, DAILY, WEEKLY, MONTHLY, YEARLY) for document in rollup.documents[kind]]
    assert [(d.id, tuple(d.entity), d.bucket, d.amounts) for d in documents] == [
        ("jav:movie:a:b", ("jav", "movie", "a:b"), None, {"view": 3}),
        ("jav:movie:a:b:2026-02-19", ("jav", "movie", "a:b"), "2026-02-19", {"view": 3}),
        ("jav:movie:a:b:2026-W08", ("jav", "movie", "a:b"), "2026-W08", {"view": 3}),
        ("jav:movie:a:b:2026-02", ("jav", "movie", "a:b"), "2026-02", {"view": 3}),
        ("jav:movie:a:b:2026", ("jav", "movie", "a:b"), "2026", {"view": 3}),
    ]


def test_sums_can_be_of_some_documents_only() -> None:
    rollup = build([("jav:movie:a", [("view:2026-02-19", "3")]), ("jav:movie:b", [("view:2026-02-19", "4")])])
    assert rollup.sums() == {"view": 7}
    assert rollup.sums({"jav:movie:b", "jav:movie:x"}) == {"view": 4}
    assert rollup.sums(set()) == {}


@pytest.mark.parametrize(
    ("entity", "field", "amount"),
    [
        ("", "view:2026-02-19", "1"), ("jav", "view:2026-02-19", "1"), ("jav:movie:", "view:2026-02-19", "1"),
        ("jav:movie:a", "view", "1"), ("jav:movie:a", "view:2026-02-30", "1"), ("jav:movie:a", "date:2026-02-19", "1"),
        ("jav:movie:a", "$set:2026-02-19", "1"), ("jav:movie:a", "a.b:2026-02-19", "1"),
        ("jav:movie:a", "view:2026-02-19", ""), ("jav:movie:a", "view:2026-02-19", "1.5"),
        ("jav:movie:a", "view:2026-02-19", str(2**63)), ("jav:movie:a", "view:2026-02-19", "\\xff"),
    ],
)  # fmt: skip
def test_a_foreign_value_is_put_aside_and_the_rest_goes_on(entity: str, field: str, amount: str) -> None:
    rollup = build(
        [(entity, [(field, amount), ("download:2026-02-20", "2")]), ("jav:tag:t", [("view:2026-02-19", "5")])]
    )
    assert Malformed(entity, field, amount) in rollup.malformed
    assert rollup.sums()["view"] == 5
    assert [document.id for document in rollup.documents[TOTALS]][-1] == "jav:tag:t"


@given(
    st.lists(
        st.tuples(st.text(max_size=12), st.lists(st.tuples(st.text(max_size=12), st.text(max_size=5)), max_size=4)),
        max_size=6,
    )
)
def test_no_claim_is_too_odd(claim: Amounts) -> None:
    rollup = build(claim)
    assert len(rollup.malformed) + len(rollup.documents[TOTALS]) <= sum(len(pairs) for _, pairs in claim)


huge = st.sampled_from([INT64_MAX, INT64_MAX // 2, 1, 2**53 + 1]) | st.integers(0, INT64_MAX)
january = st.dates(dt.date(2025, 12, 1), dt.date(2026, 2, 1))


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(["jav:movie:a", "jav:movie:b"]), january, huge), max_size=12))
def test_no_sum_leaves_64_bits_and_no_amount_is_lost(amounts: list[tuple[str, dt.date, int]]) -> None:
    """MongoDB could not be given it: the whole claim would wait for ever."""
    unique = {(entity, day): amount for entity, day, amount in amounts}
    rollup = build([(entity, [(f"view:{day}", str(amount))]) for (entity, day), amount in unique.items()])
    put_aside = sum(int(amount) for _, _, amount in rollup.malformed)
    for documents in (rollup.documents[kind] for kind in COMPLETE):
        assert all(0 <= document.amounts["view"] <= INT64_MAX for document in documents)
        assert sum(document.amounts["view"] for document in documents) + put_aside == sum(unique.values())


def test_amounts_of_both_signs_that_overflow_a_bucket_but_not_the_totals_are_set_aside() -> None:
    most = 2**63 - 1
    days = ("2026-01-01", most), ("2026-01-20", -most), ("2026-01-02", most)
    rollup = build([("jav:movie:m", [(f"view:{day}", str(amount)) for day, amount in days])])
    assert [entry.amount for entry in rollup.malformed] == [str(most)]
    assert all(abs(n) <= most for kind in KINDS for d in rollup.documents[kind] for n in d.amounts.values())
