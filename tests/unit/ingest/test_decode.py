"""Decoding bodies: no input raises, JSON of any kind gets an answer, and both paths give the same one."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import convert

from daemon.config import Config
from daemon.domain.event import Event
from daemon.domain.rejection import Rejection
from daemon.domain.rollup import DAILY
from daemon.ingest.decode import EXPLAINED_MAX, SLICE_EVENTS, Batch, Decoder, Unreadable, build_catalogue
from tests.kit.events import event

NOW_S = 1_771_500_000.0  # 2026-02-19
EVENTS_MAX = 5
CONFIG = convert({"ingest": {"max_age_s": 0}}, Config)
DECODER = Decoder(build_catalogue(CONFIG), batch_events_max=EVENTS_MAX, clock=lambda: NOW_S)
GOOD = event(event_id="e1", entity_id="m")
BODY = json.dumps(GOOD).encode()
COUNTED_AT = dt.datetime(2026, 2, 19, 10, tzinfo=dt.UTC)


def good(**fields: Any) -> dict[str, Any]:
    return {**GOOD, **fields}


def classify(raw: object) -> Event | Rejection:
    """What an event is, however it came: the path that takes plain values."""
    return DECODER.admit(raw)  # type: ignore[arg-type]


def reference(body: bytes) -> Any:
    """The body as Python's own parser reads it, which is strict once told so; ValueError if it is not JSON."""

    def refuse(constant: str) -> float:
        raise ValueError(constant)

    raw = json.loads(body.decode(), parse_constant=refuse)
    json.dumps(raw, ensure_ascii=False).encode()  # half a surrogate pair is no text
    return raw


# No input raises --------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
odd_fields = st.dictionaries(st.sampled_from(list(GOOD)), json_values, max_size=4)
almost_good = st.builds(lambda fields, extra: good(**fields, user_id=extra), odd_fields, json_values)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good event with a few bytes exchanged, left out or put in."""
    body = bytearray(json.dumps(good(note=draw(json_values))).encode())
    pieces = st.binary(max_size=4) | st.sampled_from(
        [
            b'"', b"\\", b",", b"}", b"{", b"]", b"[", b":", b"null", b"1e400", b"\\ud800", b"\xff", b"\x00", b" ",
            b"-", b"0", b".",
        ]
    )  # fmt: skip
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 3))] = draw(pieces)
    return bytes(body)


@settings(max_examples=150)
@given(st.binary(max_size=200) | mutated())
@example(b"")
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(BODY[:-1] + b', "a": ' + b"[" * 60_000 + b"]" * 60_000 + b"}")
@example(b"9" * 60_000)
@example(b"1e" + b"9" * 60_000)
def test_no_body_raises(body: bytes) -> None:
    assert isinstance(DECODER.single(body), Event | Rejection | Unreadable)
    assert isinstance(DECODER.batch(body), Batch | Rejection | Unreadable)
    assert isinstance(DECODER.lines(body), Batch | Rejection)


@given(json_values)
def test_no_json_value_is_unreadable(value: Any) -> None:
    body = json.dumps(value).encode()
    assert isinstance(DECODER.single(body), Rejection)
    assert isinstance(DECODER.batch(body), Batch | Rejection)


# The two paths agree ----------------------------------------------------------------------------------------------


@settings(max_examples=250)
@given(almost_good)
def test_an_event_gets_the_same_answer_as_json_and_as_plain_values(event: dict[str, Any]) -> None:
    body = json.dumps(event).encode()
    assert DECODER.single(body) == classify(json.loads(body))


@settings(max_examples=800)
@given(mutated())
def test_a_damaged_body_is_judged_as_a_strict_parser_reads_it(body: bytes) -> None:
    try:
        raw = reference(body)
    except (ValueError, RecursionError):
        assert DECODER.single(body) is Unreadable.NOT_JSON
    else:
        assert DECODER.single(body) == classify(raw)


@pytest.mark.parametrize(
    "note",
    [
        b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\\x"', b'"\x01"', b"01", b"1.", b".5", b"+1", b"1e", b"--1",
        b"nul", b"truee", b"NaN", b"Infinity", b"-", b"", b"[1,]", b'{"a"}', b'{"a":}', b'{1:2}', b"'x'", b'{"a":1,}',
        b"[1 2]", b"0x1", b"1_000", b"\xc2\xa0", b"//", b"[", b'"',
    ],
)  # fmt: skip
def test_what_is_not_json_is_not_json_in_an_ignored_field_either(note: bytes) -> None:
    body = BODY[:-1] + b', "note": ' + note + b"}"
    with pytest.raises((ValueError, RecursionError)):
        reference(body)
    assert DECODER.single(body) is Unreadable.NOT_JSON
    assert DECODER.batch(b"[" + body + b"]") is Unreadable.NOT_JSON


@settings(max_examples=150)
@given(st.lists(almost_good | json_values | st.just(GOOD), min_size=1, max_size=EVENTS_MAX))
def test_a_batch_is_judged_event_by_event(items: list[Any]) -> None:
    alone = [classify(json.loads(json.dumps(item))) for item in items]
    expected = Batch(
        [each for each in alone if isinstance(each, Event)],
        [(index, each) for index, each in enumerate(alone) if isinstance(each, Rejection)],
    )
    assert DECODER.batch(json.dumps(items).encode()) == expected
    assert DECODER.batch(json.dumps({"events": items, "more": items}).encode()) == expected
    assert DECODER.lines("\n".join(map(json.dumps, items)).encode()) == expected


@settings(max_examples=150)
@given(
    st.lists(
        mutated().filter(lambda line: b"\n" not in line and b"\r" not in line and line.strip()),
        min_size=1,
        max_size=EVENTS_MAX,
    )
)
def test_every_line_is_judged_by_itself(lines: list[bytes]) -> None:
    whole = DECODER.lines(b"\n".join(lines))
    assert isinstance(whole, Batch)
    events, rejected = iter(whole.events), dict(whole.rejected)
    for index, line in enumerate(lines):
        alone = DECODER.single(line)
        if isinstance(alone, Event):
            assert next(events) == alone
        elif isinstance(alone, Unreadable):
            assert rejected[index] == Rejection({"event": ["The line is not valid JSON."]})
        else:
            assert rejected[index] == alone


def test_of_many_refused_events_the_first_are_explained_and_no_good_one_is_lost() -> None:
    twice = b'{"value": "x", ' + BODY[1:]  # the last value counts, and it is good
    bad = [b"{}", json.dumps(good(value=0)).encode(), json.dumps(good(entity_id=True)).encode(), b"5", b"[]"]
    items = [item for n in range(150) for item in (bad[n % 5], twice if n % 2 else BODY)]
    decoder = Decoder(build_catalogue(CONFIG), batch_events_max=len(items), clock=lambda: NOW_S)
    lines = decoder.lines(b"\n".join(items))
    for found in (decoder.batch(b"[" + b",".join(items) + b"]"), lines):
        assert isinstance(found, Batch)
        assert len(found.events) == 150
        assert [index for index, _ in found.rejected] == list(range(0, 2 * EXPLAINED_MAX, 2))
        assert found.rejected_more == 150 - EXPLAINED_MAX
    for at in (0, 299):  # what is no JSON is none wherever it stands
        broken = [*items[:at], b'{"value": nope}', *items[at + 1 :]]
        assert decoder.batch(b"[" + b",".join(broken) + b"]") is Unreadable.NOT_JSON


@pytest.mark.parametrize("item", [BODY, b"{}", json.dumps(good(value=0)).encode()])
def test_a_large_batch_pauses_between_slices(item: bytes) -> None:
    decoder = Decoder(build_catalogue(CONFIG), batch_events_max=2_000, clock=lambda: NOW_S)
    works = (
        decoder.batch_in_slices(b"[" + b",".join([item] * 2_000) + b"]"),
        decoder.lines_in_slices(b"\n".join([item] * 2_000)),
    )
    assert all(sum(1 for _ in work) >= 2_000 // SLICE_EVENTS - 1 for work in works)


def test_a_batch_that_would_take_long_to_take_apart_is_refused() -> None:
    decoder = Decoder(build_catalogue(CONFIG), batch_events_max=2_000, clock=lambda: NOW_S)
    for body in (b"[" + b",".join([b"[]"] * 300_000) + b"]", b'[{"a":[' + b",".join([b"1"] * 300_000) + b"]}]"):
        assert decoder.batch(body) == Rejection(
            {"events": ["The events field holds a wrong event, and has more than 32000 values; send smaller batches."]}
        )
    assert decoder.lines(b"\n" * 300_000 + b"x") == decoder.lines(b"{}\n" * 2_001)


# Shapes -----------------------------------------------------------------------------------------------------------


def test_a_good_event_is_an_event() -> None:
    event = DECODER.single(BODY)
    assert isinstance(event, Event)
    assert (event.event_id, event.entity) == ("e1", "jav:movie:m")
    assert event.effect.increments == (("view", f"view:{DAILY.bucket_of(COUNTED_AT)}", "1"),)


@pytest.mark.parametrize("space", [b"", b" ", b"\n\t \r"])
def test_white_space_around_a_body_is_nothing(space: bytes) -> None:
    assert isinstance(DECODER.single(space + BODY + space), Event)
    assert len(batch(space + b"[" + space + BODY + space + b"]" + space).events) == 1


def batch(body: bytes) -> Batch:
    found = DECODER.batch(body)
    assert isinstance(found, Batch)
    return found


@pytest.mark.parametrize("count", [0, EVENTS_MAX + 1, 100])
def test_a_batch_of_another_size_is_wrong(count: int) -> None:
    for fill in (GOOD, {}, 5):
        wrong = DECODER.batch(json.dumps([fill] * count).encode())
        assert isinstance(wrong, Rejection)
        assert set(wrong.errors) == {"events"}
        assert DECODER.lines("\n".join([json.dumps(fill)] * count).encode()) == wrong
        assert DECODER.batch(json.dumps({"events": [fill] * count}).encode()) == wrong


def test_of_a_name_given_twice_the_last_wins() -> None:
    event = DECODER.single(b'{"value": "x", "value": 1e999, ' + BODY[1:])
    assert event == DECODER.single(BODY)
    wrong = DECODER.single(BODY[:-1] + b', "value": 0}')
    assert isinstance(wrong, Rejection)
    assert set(wrong.errors) == {"value"}


@given(st.integers(-(10**30), 10**30))
def test_only_values_in_range_are_admitted(value: int) -> None:
    assert isinstance(DECODER.single(json.dumps(good(value=value)).encode()), Event) is (1 <= value <= 100)


@given(st.characters(exclude_categories=("C", "Z")), st.integers(1, 300))
@example("😀", 255)
@example("😀", 256)
@example("é", 255)
@example("é", 256)
def test_lengths_are_counted_in_characters(character: str, length: int) -> None:
    event = good(event_id=character * length, entity_id=character * length)
    for as_ascii in (True, False):
        admitted = isinstance(DECODER.single(json.dumps(event, ensure_ascii=as_ascii).encode()), Event)
        assert admitted is (length <= 255)
