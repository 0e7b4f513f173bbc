"""Records: whole ones come back, torn and damaged ones are told apart, nothing raises."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.action import Effect, Visit
from daemon.domain.event import Event
from daemon.spool.record import Damage, Record, encode, scan

EFFECTS = [
    Effect((("view", "view:2026-02-19", "1"),)),
    Effect((("rating_count", "rating_count:2026-02-19", "1"), ("rating_sum", "rating_sum:2026-02-19", "5"))),
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
EVENTS = st.lists(st.builds(Event, TEXT, TEXT, st.sampled_from(EFFECTS)), min_size=1, max_size=6)


def plain(events: list[Event]) -> list[tuple[str, str, object]]:
    return [(event.event_id, event.entity, event.effect.increments) for event in events]


@given(st.lists(EVENTS, max_size=5))
def test_what_was_written_comes_back_in_order(batches: list[list[Event]]) -> None:
    parts = list(scan(b"".join(encode(events) for events in batches)))
    assert all(isinstance(part, Record) for part in parts)
    assert [plain(part.events) for part in parts if isinstance(part, Record)] == [plain(events) for events in batches]


def test_what_a_visitor_may_have_repeated_comes_back_to_be_counted() -> None:
    """Nobody asked Redis whether the visitor was there lately, and the spool holds no visitor."""
    raw, filtered = ("view_raw", "view_raw:2026-02-19", "1"), ("view", "view:2026-02-19", "1")
    event = Event("e", "jav:movie:m", Effect((filtered, raw), Visit("view", 30_000, Effect((raw,)))))
    (record,) = scan(encode([event]))
    assert isinstance(record, Record)
    assert plain(record.events) == [("e", "jav:movie:m", (filtered, raw))]
    assert record.events[0].effect.visit is None


@given(EVENTS, EVENTS, st.data())
def test_a_record_cut_short_is_torn_and_the_ones_before_it_are_whole(
    first: list[Event], last: list[Event], data: st.DataObject
) -> None:
    whole, tail = encode(first), encode(last)
    cut = data.draw(st.integers(1, len(tail) - 1))
    record, damage = scan(whole + tail[:cut])
    assert isinstance(record, Record)
    assert plain(record.events) == plain(first)
    assert damage == Damage(len(whole), len(whole) + cut, torn=True)


@given(EVENTS, EVENTS, EVENTS, st.data())
def test_a_damaged_record_in_the_middle_does_not_take_its_neighbours_along(
    first: list[Event], middle: list[Event], last: list[Event], data: st.DataObject
) -> None:
    a, b, c = encode(first), bytearray(encode(middle)), encode(last)
    b[data.draw(st.integers(0, len(b) - 1))] ^= data.draw(st.integers(1, 255))
    parts = list(scan(a + bytes(b) + c))
    records = [plain(part.events) for part in parts if isinstance(part, Record)]
    assert records == [plain(first), plain(last)]
    damaged = [part for part in parts if isinstance(part, Damage)]
    assert sum(part.end - part.start for part in damaged) == len(b)
    assert not any(part.torn for part in damaged)


@given(st.binary(max_size=400))
def test_no_bytes_raise(data: bytes) -> None:
    parts = list(scan(data))
    assert sum(part.end - part.start for part in parts) == len(data)
