"""The small pure values: buckets, counters' fields and amounts, entities, actions, keys."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.buffer.keys import IMPORTS, LAYOUT, shard_keys, shard_of
from daemon.domain.action import Action
from daemon.domain.bucket import Buckets, buckets_of
from daemon.domain.counter import INT64_MAX, RESERVED, field_name, parse_amount, parse_field
from daemon.domain.entity import Entity, parse_entity

# Buckets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("date", "week"),
    [
        ("2024-12-29", "2024-W52"), ("2024-12-30", "2025-W01"), ("2024-12-31", "2025-W01"), ("2025-01-05", "2025-W01"),
        ("2026-12-31", "2026-W53"), ("2027-01-01", "2026-W53"), ("2027-01-03", "2026-W53"), ("2027-01-04", "2027-W01"),
        ("2021-01-01", "2020-W53"), ("2024-02-29", "2024-W09"), ("2026-02-19", "2026-W08"), ("0001-01-01", "0001-W01"),
        ("9999-12-31", "9999-W52"),
    ],
)  # fmt: skip
def test_weeks_belong_to_the_year_of_their_thursday(date: str, week: str) -> None:
    assert buckets_of(date) == Buckets(date, week, date[:7], date[:4])


@pytest.mark.parametrize(
    "date", ["2025-02-29", "2026-13-01", "2026-00-01", "2026-01-00", "2026-04-31", "0000-01-01", "", "x"]
)
def test_a_day_that_never_was_has_no_buckets(date: str) -> None:
    assert buckets_of(date) is None


@given(st.dates())
def test_buckets_agree_with_the_calendar(day: dt.date) -> None:
    thursday = day.toordinal() - day.isoweekday() + 4
    first_of_year = dt.date.fromordinal(min(thursday, dt.date.max.toordinal())).replace(month=1, day=1).toordinal()
    week = (thursday - first_of_year) // 7 + 1
    year = dt.date.fromordinal(first_of_year).year
    found = buckets_of(day.isoformat())
    assert found == Buckets(
        f"{day:%Y-%m-%d}".zfill(10), f"{year:04d}-W{week:02d}", day.isoformat()[:7], day.isoformat()[:4]
    )


# Fields and amounts -----------------------------------------------------------------------------------------------

names = st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True)


@given(names.filter(lambda name: name not in RESERVED), st.dates())
def test_a_field_is_read_as_it_was_written(counter: str, day: dt.date) -> None:
    field = parse_field(field_name(counter, day.isoformat()))
    assert field is not None
    assert (field.counter, field.buckets.date) == (counter, day.isoformat())


@pytest.mark.parametrize(
    "name",
    [
        "", "view", "view:", ":2026-02-19", "view:2026-02-30", "view:2026-2-19", "view:2026-02-19 ",
        "view:2026-02-19\n", " view:2026-02-19", "View:2026-02-19", "view.x:2026-02-19", "$inc:2026-02-19",
        "_id:2026-02-19", "1view:2026-02-19", "view:20260219", "view:2026-W08-4", "view:٢٠٢٦-02-19",
        "view:2026-02-19:x", "a" * 33 + ":2026-02-19", "view:0000-01-01",
        *(f"{name}:2026-02-19" for name in sorted(RESERVED)),
    ],
)  # fmt: skip
def test_a_field_that_is_not_ours_is_none(name: str) -> None:
    assert parse_field(name) is None


@given(st.text(max_size=40))
def test_no_text_is_too_odd_for_a_field_amount_or_entity(text: str) -> None:
    parse_field(text)
    parse_amount(text)
    parse_entity(text)


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_64_bit_amount_is_read_to_the_last_digit(amount: int) -> None:
    assert parse_amount(str(amount)) == amount


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "+1",
        "1.0",
        "1e3",
        " 1",
        "1 ",
        "1\n",
        "0x1",
        "٣",
        "²",
        str(INT64_MAX + 1),
        str(-INT64_MAX - 2),
        "9" * 400,
    ],
)
def test_an_amount_that_is_no_64_bit_number_is_none(text: str) -> None:
    assert parse_amount(text) is None


# Entities ---------------------------------------------------------------------------------------------------------


@given(names, names, st.text(min_size=1, max_size=255))
def test_an_entity_is_known_by_its_key(domain: str, kind: str, id_: str) -> None:
    entity = Entity(domain, kind, id_)
    assert parse_entity(entity.key) == entity


@pytest.mark.parametrize("key", ["", ":", "::", "jav", "jav:movie", "jav:movie:", ":movie:x", "jav::x", ":::"])
def test_a_key_that_names_no_entity_is_none(key: str) -> None:
    assert parse_entity(key) is None


# Actions ----------------------------------------------------------------------------------------------------------


def test_an_action_moves_each_counter_by_one_or_by_the_value() -> None:
    rating = Action("rating", 1, 5, {"rating_count": "one", "rating_sum": "value"})
    assert rating.effect(4, "2026-02-19").increments == (
        ("rating_count", "rating_count:2026-02-19", "1"),
        ("rating_sum", "rating_sum:2026-02-19", "4"),
    )


def test_the_same_value_and_day_give_the_same_effect() -> None:
    view = Action("view", 1, 100, {"view": "value"})
    assert view.effect(3, "2026-02-19") is view.effect(3, "2026-02-19")
    assert view.effect(3, "2026-02-19") is not view.effect(4, "2026-02-19")
    assert view.effect(3, "2026-02-19") is not view.effect(3, "2026-02-20")


def test_effects_stay_right_when_there_are_too_many_to_remember() -> None:
    view = Action("view", 1, 10**9, {"view": "value"})
    first = view.effect(1, "2026-02-19").increments
    for value in range(70_000):
        assert view.effect(value, "2026-02-19").increments[0][2] == str(value)
    assert view.effect(1, "2026-02-19").increments == first


# Keys -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 16_383))
def test_every_key_of_a_shard_has_the_shard_as_its_hash_tag(shard: int) -> None:
    keys = shard_keys(shard).__dict__.values()
    assert len(set(keys)) == len(keys)
    assert all(key.startswith(f"anl:{{{shard}}}:") for key in keys)


def test_keys_of_all_shards_together_have_no_hash_tag() -> None:
    assert not [key for key in (LAYOUT, IMPORTS) if "{" in key]


def test_an_entity_stays_in_its_shard() -> None:
    """What was counted lies there, so these numbers may never change."""
    assert {key: shard_of(key, 16) for key in ("jav:movie:a", "jav:movie:b")} == {"jav:movie:a": 4, "jav:movie:b": 14}


@given(st.text(max_size=300), st.integers(1, 16_384))
def test_every_key_has_a_shard(key: str, shards: int) -> None:
    assert 0 <= shard_of(key, shards) < shards
    assert shard_of(key, 1) == 0
