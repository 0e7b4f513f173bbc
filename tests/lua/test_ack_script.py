"""`ack.lua`, `begin_sync.lua`, `settle.lua` and `layout.lua` alone: what ends a claim, a due entity and its sync, and a
wrong configuration."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from tests.kit.shard import DAY, Ev, Shard

VIEW = f"view:{DAY}"


@pytest.fixture
def seq(shard: Shard) -> int:
    """A claim in flight."""
    shard.count(Ev("e1"))
    return shard.claim().seq


# ack --------------------------------------------------------------------------------------------------------------


def test_ack_books_the_claim_and_keeps_the_last_seq_and_when_it_was(shard: Shard, seq: int) -> None:
    assert shard.ack(seq, {"flushed:view": 1, "dead:view": 2}, ["jav:movie:m"]) == 1
    assert shard.ledger() == {"accepted:view": 1, "flushed:view": 1, "dead:view": 2}
    assert shard.redis.zrange(shard.replica_key, 0, -1, withscores=True) == [(b"jav:movie:m", float(seq))]
    assert shard.claim().status == "empty"
    left = shard.redis.hgetall(shard.claim_key)
    assert set(left) == {b"last", b"acked_at"}
    assert int(left[b"last"]) == seq
    assert abs(int(left[b"acked_at"]) - shard.redis.time()[0]) <= 60


@pytest.mark.parametrize("more", [False, True], ids=["the last call", "a call before the last"])
@pytest.mark.parametrize("when", ["for a seq below", "for a seq above", "acknowledged", "another in flight"])
def test_an_ack_changes_nothing_that_comes(shard: Shard, seq: int, when: str, more: bool) -> None:
    if when in ("acknowledged", "another in flight"):
        assert shard.ack(seq, {"flushed:view": 1}, ["jav:movie:m"]) == 1
    if when == "another in flight":
        shard.count(Ev("e2"))
        shard.claim()
    before = shard.everything()
    wrong = {"for a seq below": seq - 1, "for a seq above": seq + 1}.get(when, seq)
    assert shard.ack(wrong, {"flushed:view": 1}, ["jav:movie:m"], more=more) == 0
    assert shard.everything() == before


@pytest.mark.parametrize("wrong", [{"nonce": "another"}, {"acked": 7}])
def test_an_ack_of_another_history_changes_nothing(shard: Shard, seq: int, wrong: dict[str, Any]) -> None:
    before = shard.everything()
    assert shard.ack(seq, {"flushed:view": 1}, ["jav:movie:m"], **wrong) == 0
    assert shard.everything() == before


def test_an_ack_before_any_claim_changes_nothing(shard: Shard) -> None:
    assert shard.ack(1, {"flushed:view": 1}, ["jav:movie:m"]) == 0
    assert shard.everything() == {}


def test_an_ack_may_book_and_list_nothing(shard: Shard, seq: int) -> None:
    assert shard.ack(seq) == 1
    assert shard.ledger() == {"accepted:view": 1}
    assert not shard.redis.exists(shard.replica_key)


def test_an_ack_adds_to_what_was_booked(shard: Shard, seq: int) -> None:
    shard.ack(seq, {"flushed:view": 2**53 + 1})
    shard.count(Ev("e2"))
    shard.ack(shard.claim().seq, {"flushed:view": 2})
    assert shard.ledger()["flushed:view"] == 2**53 + 3


def test_an_entity_that_becomes_due_again_gets_the_later_seq(shard: Shard, seq: int) -> None:
    shard.ack(seq, {}, ["jav:movie:m", "jav:movie:n"])
    shard.count(Ev("e2"))
    later = shard.claim().seq
    shard.ack(later, {}, ["jav:movie:m"])
    assert dict(shard.redis.zrange(shard.replica_key, 0, -1, withscores=True)) == {
        b"jav:movie:m": float(later), b"jav:movie:n": float(seq)
    }  # fmt: skip


def test_a_thousand_entities_become_due_at_once(shard: Shard, seq: int) -> None:
    assert shard.ack(seq, {}, [f"jav:movie:{n}" for n in range(1_000)]) == 1
    assert shard.redis.zcard(shard.replica_key) == 1_000


def test_an_ack_forgets_all_parts(shard: Shard) -> None:
    shard.count(*(Ev(f"e{n}", f"jav:movie:{n}") for n in range(100)))
    claimed = shard.claim_whole(us=0)
    assert len(claimed.parts) > 2
    assert shard.ack(claimed.seq) == 1
    assert set(shard.redis.hgetall(shard.claim_key)) == {b"last", b"acked_at"}


def test_before_the_last_call_due_entities_are_listed_and_nothing_else_happens(shard: Shard, seq: int) -> None:
    before = shard.everything()
    assert shard.ack(seq, {"flushed:view": 1}, ["jav:movie:a", "jav:movie:b"], more=True) == 1
    assert dict(shard.redis.zrange(shard.replica_key, 0, -1, withscores=True)) == {
        b"jav:movie:a": float(seq), b"jav:movie:b": float(seq)
    }  # fmt: skip
    shard.redis.delete(shard.replica_key)
    assert shard.everything() == before


def test_an_ack_that_died_halfway_is_repeated_by_another(shard: Shard, seq: int) -> None:
    """What was listed, synced and settled meanwhile is listed once more: one UPDATE with the same total."""
    shard.ack(seq, {}, ["jav:movie:a"], more=True)
    assert shard.settle(("jav:movie:a", str(seq))) == 1
    assert shard.ack(seq, {}, ["jav:movie:a"], more=True) == 1
    assert shard.ack(seq, {"flushed:view": 1}, ["jav:movie:b"]) == 1
    assert shard.redis.zrange(shard.replica_key, 0, -1) == [b"jav:movie:a", b"jav:movie:b"]
    assert shard.ledger() == {"accepted:view": 1, "flushed:view": 1}


def test_out_of_memory_an_ack_is_carried_out(shard: Shard, seq: int) -> None:
    shard.redis.config_set("maxmemory", 1)
    assert shard.ack(seq, {}, ["jav:movie:n"], more=True) == 1
    assert shard.ack(seq, {"flushed:view": 1}, ["jav:movie:m"]) == 1
    assert shard.ledger()["flushed:view"] == 1
    assert shard.redis.zcard(shard.replica_key) == 2


def test_a_malformed_ack_writes_nothing(shard: Shard, seq: int) -> None:
    before = shard.everything()
    keys = [shard.claim_key, shard.replica_key, shard.ledger_key, f"{shard.tag}:aside"]
    for args in ((seq, b"\xc1", b"\x90"), (seq, b"\x90", b"\xc1"), (seq, b"", b""), (seq,)):
        with pytest.raises(redis.ResponseError):
            shard.redis.evalsha(shard.sha["ack"], 4, *keys, *args)
        assert shard.everything() == before


def test_ack_touches_its_own_keys_only(shard: Shard, seq: int) -> None:
    for key in ("anl:{2}:ledger", "anl:{2}:replica", "anl:{3}:dirty", "anl:{3}:counters:jav:movie:m", "anl:layout"):
        shard.redis.set(key, "not yours")
    before = shard.everything()
    shard.ack(seq, {"flushed:view": 1}, ["jav:movie:m"])
    after = shard.everything()
    changed = {key.decode() for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert changed == {"anl:{3}:claim", "anl:{3}:ledger", "anl:{3}:replica"}


# settle -----------------------------------------------------------------------------------------------------------


def make_due(shard: Shard, **scores: int) -> None:
    shard.redis.zadd(shard.replica_key, scores)


def test_settle_takes_off_what_was_synced(shard: Shard) -> None:
    make_due(shard, a=10, b=20, c=30)
    assert shard.settle(("a", "10"), ("b", "20")) == 2
    assert shard.redis.zrange(shard.replica_key, 0, -1) == [b"c"]


@pytest.mark.parametrize("score", [9, 11])
def test_an_entity_that_became_due_again_stays(shard: Shard, score: int) -> None:
    """Also by a claim with a lower seq than the time at which a repair had listed it."""
    make_due(shard, a=score, b=20)
    assert shard.settle(("a", "10"), ("b", "20")) == 1
    assert shard.redis.zrange(shard.replica_key, 0, -1, withscores=True) == [(b"a", float(score))]


def test_an_entity_synced_by_someone_else_is_no_matter(shard: Shard) -> None:
    assert shard.settle(("a", "10")) == 0
    make_due(shard, a=10)
    assert [shard.settle(("a", "10")) for _ in range(2)] == [1, 0]


def test_the_scores_of_real_seqs_are_told_apart(shard: Shard) -> None:
    seq = 1_771_495_200_123_456
    make_due(shard, a=seq, b=seq + 1)
    texts = shard.redis.execute_command("ZRANGE", shard.replica_key, 0, -1, "WITHSCORES")
    assert texts
    assert shard.settle(("a", str(seq)), ("b", str(seq))) == 1
    assert shard.redis.zrange(shard.replica_key, 0, -1) == [b"b"]


def test_settling_nothing_changes_nothing(shard: Shard) -> None:
    make_due(shard, a=1)
    before = shard.everything()
    assert shard.settle() == 0
    assert shard.settle(("other", "5")) == 0
    assert shard.everything() == before


def test_settle_works_out_of_memory(shard: Shard) -> None:
    make_due(shard, a=1)
    shard.redis.config_set("maxmemory", 1)
    assert shard.settle(("a", "1")) == 1


# begin_sync -------------------------------------------------------------------------------------------------------


def test_begin_sync_marks_each_entity_once_and_touches_nothing_else(shard: Shard) -> None:
    make_due(shard, a=1)
    before = shard.everything()
    assert shard.begin_sync("a", "b") == 2
    assert shard.begin_sync("b", "c") == 1
    assert shard.redis.smembers(f"{shard.tag}:syncing") == {b"a", b"b", b"c"}
    shard.redis.delete(f"{shard.tag}:syncing")
    assert shard.everything() == before


def test_begin_sync_works_out_of_memory(shard: Shard) -> None:
    shard.redis.config_set("maxmemory", 1)
    assert shard.begin_sync("a") == 1


# layout -----------------------------------------------------------------------------------------------------------

WANTED = ("format", "1", "shards", "4", "dedupe_window_s", "172800")


def test_the_first_layout_is_kept(shard: Shard) -> None:
    first = shard.layout(*WANTED)
    assert {key: first[key] for key in (b"format", b"shards", b"dedupe_window_s")} == {
        b"format": b"1", b"shards": b"4", b"dedupe_window_s": b"172800"
    }  # fmt: skip
    assert shard.layout("format", "2", "shards", "1", "dedupe_window_s", "5") == first
    assert set(shard.everything()) == {b"anl:layout"}


def test_a_redis_that_lost_its_memory_has_a_layout_of_its_own(shard: Shard) -> None:
    first = shard.layout(*WANTED)
    assert shard.layout(*WANTED)[b"epoch"] == first[b"epoch"]
    shard.redis.flushall()
    assert int(shard.layout(*WANTED)[b"epoch"]) > int(first[b"epoch"])


def test_a_known_layout_is_told_out_of_memory_too(shard: Shard) -> None:
    first = shard.layout(*WANTED)
    shard.redis.config_set("maxmemory", 1)
    assert shard.layout(*WANTED) == first
