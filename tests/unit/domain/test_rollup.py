"""The list of rollups: what each calls the bucket of an instant, and where that bucket begins and ends."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.rollup import (
    BUCKETED,
    COMPLETE,
    DAILY,
    HOURLY,
    INSTANT_STEP,
    KINDS,
    MONTHLY,
    WEEKLY,
    YEARLY,
    Bucketed,
    end_of_day,
    start_of_day,
)

each_kind = pytest.mark.parametrize("kind", BUCKETED, ids=[kind.name for kind in BUCKETED])
instants = st.datetimes()
but_for_the_last_year = st.datetimes(max_value=dt.datetime.fromisoformat("9989-12-31"))


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
    assert WEEKLY.bucket_of(dt.datetime.fromisoformat(date)) == week


@given(instants)
def test_buckets_agree_with_the_calendar(at: dt.datetime) -> None:
    thursday = at.toordinal() - at.isoweekday() + 4
    first_of_year = dt.date.fromordinal(min(thursday, dt.date.max.toordinal())).replace(month=1, day=1).toordinal()
    week = (thursday - first_of_year) // 7 + 1
    year = dt.date.fromordinal(first_of_year).year
    text = at.isoformat()
    assert [kind.bucket_of(at) for kind in (HOURLY, DAILY, WEEKLY, MONTHLY, YEARLY)] == [
        text[:13], text[:10], f"{year:04d}-W{week:02d}", text[:7], text[:4]
    ]  # fmt: skip


@pytest.mark.parametrize(
    "date",
    [
        "2025-02-29", "2026-13-01", "2026-00-01", "2026-01-00", "2026-04-31", "0000-01-01", "", "x", "20260219",
        "2026-W08-4", "2026-02-19T00:00", "2026-02-19T00+01:00", "٢٠٢٦-02-19", "2026-02-19 ", "2026-02",
    ],
)  # fmt: skip
def test_a_text_that_names_no_day_is_none(date: str) -> None:
    assert DAILY.parse(date) is None


@each_kind
@given(at=but_for_the_last_year)
def test_a_bucket_is_all_instants_from_its_first_to_its_last(kind: Bucketed, at: dt.datetime) -> None:
    first, last = kind.start_of(at), kind.last_of(at)
    assert first <= at <= last
    assert kind.bucket_of(first) == kind.bucket_of(at) == kind.bucket_of(last)
    assert kind.start_of(first) == first
    assert kind.length_min <= last + INSTANT_STEP - first < 1.5 * kind.length_min
    assert kind.bucket_of(last) < kind.bucket_of(last + INSTANT_STEP)
    assert kind.start_of(last + INSTANT_STEP) == last + INSTANT_STEP


@each_kind
@given(at=but_for_the_last_year, buckets=st.integers(0, 40))
def test_going_back_counts_every_bucket_once(kind: Bucketed, at: dt.datetime, buckets: int) -> None:
    earlier = kind.start_of(at)
    try:
        for _ in range(buckets):
            earlier = kind.start_of(earlier - INSTANT_STEP)
    except OverflowError:
        with pytest.raises(OverflowError):
            kind.back(at, buckets)
    else:
        assert kind.back(at, buckets) == earlier
        assert kind.count(earlier, at) == buckets + 1


@given(instants)
def test_a_day_begins_at_midnight_and_ends_before_the_next(at: dt.datetime) -> None:
    assert start_of_day(at.date()) <= at <= end_of_day(at.date())
    assert start_of_day(at.date()).date() == end_of_day(at.date()).date() == at.date()


@pytest.mark.parametrize(
    ("inner", "outer", "date", "lies_in"),
    [
        (DAILY, WEEKLY, "2026-12-31", True), (DAILY, YEARLY, "2026-12-31", True), (MONTHLY, YEARLY, "2026-12-31", True),
        (WEEKLY, MONTHLY, "2026-02-19", True), (WEEKLY, MONTHLY, "2026-03-29", True),
        (WEEKLY, MONTHLY, "2026-04-30", False), (WEEKLY, YEARLY, "2026-04-30", True),
        (WEEKLY, YEARLY, "2026-12-31", False), (WEEKLY, YEARLY, "2027-01-03", False),
        (MONTHLY, WEEKLY, "2026-02-19", False), (YEARLY, MONTHLY, "2026-02-19", False),
    ],
)  # fmt: skip
def test_a_bucket_lies_in_another_if_all_its_days_do(
    inner: Bucketed, outer: Bucketed, date: str, *, lies_in: bool
) -> None:
    assert inner.lies_in(outer, dt.datetime.fromisoformat(date)) is lies_in


def test_rollups_are_listed_once_from_the_finest_to_the_coarsest() -> None:
    assert KINDS[1:] == BUCKETED
    assert (KINDS[0], *BUCKETED[1:]) == COMPLETE
    lengths = [kind.length_min for kind in BUCKETED]
    assert lengths == sorted(lengths)
    for names in ([kind.name for kind in KINDS], [kind.bucket_field for kind in BUCKETED]):
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("kind", "days", "weeks", "oldest"),
    [
        (HOURLY, 1, 0, "2027-01-01T04"), (HOURLY, 8, 0, "2026-12-25T04"), (HOURLY, 0, 5, None),
        (DAILY, 1, 0, "2027-01-02"), (DAILY, 3, 0, "2026-12-31"), (DAILY, 0, 5, None),
        (WEEKLY, 0, 1, "2026-W53"), (WEEKLY, 0, 53, "2026-W01"), (WEEKLY, 0, 54, "2025-W52"), (WEEKLY, 5, 0, None),
        (MONTHLY, 1, 1, None), (YEARLY, 1, 1, None),
    ],
)  # fmt: skip
def test_the_oldest_bucket_that_is_kept_is_the_first_of_as_many_as_are_configured(
    kind: Bucketed, days: int, weeks: int, oldest: str | None
) -> None:
    saturday_of_week_53 = dt.datetime.fromisoformat("2027-01-02T03:04")
    kept = {"hourly_days": days, "daily_days": days, "weekly_weeks": weeks}
    assert kind.kept_from(saturday_of_week_53, kept) == oldest


def test_only_buckets_of_one_length_can_expire() -> None:
    """`kept_from` counts buckets back by their length."""
    for kind in BUCKETED:
        if kind.retention_key:
            days = [start_of_day(dt.date(2024, 1, 1) + dt.timedelta(n)) for n in range(400)]
            assert {kind.last_of(at) - kind.start_of(at) + INSTANT_STEP for at in days} == {kind.length_min}
