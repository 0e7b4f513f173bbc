"""The msgpack of calls and of parts of a claim, held against the headers of the scripts."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.buffer import wire
from daemon.buffer.outcome import Counted, Limited
from daemon.buffer.wire import Limit, Request, encode_call
from daemon.domain.action import Action
from daemon.domain.event import Event

VIEW = Action("view", 1, 100, {"view": "value"})
RATING = Action("rating", 1, 5, {"rating_count": "one", "rating_sum": "value"})

events = st.builds(
    Event,
    st.text(min_size=1, max_size=255),
    st.builds("jav:movie:{}".format, st.text(min_size=1, max_size=20)),
    st.builds(
        Action.effect, st.sampled_from([VIEW, RATING]), st.integers(1, 5), st.sampled_from(["2026-02-19", "2024-02-29"])
    ),
)
limits = st.sampled_from([None, Limit(60, 0), Limit(600, 10), Limit(0, 10)])
requests = st.builds(
    lambda sender, limit, refused, events: Request(sender, limit, len(events) + refused, events),
    st.sampled_from(["198.51.100.7", "2001:db8:1:2::/64", "key:shop"]),
    limits,
    st.integers(0, 3),
    st.lists(events, max_size=5),
)


@given(st.lists(requests, max_size=6))
def test_a_call_is_encoded_as_the_script_reads_it(sent: list[Request]) -> None:
    found, effects, items = msgspec.msgpack.decode(encode_call(sent, "anl:{0}:counters:"))
    assert len({tuple(effect) for effect in effects}) == len(effects), "each effect once"
    at = 0
    for request in sent:
        sender, limit, charge, n = items[at : at + 4]
        assert (sender, charge, n) == (request.sender, request.charge, len(request.events))
        assert (Limit(*found[limit - 1 : limit + 1]) if limit else None) == request.limit
        at += 4
        for event in request.events:
            bucket, member, entity, effect = items[at : at + 4]
            assert isinstance(bucket, int)
            assert 0 <= bucket < 2**32
            assert re.fullmatch(r"-?\d+", member)
            assert -(2**63) <= int(member) < 2**63
            assert entity == f"anl:{{0}}:counters:{event.entity}"
            assert effects[effect - 1] == [text for increment in event.effect.increments for text in increment]
            at += 4
    assert at == len(items)


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (0, Counted(0)),
        (1, Counted(1)),
        (118, Counted(0, room=59)),
        (2 * 10**9 - 1, Counted(1, room=10**9 - 1)),
        ([2_000, 0, 0, 0], Counted(2_000)),
        ([40, 0, 0, 20], Counted(40, room=20)),
        ([1, 0], Limited(1)),
        ([60_000, 0], Limited(60_000)),
        ([900, 5], Limited(900, room=5)),
        ([7, 3, 900, 0], Counted(7, limited=3, left_ms=900)),
    ],
)
def test_a_reply_of_the_script_becomes_one_outcome_a_request(
    reply: int | list[int], outcome: Counted | Limited
) -> None:
    assert wire.decode_outcomes([reply]) == [outcome]
    assert wire.decode_outcomes([reply, 1, reply]) == [outcome, Counted(1), outcome]


def test_outcomes_of_single_events_are_kept_up_to_a_bound() -> None:
    replies = range(2 * wire.SINGLES_KEPT)
    assert [outcome.room for outcome in wire.decode_outcomes(replies)] == [reply // 2 for reply in replies]
    assert len(wire._SINGLES) <= wire.SINGLES_KEPT


@pytest.mark.parametrize(
    ("claim", "parts"),
    [
        ({}, []),
        ({b"last": b"5", b"acked_at": b"1"}, []),
        (
            {b"seq": b"10", b"open": b"1", b"payload:10": b"b", b"payload:9": b"a", b"owner": b"x"},
            [(b"9", b"a"), (b"10", b"b")],
        ),
    ],
    ids=["none", "acknowledged", "two parts"],
)
def test_the_parts_of_a_claim_come_as_they_were_frozen(
    claim: dict[bytes, bytes], parts: list[tuple[bytes, bytes]]
) -> None:
    assert wire.parts_of(claim) == parts
