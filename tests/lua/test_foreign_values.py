"""Values of another kind under our keys: moved away and booked, and the counts go on.

Nothing of ours may be lost by it: a field that is no number takes only itself away, not the hash it is in.
"""

from __future__ import annotations

import pytest

from tests.kit.shard import DAY, Ev, Shard

VIEW = f"view:{DAY}"
ENTITY = "anl:{3}:counters:jav:movie:m"
INT64_MAX = 2**63 - 1


def put(shard: Shard, key: str, kind: str) -> None:
    """A value of this type that is none of ours: also in the ledger, where an amount cannot be added to it."""
    client = shard.redis
    writes = {"string": client.set, "list": client.rpush, "set": client.sadd}
    if kind == "hash":
        client.hset(key, "aside", "word")
    else:
        writes[kind](key, "foreign")


@pytest.mark.parametrize("foreign", ["string", "list", "set"])
@pytest.mark.parametrize("key", [ENTITY, "anl:{3}:ledger", "anl:{3}:seen"])
def test_ingest_moves_a_value_of_another_kind_away(shard: Shard, key: str, foreign: str) -> None:
    put(shard, key, foreign)
    held = shard.redis.dump(key)
    assert shard.count(Ev("e1")) == 1
    assert shard.count(Ev("e1"), Ev("e2")) == 1
    assert shard.asides() == {key: held}
    assert shard.live() == {"jav:movie:m": {VIEW: 2}}
    assert shard.dirty() == {"jav:movie:m"}
    assert shard.ledger() == {"accepted:view": 2, "duplicate:view": 1, "aside": 1}


@pytest.mark.parametrize("foreign", ["string", "list", "hash"])
def test_ingest_moves_a_dirty_set_that_is_none_away(shard: Shard, foreign: str) -> None:
    put(shard, shard.dirty_key, foreign)
    assert shard.count(Ev("e1")) == 1
    assert set(shard.asides()) == {shard.dirty_key}
    assert shard.dirty() == {"jav:movie:m"}
    assert shard.ledger() == {"accepted:view": 1, "aside": 1}


@pytest.mark.parametrize("windows", [0, 1])
def test_ingest_moves_a_bucket_that_is_none_away(shard: Shard, windows: int) -> None:
    shard.count(Ev("e1"))
    shard.age(windows)
    (bucket,) = shard.keys("seen:")
    shard.redis.delete(bucket)
    put(shard, bucket, "string")
    assert shard.count(Ev("e1")) == 1, "what the bucket knew is lost"
    assert shard.count(Ev("e1")) == 0
    assert set(shard.asides()) == {bucket}
    assert shard.ledger() == {"accepted:view": 2, "duplicate:view": 1, "aside": 1}


@pytest.mark.parametrize("foreign", ["string", "list", "hash"])
def test_ingest_moves_a_rate_that_is_none_away(shard: Shard, foreign: str) -> None:
    key = "anl:{3}:rate:1.2.3.4"
    put(shard, key, foreign)
    assert shard.ingest(("1.2.3.4", [Ev("e1")]), rate=1) == [1]
    assert 0 < shard.redis.pttl(key) <= 60_000
    assert shard.ingest(("1.2.3.4", [Ev("e2")]), rate=1)[0] < 0
    assert set(shard.asides()) == {key}
    assert shard.ledger() == {"accepted:view": 1, "aside": 1}


@pytest.mark.parametrize("foreign", ["word", "1.5", "", str(INT64_MAX), "9" * 25])
def test_a_counter_that_cannot_be_added_to_takes_only_itself_away(shard: Shard, foreign: str) -> None:
    shard.count(Ev("e1"), Ev("e2", effect=(("download", f"download:{DAY}", "1"),)))
    shard.redis.hset(ENTITY, VIEW, foreign)
    assert shard.count(Ev("e3")) == 1
    assert shard.live() == {"jav:movie:m": {VIEW: 1, f"download:{DAY}": 1}}
    assert shard.dirty() == {"jav:movie:m"}
    assert shard.ledger() == {"accepted:view": 2, "accepted:download": 1, "aside": 1}
    (aside,) = shard.keys("aside:")
    assert shard.redis.hgetall(aside) == {VIEW.encode(): foreign.encode()}


def test_a_counter_that_was_the_hash_alone_leaves_the_entity_dirty(shard: Shard) -> None:
    shard.redis.hset(ENTITY, VIEW, "word")
    assert shard.count(Ev("e1")) == 1
    assert shard.dirty() == set(shard.live()) == {"jav:movie:m"}


@pytest.mark.parametrize("foreign", ["word", str(INT64_MAX)])
@pytest.mark.parametrize("field", ["accepted:view", "duplicate:view"])
def test_a_sum_that_cannot_be_added_to_takes_only_itself_away(shard: Shard, field: str, foreign: str) -> None:
    shard.count(Ev("e1"), Ev("e1"))
    shard.redis.hset(shard.ledger_key, field, foreign)
    assert shard.count(Ev("e2"), Ev("e2")) == 1
    sums = {"accepted:view": 2, "duplicate:view": 2, "aside": 1} | {field: 1}
    assert shard.ledger() == sums


def test_a_ledger_that_cannot_book_what_was_moved_away_goes_on(shard: Shard) -> None:
    shard.redis.hset(shard.ledger_key, "aside", "word")
    put(shard, ENTITY, "string")
    assert shard.count(Ev("e1")) == 1
    assert shard.live() == {"jav:movie:m": {VIEW: 1}}
    assert shard.ledger()["accepted:view"] == 1
    assert shard.ledger()["aside"] >= 1


@pytest.mark.parametrize("field", ["gen", "bits", "events", "prev_bits"])
@pytest.mark.parametrize("foreign", ["word", "", "-5", "1.5", "1e99", "nan"])
def test_a_damaged_state_of_the_dedupe_memory_stops_no_event(shard: Shard, field: str, foreign: str) -> None:
    shard.count(Ev("e1"))
    shard.redis.hset(shard.seen_key, field, foreign)
    assert shard.count(Ev("e2"), Ev("e2")) == 1
    assert shard.count(Ev("e3"), Ev("e2")) == 1
    now = shard.redis.time()[0] // 172_800
    assert {int(key.split(":")[-2]) for key in shard.keys("seen:")} <= {now, now + 1}


# claim ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("foreign", ["string", "list", "set"])
def test_claim_moves_an_entity_that_is_no_hash_away(shard: Shard, foreign: str) -> None:
    put(shard, ENTITY, foreign)
    shard.redis.sadd(shard.dirty_key, "jav:movie:m")
    shard.count(Ev("e1", "jav:movie:ours"))
    assert shard.claim().by_entity == {"jav:movie:ours": {VIEW: 1}}
    assert set(shard.asides()) == {ENTITY}
    assert shard.ledger() == {"accepted:view": 1, "aside": 1}
    assert shard.dirty() == set()


@pytest.mark.parametrize("foreign", ["string", "list", "set"])
def test_claim_moves_a_claim_that_is_none_away(shard: Shard, foreign: str) -> None:
    shard.count(Ev("e1"))
    put(shard, shard.claim_key, foreign)
    claimed = shard.claim()
    assert claimed.by_entity == {"jav:movie:m": {VIEW: 1}}
    assert set(shard.asides()) == {shard.claim_key}
    assert shard.ack(claimed.seq) == 1


@pytest.mark.parametrize("foreign", ["string", "list", "hash"])
def test_claim_moves_a_dirty_set_that_is_none_away(shard: Shard, foreign: str) -> None:
    put(shard, shard.dirty_key, foreign)
    assert shard.claim().status == "empty"
    assert set(shard.asides()) == {shard.dirty_key}
    shard.count(Ev("e1"))
    assert shard.claim().by_entity == {"jav:movie:m": {VIEW: 1}}


@pytest.mark.parametrize("ledger", ["string", "list", "hash"])
def test_claim_loses_nothing_when_it_cannot_book_what_it_moved_away(shard: Shard, ledger: str) -> None:
    shard.count(*(Ev(f"e{n}", f"jav:movie:{n}") for n in range(40)))
    put(shard, ENTITY, "string")
    shard.redis.sadd(shard.dirty_key, "jav:movie:m")
    shard.redis.delete(shard.ledger_key)
    put(shard, shard.ledger_key, ledger)
    assert shard.claim().by_entity == {f"jav:movie:{n}": {VIEW: 1} for n in range(40)}


def test_claim_hands_out_foreign_fields_as_they_are(shard: Shard) -> None:
    """What is no amount is the flusher's to judge; the script drops nothing."""
    shard.redis.hset(ENTITY, mapping={"no field": "no amount", "\x00": "", VIEW: "3"})
    shard.redis.sadd(shard.dirty_key, "jav:movie:m")
    reply = shard.claim_raw("a", 60_000, 0, "", 10, 10, 10**6, "nonce")
    for text in (b"no field", b"no amount", b"\x00", VIEW.encode()):
        assert text in reply[2]


# ack --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("foreign", ["string", "list", "hash"])
def test_ack_moves_a_replica_list_that_is_none_away(shard: Shard, foreign: str) -> None:
    shard.count(Ev("e1"))
    seq = shard.claim().seq
    put(shard, shard.replica_key, foreign)
    assert shard.ack(seq, {"flushed:view": 1}, ["jav:movie:m", "jav:movie:n"]) == 1
    assert shard.redis.zrange(shard.replica_key, 0, -1) == [b"jav:movie:m", b"jav:movie:n"]
    assert set(shard.asides()) == {shard.replica_key}
    assert shard.ledger() == {"accepted:view": 1, "flushed:view": 1, "aside": 1}


@pytest.mark.parametrize("foreign", ["string", "list", "set"])
def test_ack_moves_a_ledger_that_is_none_away(shard: Shard, foreign: str) -> None:
    shard.count(Ev("e1"))
    seq = shard.claim().seq
    shard.redis.delete(shard.ledger_key)
    put(shard, shard.ledger_key, foreign)
    assert shard.ack(seq, {"flushed:view": 1}, ["jav:movie:m"]) == 1
    assert shard.ledger() == {"flushed:view": 1, "aside": 1}
    assert shard.redis.zcard(shard.replica_key) == 1


@pytest.mark.parametrize("foreign", ["word", str(INT64_MAX)])
def test_ack_moves_only_the_sum_away_that_cannot_be_added_to(shard: Shard, foreign: str) -> None:
    shard.count(Ev("e1"))
    seq = shard.claim().seq
    shard.redis.hset(shard.ledger_key, "flushed:view", foreign)
    assert shard.ack(seq, {"flushed:view": 5, "flushed:download": 2}, ["jav:movie:m"]) == 1
    assert shard.ledger() == {"accepted:view": 1, "flushed:view": 5, "flushed:download": 2, "aside": 1}
    assert shard.redis.zcard(shard.replica_key) == 1


def test_ack_ends_whatever_it_is_told_to_book(shard: Shard) -> None:
    """Amounts beyond 64 bits come from foreign values only; they must not keep the claim in flight for ever."""
    shard.count(Ev("e1"))
    seq = shard.claim().seq
    assert shard.ack(seq, {"flushed:huge": 2**63, "flushed:view": 1}, ["jav:movie:m"]) == 1
    assert shard.ledger()["flushed:view"] == shard.ledger()["accepted:view"] == 1
    assert shard.redis.zcard(shard.replica_key) == 1
    assert shard.claim().status == "empty"
