"""`ingest.lua` alone: what it refuses before it writes anything: malformed calls, and calls when memory is out."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from tests.kit.shard import BITS, DAY, WINDOW_S, Ev, Req, Shard, blob, pack

EFFECT = ["view", f"view:{DAY}", "1"]
COUNTERS = "anl:{3}:counters"
GOOD = [7, "77", f"{COUNTERS}:jav:movie:good", 1]
"""An event, flat; every malformed call below begins with one that could be counted."""

MALFORMED_ITEMS: dict[str, list[Any]] = {
    "sender is a number": [5, 0, 0, 0],
    "limit is missing": ["", None, 0, 0],
    "limit is unknown": ["", 2, 0, 0],
    "limit is a fraction": ["", 0.5, 0, 0],
    "limit is text": ["", "1", 0, 0],
    "charge is missing": ["", 0, None, 0],
    "charge is negative": ["", 0, -1, 0],
    "charge is a fraction": ["", 0, 1.5, 1, *GOOD],
    "charge is less than the events": ["", 0, 0, 1, *GOOD],
    "number of events is missing": ["", 0, 1],
    "number of events is text": ["", 0, 1, "1", *GOOD],
    "number of events is negative": ["", 0, 1, -1],
    "number of events is a fraction": ["", 0, 1, 0.5],
    "number of events is too large": ["", 0, 2, 2, *GOOD],
    "number of events is too small": ["", 0, 0, 0, *GOOD],
    "number of events is beyond reason": ["", 0, 10**15, 10**15],
    "bucket hash is text": ["", 0, 1, 1, "7", "77", f"{COUNTERS}:jav:movie:m", 1],
    "member is a number": ["", 0, 1, 1, 7, 77, f"{COUNTERS}:jav:movie:m", 1],
    "bucket hash is missing": ["", 0, 1, 1, None, "77", f"{COUNTERS}:jav:movie:m", 1],
    "member is missing": ["", 0, 1, 1, 7, None, f"{COUNTERS}:jav:movie:m", 1],
    "member is a list": ["", 0, 1, 1, 7, ["77"], f"{COUNTERS}:jav:movie:m", 1],
    "entity is a number": ["", 0, 1, 1, 7, "77", 5, 1],
    "entity is true": ["", 0, 1, 1, 7, "77", True, 1],
    "entity is a list": ["", 0, 1, 1, 7, "77", ["a"], 1],
    "effect is unknown": ["", 0, 1, 1, 7, "77", f"{COUNTERS}:jav:movie:m", 2],
    "effect is zero": ["", 0, 1, 1, 7, "77", f"{COUNTERS}:jav:movie:m", 0],
    "effect is text": ["", 0, 1, 1, 7, "77", f"{COUNTERS}:jav:movie:m", "1"],
}
MALFORMED_EFFECTS: dict[str, Any] = {
    "effect is no list": "view",
    "counter is a number": [5, f"view:{DAY}", "1"],
    "field is missing": ["view"],
    "amount is missing": ["view", f"view:{DAY}"],
    "amount is a number": ["view", f"view:{DAY}", 1],
    "amount is a word": ["view", f"view:{DAY}", "one"],
    "amount is empty": ["view", f"view:{DAY}", ""],
    "amount is a fraction": ["view", f"view:{DAY}", "1.5"],
    "amount has an exponent": ["view", f"view:{DAY}", "1e3"],
    "amount is hexadecimal": ["view", f"view:{DAY}", "0x10"],
    "amount has a sign too many": ["view", f"view:{DAY}", "--1"],
    "amount has spaces": ["view", f"view:{DAY}", " 1"],
    "amount has leading zeros": ["view", f"view:{DAY}", "01"],
    "amount is beyond 64 bits": ["view", f"view:{DAY}", "9223372036854775808"],
    "amount is beyond exact sums": ["view", f"view:{DAY}", "9007199254740993"],
    "the second increment is malformed": [*EFFECT, "sum", f"sum:{DAY}", "x"],
}
MALFORMED_BLOBS: dict[str, bytes] = {
    "empty": b"",
    "no msgpack": b"\xc1\xc1",
    "cut off": blob([Req("", [Ev("e1"), Ev("e2")])], COUNTERS)[:-3],
    "a number": pack(5),
    "no items": pack([[], [EFFECT]]),
    "items are no list": pack([[], [EFFECT], "x"]),
    "effects are no list": pack([[], "x", ["", 0, 1, 1, *GOOD]]),
    "limits are no list": pack(["x", [EFFECT], ["", 0, 1, 1, *GOOD]]),
    "a limit is a list": pack([[[60, 0]], [EFFECT], ["", 0, 1, 1, *GOOD]]),
    "a limit is half": pack([[60], [EFFECT], ["", 0, 1, 1, *GOOD]]),
    "a limit is text": pack([["60", 0], [EFFECT], ["", 0, 1, 1, *GOOD]]),
    "a limit is negative": pack([[60, -1], [EFFECT], ["", 0, 1, 1, *GOOD]]),
}
MALFORMED_LAYOUTS = {
    "no window": ["", BITS],
    "no bits": [WINDOW_S, "x"],
    "too few": [WINDOW_S],
    "window of nothing": [0, BITS],
}


def refused(shard: Shard, *args: Any) -> str:
    """The error of a call that must fail and change nothing, on an empty Redis and on one in use."""
    for _ in range(2):
        before = shard.everything()
        with pytest.raises(redis.ResponseError) as raised:
            shard.ingest_raw(*args)
        assert shard.everything() == before
        shard.count(Ev("before"))
    return str(raised.value)


@pytest.mark.parametrize("items", MALFORMED_ITEMS.values(), ids=MALFORMED_ITEMS)
def test_a_malformed_request_writes_nothing(shard: Shard, items: list[Any]) -> None:
    for whole in (items, ["1.2.3.4", 1, 1, 1, *GOOD, *items]):
        assert "BADCALL" in refused(shard, pack([[60, 0], [EFFECT], whole]), WINDOW_S, BITS)
        shard.redis.flushall()


@pytest.mark.parametrize("effect", MALFORMED_EFFECTS.values(), ids=MALFORMED_EFFECTS)
def test_a_malformed_effect_writes_nothing(shard: Shard, effect: Any) -> None:
    items = ["", 0, 1, 1, *GOOD, "", 0, 1, 1, 8, "88", f"{COUNTERS}:jav:movie:m", 2]
    assert "BADCALL" in refused(shard, pack([[], [EFFECT, effect], items]), WINDOW_S, BITS)


@pytest.mark.parametrize("malformed", MALFORMED_BLOBS.values(), ids=MALFORMED_BLOBS)
def test_a_malformed_blob_writes_nothing(shard: Shard, malformed: bytes) -> None:
    refused(shard, malformed, WINDOW_S, BITS)


@pytest.mark.parametrize("layout", MALFORMED_LAYOUTS.values(), ids=MALFORMED_LAYOUTS)
def test_a_malformed_layout_writes_nothing(shard: Shard, layout: list[Any]) -> None:
    assert "BADCALL" in refused(shard, blob([Req("1.2.3.4", [Ev("e1")])], COUNTERS), *layout)


def test_no_refusal_repeats_what_the_client_sent(shard: Shard) -> None:
    secret = "client-text"
    texts = [
        refused(shard, pack([[], [[secret, secret, secret]], ["", 0, 1, 1, *GOOD]]), WINDOW_S, BITS),
        refused(shard, pack([[], [EFFECT], [secret, secret, secret, secret]]), WINDOW_S, BITS),
    ]
    assert not [text for text in texts if secret in text]


# Out of memory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0, 60])
@pytest.mark.parametrize("state", ["empty", "same window", "new window", "foreign values"])
def test_out_of_memory_a_call_is_refused_before_its_first_write(shard: Shard, state: str, rate: int) -> None:
    if state != "empty":
        shard.count(Ev("e1"))
    if state == "new window":
        shard.age()
    if state == "foreign values":
        shard.redis.set(shard.ledger_key, "foreign")
        shard.redis.set(shard.dirty_key, "foreign")
    before = shard.everything()
    shard.redis.config_set("maxmemory", 1)
    with pytest.raises(redis.ResponseError, match="maxmemory"):
        shard.ingest(("1.2.3.4", [Ev("e2"), Ev("e1")]), rate=rate)
    assert shard.everything() == before
    shard.redis.config_set("maxmemory", 0)
    assert shard.ingest(("1.2.3.4", [Ev("e2"), Ev("e1")]), rate=rate) == [2 if state == "empty" else 1]
