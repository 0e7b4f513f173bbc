"""The catalogue: what it admits, what it says about the rest, and that the two agree on every event there could be."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from daemon.domain.action import Action
from daemon.domain.admission import Catalogue
from daemon.domain.event import Event, EventIn, own_id
from daemon.domain.id_rule import id_rule
from daemon.domain.rejection import Rejection
from daemon.domain.rollup import DAILY, HOURLY
from tests.kit.events import event as good_event

NOW = dt.datetime(2026, 2, 19, 12, tzinfo=dt.UTC)
NOW_S = NOW.timestamp()
BUCKET = DAILY.bucket_of(dt.datetime(2026, 2, 19, 10, tzinfo=dt.UTC))
"""Of an event that says nothing else."""
FUTURE_MAX_S = 300
MAX_AGE_S = 86_400
REQUIRED = ("event_id", "domain", "entity_type", "entity_id", "action")
OPTIONAL = ("occurred_at", "value")

_VIEW = Action("view", 1, 100, {"view": "value"})
_RATING = Action("rating", 1, 5, {"rating_count": "one", "rating_sum": "value"})
DOMAINS = {"jav": (("movie", "tag"), {"view": _VIEW}), "shop": (("item",), {"view": _VIEW, "rating": _RATING})}
CATALOGUE = Catalogue(DOMAINS, future_max_s=FUTURE_MAX_S, max_age_s=0)
ID_RULES = {("jav", "movie"): id_rule("integer"), ("shop", "item"): id_rule("[a-z]{1,3}")}
STRICT = Catalogue(DOMAINS, future_max_s=FUTURE_MAX_S, max_age_s=MAX_AGE_S)
RULED = Catalogue(DOMAINS, ID_RULES, future_max_s=FUTURE_MAX_S, max_age_s=MAX_AGE_S)


def raw(**fields: Any) -> dict[str, Any]:
    return good_event(**{"event_id": "e1", "entity_id": "m", **fields})


def admit(catalogue: Catalogue = CATALOGUE, **fields: Any) -> Event | None:
    return catalogue.admit(msgspec.convert(raw(**fields), EventIn), NOW_S)


def errors(catalogue: Catalogue = CATALOGUE, **fields: Any) -> dict[str, list[str]]:
    return catalogue.explain(raw(**fields), NOW_S).errors


def test_an_admitted_event_names_its_entity_and_what_it_adds() -> None:
    event = admit(domain="shop", entity_type="item", entity_id="a:b", action="rating", value=4)
    assert event is not None
    assert (event.event_id, event.entity) == ("e1", "shop:item:a:b")
    assert event.effect.increments == (
        ("rating_count", f"rating_count:{BUCKET}", "1"), ("rating_sum", f"rating_sum:{BUCKET}", "4"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ahead_s", "counted_at"),
    [
        (0, NOW),
        (300, NOW + dt.timedelta(seconds=300)),
        (301, NOW),
        (86_400 * 400, NOW),
        (-86_400, NOW - dt.timedelta(days=1)),
    ],
)
def test_the_far_future_is_the_servers_time(ahead_s: int, counted_at: dt.datetime) -> None:
    event = admit(occurred_at=(NOW + dt.timedelta(seconds=ahead_s)).isoformat())
    assert event is not None
    assert event.effect.increments[0][1] == f"view:{DAILY.bucket_of(counted_at)}"


def test_the_near_future_is_its_own_day() -> None:
    midnight = dt.datetime(2026, 2, 19, 23, 58, tzinfo=dt.UTC)
    event = CATALOGUE.admit(msgspec.convert(raw(occurred_at="2026-02-20T00:02:00Z"), EventIn), midnight.timestamp())
    assert event is not None
    assert event.effect.increments[0][1] == f"view:{DAILY.bucket_of(dt.datetime(2026, 2, 20, tzinfo=dt.UTC))}"


@pytest.mark.parametrize("future_max_s", [0, FUTURE_MAX_S])
def test_an_event_that_does_not_say_when_counts_now(future_max_s: int) -> None:
    catalogue = Catalogue(DOMAINS, future_max_s=future_max_s, max_age_s=1)
    last_s = dt.datetime(2026, 2, 19, 23, 59, 59, 999_999, tzinfo=dt.UTC).timestamp()
    absent = raw()
    del absent["occurred_at"]
    for sent in (absent, raw(occurred_at=None)):
        for _ in range(2):  # the first of its kind, and a usual one
            for now_s, day in ((last_s, dt.date(2026, 2, 19)), (last_s + 0.001, dt.date(2026, 2, 20))):
                event = catalogue.admit(msgspec.convert(sent, EventIn), now_s)
                assert event is not None
                at = dt.datetime.combine(day, dt.time(), dt.UTC)
                assert event.effect.increments == (("view", f"view:{DAILY.bucket_of(at)}", "1"),)
    assert catalogue.explain(absent, last_s).errors == {}


HOURLY_DAYS = 2
HOURS = Catalogue(DOMAINS, future_max_s=FUTURE_MAX_S, max_age_s=0, hourly=["jav"], hourly_days=HOURLY_DAYS)
OLDEST_HOUR = dt.datetime(2026, 2, 17, 13, tzinfo=dt.UTC)


def bucket_of(catalogue: Catalogue, now: dt.datetime = NOW, **fields: Any) -> str:
    """The bucket that the event counts under, the first time and the second."""
    first, again = (catalogue.admit(msgspec.convert(raw(**fields), EventIn), now.timestamp()) for _ in range(2))
    assert first is not None
    assert again is not None
    ((_, name, _),) = first.effect.increments
    assert again.effect.increments == first.effect.increments
    return name.removeprefix("view:")


@pytest.mark.parametrize(
    ("occurred_at", "bucket"),
    [
        ("2026-02-19T10:00:00Z", "2026-02-19T10"), ("2026-02-19T10:59:59.999Z", "2026-02-19T10"),
        ("2026-02-19T00:30:00+01:00", "2026-02-18T23"), ("2026-02-19T10:30:00+00:30", "2026-02-19T10"),
        ("2026-02-19t10:00:00z", "2026-02-19T10"), ("2026-02-19T12:04:59Z", "2026-02-19T12"),
        ("2027-02-19T01:00:00Z", "2026-02-19T12"), (None, "2026-02-19T12"),
        ("2026-02-17T13:00:00Z", "2026-02-17T13"), ("2026-02-17T12:59:59Z", "2026-02-17"),
        ("2026-02-17T12:59:59+00:00", "2026-02-17"), ("2019-01-01T00:00:00Z", "2019-01-01"),
        ("0001-01-01T00:00:00Z", "0001-01-01"),
    ],
)  # fmt: skip
def test_an_event_of_a_domain_with_hours_counts_under_its_hour_unless_that_is_too_old(
    occurred_at: str | None, bucket: str
) -> None:
    assert bucket_of(HOURS, occurred_at=occurred_at) == bucket
    assert bucket_of(CATALOGUE, occurred_at=occurred_at) == bucket[:10]
    other = bucket_of(HOURS, occurred_at=occurred_at, domain="shop", entity_type="item")
    assert other == bucket[:10], "a domain without hours"


def test_an_hour_that_becomes_too_old_makes_no_more_hours() -> None:
    catalogue = Catalogue(DOMAINS, future_max_s=0, max_age_s=0, hourly=["jav"], hourly_days=HOURLY_DAYS)
    at = OLDEST_HOUR.isoformat().replace("+00:00", "Z")
    hour = dt.timedelta(hours=1)
    assert bucket_of(catalogue, NOW + hour - dt.timedelta(seconds=1), occurred_at=at) == "2026-02-17T13"
    assert bucket_of(catalogue, NOW + hour, occurred_at=at) == "2026-02-17"
    assert bucket_of(catalogue, NOW, occurred_at=at) == "2026-02-17T13", "the clock went back"


def test_hours_that_are_kept_for_ever_are_made_of_any_event() -> None:
    catalogue = Catalogue(DOMAINS, future_max_s=0, max_age_s=0, hourly=["jav"])
    assert bucket_of(catalogue, occurred_at="0001-01-01T00:00:00Z") == "0001-01-01T00"


@given(st.datetimes(), st.integers(-14 * 60, 14 * 60), st.integers(0, 5))
def test_the_hour_is_that_of_the_instant_in_utc(at: dt.datetime, offset_min: int, back_days: int) -> None:
    at = NOW.replace(tzinfo=None) - dt.timedelta(days=back_days, hours=at.hour, minutes=at.minute, seconds=at.second)
    local = at.replace(tzinfo=dt.UTC).astimezone(dt.timezone(dt.timedelta(minutes=offset_min)))
    kind = HOURLY if HOURLY.start_of(at) >= OLDEST_HOUR.replace(tzinfo=None) else DAILY
    assert bucket_of(HOURS, occurred_at=local.isoformat()) == kind.bucket_of(at)


@pytest.mark.parametrize(
    ("sent", "id_"), [(1, "1"), (0, "0"), (-1, "-1"), (2**63 - 1, str(2**63 - 1)), (-(2**63), str(-(2**63)))]
)
def test_an_integer_is_the_id_that_its_digits_are(sent: int, id_: str) -> None:
    for _ in range(2):  # the first of its kind, and a usual one
        event = admit(entity_id=sent)
        assert event is not None
        assert event.entity == f"jav:movie:{id_}"


@pytest.mark.parametrize("sent", [True, 1.0, 1.5, [], {}, 2**63, -(2**63) - 1])
def test_no_other_value_is_an_id(sent: object) -> None:
    text = "The entity id field must be a string or an integer of 64 bits."
    assert errors(entity_id=sent) == {"entity_id": [text]}


def test_a_type_may_have_a_rule_for_its_ids() -> None:
    for _ in range(2):  # the first of its kind, and a usual one
        assert admit(RULED, entity_id="7") is not None
        assert admit(RULED, entity_id=7) is not None
        assert admit(RULED, entity_id="07") is None
        assert admit(RULED, entity_type="tag", entity_id="07") is not None, "a type without a rule"
    assert errors(RULED, entity_id="07") == {
        "entity_id": ["The entity id field must be a decimal integer without leading zeros."]
    }
    assert errors(RULED, domain="shop", entity_type="item", entity_id="abcd") == {
        "entity_id": ["The entity id field must match the pattern [a-z]{1,3}."]
    }


@pytest.mark.parametrize(("age_s", "admitted"), [(0, True), (MAX_AGE_S, True), (MAX_AGE_S + 1, False), (10**9, False)])
def test_an_age_may_be_bounded(age_s: int, admitted: bool) -> None:
    at = (NOW - dt.timedelta(seconds=age_s)).isoformat()
    assert (admit(STRICT, occurred_at=at) is not None) is admitted
    assert admit(CATALOGUE, occurred_at=at) is not None
    if not admitted:
        assert errors(STRICT, occurred_at=at) == {
            "occurred_at": ["The occurred at field must not be more than 86400 seconds in the past."]
        }


def test_a_producer_has_a_bound_of_its_own() -> None:
    producers = Catalogue(DOMAINS, future_max_s=FUTURE_MAX_S, max_age_s=60, producers_max_age_s=MAX_AGE_S)
    at = (NOW - dt.timedelta(seconds=MAX_AGE_S)).strftime("%Y-%m-%dT%H:%M:%SZ")
    older = raw(occurred_at=(NOW - dt.timedelta(seconds=MAX_AGE_S + 1)).strftime("%Y-%m-%dT%H:%M:%SZ"))
    for _ in range(2):  # the first of its kind, and a usual one
        assert producers.admit(msgspec.convert(raw(occurred_at=at), EventIn), NOW_S, "shop") is not None
        assert producers.admit(msgspec.convert(raw(occurred_at=at), EventIn), NOW_S) is None
        assert producers.admit(msgspec.convert(older, EventIn), NOW_S, "shop") is None
    assert "60 seconds" in str(producers.explain(older, NOW_S).errors["occurred_at"])
    assert "86400 seconds" in str(producers.explain(older, NOW_S, "shop").errors["occurred_at"])


OCCURRED_AT = "The occurred at field must be an RFC 3339 date and time with an offset, such as 2026-02-19T10:00:00Z."


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"event_id": ""}, "The event id field is required."),
        ({"event_id": None}, "The event id field is required."),
        ({"event_id": 5}, "The event id field must be a string."),
        ({"event_id": "x" * 256}, "The event id field must not be greater than 255 characters."),
        ({"entity_id": "x" * 256}, "The entity id field must not be greater than 255 characters."),
        ({"entity_id": "a\x7fb"}, "The entity id field must not contain control characters."),
        ({"domain": "x"}, "The selected domain is invalid. It must be one of: jav, shop."),
        ({"entity_type": "item"}, "The selected entity type is invalid. It must be one of: movie, tag."),
        ({"action": "rating"}, "The selected action is invalid. It must be one of: view."),
        ({"value": 0}, "The value field must be between 1 and 100."),
        ({"value": "1"}, "The value field must be an integer."),
        ({"value": True}, "The value field must be an integer."),
        ({"occurred_at": "x"}, OCCURRED_AT),
        ({"occurred_at": ""}, OCCURRED_AT),
        ({"occurred_at": 5}, "The occurred at field must be a string."),
        ({"occurred_at": False}, "The occurred at field must be a string."),
    ],
)  # fmt: skip
def test_a_wrong_field_is_explained_in_words_producers_know(fields: dict[str, Any], text: str) -> None:
    (name,) = fields
    assert errors(**fields) == {name: [text]}


def test_every_wrong_field_is_explained_in_the_order_of_the_event() -> None:
    wrong = errors(event_id=1, domain=2, entity_type=3, entity_id=[], action=5, value="6", occurred_at=7)
    assert list(wrong) == ["event_id", "domain", "entity_type", "entity_id", "action", "occurred_at", "value"]


def test_a_value_is_judged_by_any_action_of_its_name_when_the_domain_is_wrong() -> None:
    assert set(errors(domain="x", action="rating", value=50)) == {"domain", "value"}


def test_a_value_that_no_action_takes_is_named_whatever_else_is_wrong() -> None:
    assert set(errors(domain="x", action="y", value=0)) == {"domain", "action", "value"}
    assert set(errors(domain="x", action="y", value=50)) == {"domain", "action"}
    assert errors(action="y", value=101)["value"] == ["The value field must be between 1 and 100."]
    assert errors(domain=None, action=None, value=101)["value"] == [
        "The value field must be between 1 and 5 or between 1 and 100."
    ]
    assert set(errors(domain="shop", entity_type="item", action=None, value=0)) == {"action", "value"}


def test_a_value_between_what_two_actions_take_is_named() -> None:
    actions = {"low": Action("low", 1, 5, {"low": "one"}), "high": Action("high", 50, 100, {"high": "one"})}
    catalogue = Catalogue({"jav": (("movie",), actions)}, future_max_s=0, max_age_s=0)
    assert errors(catalogue, action="x", value=20)["value"] == [
        "The value field must be between 1 and 5 or between 50 and 100."
    ]
    assert errors(catalogue, action="high", value=5) == {"value": ["The value field must be between 50 and 100."]}
    assert set(errors(catalogue, action="x", value=5)) == {"action"}


@pytest.mark.parametrize("value", [None, [], 5, "text", True, 1.5])
def test_what_is_no_object_is_wrong_as_a_whole(value: object) -> None:
    assert CATALOGUE.explain(value, NOW_S) == Rejection({"event": ["The event must be a JSON object."]})


# admit and explain agree ------------------------------------------------------------------------------------------

texts = (
    st.text(max_size=5)
    | st.text("\x00\x1f\x7f\x80\x9fa", max_size=3)
    | st.sampled_from(["x" * 255, "x" * 256, "é" * 256])
)
odd = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.just([]) | st.just({})
instants = st.integers(-(10**9), 10**8).map(lambda s: dt.datetime.fromtimestamp(NOW_S + s, dt.UTC).isoformat())
fields = st.fixed_dictionaries(
    {},
    optional={
        "event_id": st.just("e1") | odd,
        "domain": st.sampled_from(["jav", "shop"]) | odd,
        "entity_type": st.sampled_from(["movie", "tag", "item"]) | odd,
        "entity_id": st.just("m") | st.sampled_from(["7", "07", "7\n", 7, -7, 2**63, "abc", "abcd"]) | odd,
        "action": st.sampled_from(["view", "rating", "x"]) | odd,
        "value": st.integers(-2, 120) | odd,
        "occurred_at": instants | st.just("2026-02-19T11:59:59Z") | odd,
        "user_id": odd,
    },
)


near = st.integers(-3 * 86_400, 3 * 86_400).map(lambda s: dt.datetime.fromtimestamp(NOW_S + s, dt.UTC))
stamps = st.one_of(
    near.map(lambda at: at.strftime("%Y-%m-%dT%H:%M:%SZ")),
    near.map(lambda at: at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")),
    near.map(lambda at: at.strftime("%Y-%m-%dt%H:%M:%Sz")),
    near.map(lambda at: at.astimezone(dt.timezone(dt.timedelta(hours=7))).isoformat()),
    st.sampled_from(["2026-02-18T23:59:60Z", "2026-02-30T10:00:00Z", "2026-02-19T24:00:00Z", "2026-02-19"]),
)
usual_fields = st.fixed_dictionaries(
    {
        "domain": st.sampled_from(["jav", "shop"]),
        "entity_type": st.sampled_from(["movie", "item"]),
        "action": st.sampled_from(["view", "rating"]),
        "entity_id": st.sampled_from(["m", "7", 7, "\u200b", "\x85", "a:b"]),
        "value": st.sampled_from([None, 0, 1, 5, 6, 100, 101]),
        "occurred_at": stamps | st.none(),
    }
)
USUAL = {"entity_id": "7", "occurred_at": "2026-02-19T11:59:59Z"}


@settings(max_examples=300)
@given(st.lists(st.tuples(usual_fields, st.integers(0, 3)), min_size=1, max_size=30), st.sampled_from([0, MAX_AGE_S]))
def test_what_came_before_changes_nothing(chosen: list[tuple[dict[str, Any], int]], max_age_s: int) -> None:
    """A catalogue that has met the like admits an event exactly as a new one does, whatever the clock does."""
    warm = Catalogue(DOMAINS, ID_RULES, future_max_s=FUTURE_MAX_S, max_age_s=max_age_s)
    for some, later_s in chosen:
        event, now_s = msgspec.convert(raw(**some), EventIn), NOW_S + later_s
        fresh = Catalogue(DOMAINS, ID_RULES, future_max_s=FUTURE_MAX_S, max_age_s=max_age_s)
        assert told(warm.admit(event, now_s)) == told(fresh.admit(event, now_s))


@settings(max_examples=200)
@given(
    st.lists(st.tuples(usual_fields, st.sampled_from(["e1", "\0e1", "\0shop\0e1"])), min_size=1, max_size=30),
    st.sampled_from([0, MAX_AGE_S]),
    st.sampled_from(["", "shop"]),
    st.integers(0, 3),
)
@example([(USUAL, "e1")], 0, "shop", 0)
@example([(USUAL, "\0e1")], 0, "", 0)
@example([(USUAL | {"entity_id": "m"}, "e1"), (USUAL, "e1")], 0, "", 0)
def test_a_batch_is_admitted_as_its_events_are_one_by_one(
    chosen: list[tuple[dict[str, Any], str]], max_age_s: int, producer: str, later_s: int
) -> None:
    ages = {"max_age_s": max_age_s, "producers_max_age_s": 2 * max_age_s}
    catalogue, alone = (Catalogue(DOMAINS, ID_RULES, future_max_s=FUTURE_MAX_S, **ages) for _ in range(2))
    events = [msgspec.convert(raw(**some, event_id=id_), EventIn) for some, id_ in chosen]
    for now_s in (NOW_S, NOW_S + later_s):
        admitted = catalogue.admit_all(events, now_s, producer)
        each = [alone.admit(event, now_s, producer) for event in events]
        assert [told(event) for event in admitted] == [told(event) for event in each]
        assert [event and event.event_id for event in admitted] == [event and event.event_id for event in each]


def told(event: Event | None) -> tuple[str, tuple[tuple[str, str, str], ...]] | None:
    return event and (event.entity, event.effect.increments)


@settings(max_examples=400)
@given(fields, st.lists(st.sampled_from([*REQUIRED, *OPTIONAL]), max_size=3), st.sampled_from([CATALOGUE, RULED]))
def test_admit_and_explain_always_agree(chosen: dict[str, Any], missing: list[str], catalogue: Catalogue) -> None:
    event = raw(**chosen)
    for name in missing:
        event.pop(name, None)
    wrong = catalogue.explain(event, NOW_S).errors
    assert admits(catalogue, event) is (not wrong)
    assert set(wrong) <= {*REQUIRED, *OPTIONAL}
    assert all(texts for texts in wrong.values())
    assert {name for name in missing if name in REQUIRED} <= set(wrong)


@settings(max_examples=400)
@given(fields)
def test_a_value_is_named_exactly_if_no_action_the_event_can_mean_takes_it(event: dict[str, Any]) -> None:
    domains = [name for name in DOMAINS if name == event.get("domain")] or list(DOMAINS)
    actions = [(domain, action) for domain in domains for action in DOMAINS[domain][1]]
    meant = [each for each in actions if each[1] == event.get("action")] or actions
    value = {name: event[name] for name in event if name == "value"}
    mended = [raw(domain=domain, entity_type=DOMAINS[domain][0][0], action=name, **value) for domain, name in meant]
    wrong = CATALOGUE.explain(event, NOW_S).errors
    assert ("value" in wrong) is not any(admits(CATALOGUE, each) for each in mended)


def admits(catalogue: Catalogue, event: dict[str, Any]) -> bool:
    try:
        return catalogue.admit(msgspec.convert(event, EventIn), NOW_S) is not None
    except msgspec.ValidationError:
        return False


@given(
    st.tuples(st.text(min_size=1), st.sampled_from(["", "shop", "shop_2"])),
    st.tuples(st.text(min_size=1), st.sampled_from(["", "shop", "shop_2"])),
)
@example(("\0shop\0e1", ""), ("e1", "shop"))
@example(("\0\0shop\0e1", ""), ("\0shop\0e1", ""))
def test_two_senders_or_two_ids_are_two_keys(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (own_id(*one) == own_id(*other)) == (one == other)


@pytest.mark.parametrize("id_", ["e1", "\0e1", "\0shop\0e1"])
@pytest.mark.parametrize("producer", ["", "shop"])
def test_the_short_way_of_an_admission_gives_the_same_key(id_: str, producer: str) -> None:
    catalogue = Catalogue(DOMAINS, future_max_s=FUTURE_MAX_S, max_age_s=0)
    sent = msgspec.convert(raw(event_id=id_), EventIn)
    long, short = (catalogue.admit(sent, NOW_S, producer) for _ in range(2))
    assert long == short
    assert long is not None
    assert long.event_id == own_id(id_, producer)
