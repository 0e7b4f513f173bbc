"""The msgpack of calls and of parts of a claim, held against the headers of the scripts."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.buffer import wire
from daemon.buffer.outcome import Counted, Limited
from daemon.buffer.wire import Request, encode_call
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
requests = st.builds(Request, st.sampled_from(["", "198.51.100.7", "2001:db8::1"]), st.lists(events, max_size=5))


@given(st.lists(requests, max_size=6))
def test_a_call_is_encoded_as_the_script_reads_it(sent: list[Request]) -> None:
    effects, items = msgspec.msgpack.decode(encode_call(sent, "anl:{0}:counters:"))
    assert len({tuple(effect) for effect in effects}) == len(effects), "each effect once"
    at = 0
    for request in sent:
        assert items[at : at + 2] == [request.address, len(request.events)]
        at += 2
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


@given(st.lists(st.integers(-60_000, 2_000)))
def test_a_reply_of_the_script_becomes_one_outcome_a_request(reply: list[int]) -> None:
    expected = [Counted(number) if number >= 0 else Limited(-number) for number in reply]
    assert wire.decode_outcomes(reply) == expected


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
