"""What goes to the scripts, held against their headers: the call of `ingest`, the layout of the dedupe memory."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.buffer import counters, scripts
from daemon.buffer.counters import EVENTS_PER_BUCKET, Request, dedupe_bits
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
    effects, items = msgspec.msgpack.decode(counters._encode(sent, "anl:{0}:counters:"))
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


@given(st.lists(st.text(min_size=1, max_size=255), unique=True, min_size=2, max_size=50))
def test_an_id_has_always_the_same_digest_and_none_another_has(ids: list[str]) -> None:
    effect = VIEW.effect(1, "2026-02-19")

    def digests(names: list[str], entity: str) -> list[tuple[int, str]]:
        _, items = msgspec.msgpack.decode(
            counters._encode([Request("", [Event(id_, entity, effect) for id_ in names])], "")
        )
        return list(zip(items[2::4], items[3::4], strict=True))

    first = digests(ids, "jav:movie:a")
    assert len(set(first)) == len(ids)
    assert digests(ids[::-1], "jav:movie:b")[::-1] == first


def test_digests_are_spread_evenly() -> None:
    effect = VIEW.effect(1, "2026-02-19")
    _, items = msgspec.msgpack.decode(
        counters._encode([Request("", [Event(f"e{n}", "m", effect) for n in range(16_000)])], "")
    )
    buckets = [bucket % 16 for bucket in items[2::4]]
    assert all(800 < buckets.count(number) < 1_200 for number in range(16))
    signs = [member.startswith("-") for member in items[3::4]]
    assert 7_000 < sum(signs) < 9_000


@given(st.integers(1, 2**31 - 1))
def test_the_first_window_is_laid_out_for_what_is_expected(expected: int) -> None:
    bits = dedupe_bits(expected)
    assert 4 <= bits <= 28
    assert expected <= EVENTS_PER_BUCKET * 2**bits
    assert bits == 4 or expected > EVENTS_PER_BUCKET * 2 ** (bits - 1)


def test_the_script_has_the_same_bounds() -> None:
    assert f"EVENTS_PER_BUCKET = {EVENTS_PER_BUCKET} " in scripts.INGEST.source
    assert f"BITS_MAX = {counters._BITS_MAX}\n" in scripts.INGEST.source


@pytest.mark.parametrize("script", scripts.ALL, ids=lambda script: script.name)
def test_every_script_says_what_it_is_for(script: scripts.Script) -> None:
    header = script.source.split("\n\n")[0] + script.source.split("\n\n")[1]
    assert header.startswith(f"-- {script.name}: ")
    for part in ("-- KEYS  1 ", "-- ARGV  ", "-- Returns ", "-- Cost  "):
        assert part in script.source, part


def test_every_script_file_is_loaded() -> None:
    assert {path.stem for path in scripts.LUA_DIR.glob("*.lua")} == {script.name for script in scripts.ALL}


@pytest.mark.parametrize(
    ("claim", "parts"),
    [
        ({}, []),
        ({b"last": b"5", b"acked_at": b"1"}, []),
        ({b"seq": b"5", b"payload": b"old"}, [(b"5", b"old")]),
        (
            {b"seq": b"10", b"open": b"1", b"payload:10": b"b", b"payload:9": b"a", b"owner": b"x"},
            [(b"9", b"a"), (b"10", b"b")],
        ),
    ],
    ids=["none", "acknowledged", "of an earlier release", "two parts"],
)
def test_the_parts_of_a_batch_come_as_they_were_frozen(
    claim: dict[bytes, bytes], parts: list[tuple[bytes, bytes]]
) -> None:
    assert counters.parts_of(claim) == parts
