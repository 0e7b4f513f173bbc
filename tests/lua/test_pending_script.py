"""`pending.lua` alone: what Redis holds of one entity, live and in flight, at one moment."""

from __future__ import annotations

import pytest
import redis

from tests.kit.shard import DAY, Ev, Pending, Shard, step, unpack_parts

VIEW = f"view:{DAY}"
M = "jav:movie:m"


def test_of_an_empty_redis_there_is_nothing(shard: Shard) -> None:
    assert shard.pending(M) == Pending(0, 0, {}, {})


def test_live_amounts_are_the_entitys_own(shard: Shard) -> None:
    other_day = (step(amount=3, day="2026-02-20"),)
    shard.count(Ev("e1"), Ev("e2"), Ev("e3", effect=other_day), Ev("e4", "jav:movie:other"))
    assert shard.pending(M) == Pending(0, 0, {}, {VIEW: 2, "view:2026-02-20": 3})


def test_a_claimed_amount_is_in_the_claim_and_a_later_one_is_live(shard: Shard) -> None:
    shard.count(Ev("e1"), Ev("e2", "jav:movie:other"))
    seq = shard.claim().seq
    shard.count(Ev("e3"))
    found = shard.pending(M)
    assert (found.acked, found.seq, found.live) == (0, seq, {VIEW: 1})
    assert found.batch == {M: {VIEW: 1}, "jav:movie:other": {VIEW: 1}}


def test_a_claim_that_is_known_is_not_handed_out_again(shard: Shard) -> None:
    shard.count(Ev("e1"))
    seq = shard.claim().seq
    assert shard.pending(M, seq) == Pending(0, seq, {}, {})
    assert shard.pending(M, seq - 1).batch == {M: {VIEW: 1}}


def test_of_a_claim_that_grew_only_what_was_added_is_handed_out(shard: Shard) -> None:
    shard.count(*(Ev(f"e{n}", f"jav:movie:{n}") for n in range(100)))
    known = shard.claim(us=0).seq
    first = shard.pending(M)
    assert first.parts == shard.frozen()
    shard.claim(us=0)
    grown = shard.pending(M, known)
    assert grown.parts == {**shard.frozen(), known: None}
    assert grown.seq > known > grown.acked
    sealed = shard.claim_whole()
    assert shard.pending(M, grown.seq).parts == {**sealed.parts, **dict.fromkeys(grown.parts)}
    assert shard.pending(M, sealed.seq).parts == {}
    assert shard.pending(M, known - 1).parts == sealed.parts, "of another claim nothing is known"


def test_an_entity_that_was_frozen_twice_is_in_both_parts(shard: Shard) -> None:
    shard.count(*(Ev(f"e{n}", f"jav:movie:{n}") for n in range(100)))
    shard.claim(us=0)
    ([(entity, _)],) = shard.frozen().values()
    shard.count(Ev("later", entity, (step(amount=5),)))
    shard.claim_whole()
    parts = [dict(part or ()) for part in shard.pending(entity).parts.values()]
    assert sorted(part[entity][VIEW] for part in parts if entity in part) == [1, 5]


def test_after_the_ack_only_the_last_seq_is_left(shard: Shard) -> None:
    shard.count(Ev("e1"))
    seq = shard.claim().seq
    shard.ack(seq)
    assert shard.pending(M) == Pending(seq, 0, {}, {})


def test_an_entity_claimed_in_part_is_in_both(shard: Shard) -> None:
    shard.count(*(Ev(f"e{n}", effect=(step(day=f"2026-02-{n:02d}"),)) for n in range(1, 11)))
    seq = shard.claim(fields=4).seq
    found = shard.pending(M)
    assert found.batch is not None
    assert (found.seq, len(found.batch[M]), len(found.live)) == (seq, 4, 6)
    assert not found.batch[M].keys() & found.live.keys()


def test_amounts_beyond_53_bits_keep_their_digits(shard: Shard) -> None:
    shard.redis.hset(f"{shard.tag}:counters:{M}", VIEW, 2**53)
    shard.count(Ev("e1"))
    assert shard.pending(M).live == {VIEW: 2**53 + 1}


@pytest.mark.parametrize("known", ["", "7"])
def test_nothing_is_written(shard: Shard, known: str) -> None:
    shard.count(Ev("e1"))
    shard.claim()
    shard.count(Ev("e2"))
    before = shard.everything()
    shard.pending(M, known)
    assert shard.everything() == before


def test_foreign_values_count_as_nothing_and_stay(shard: Shard) -> None:
    shard.redis.set(shard.claim_key, "not a hash")
    shard.redis.rpush(f"{shard.tag}:counters:{M}", "not a hash either")
    before = shard.everything()
    assert shard.pending(M) == Pending(0, 0, {}, {})
    assert shard.everything() == before


def test_an_entity_of_many_counts_is_not_read(shard: Shard) -> None:
    shard.count(*(Ev(f"e{n}", effect=(step(day=f"2026-02-{n:02d}"),)) for n in range(1, 11)))
    shard.claim(fields=4)
    assert shard.pending_raw(M, "", 5, 1_000_000) == [b"large", 6]
    assert shard.pending_raw(M, "", 6, 1_000_000)[0] == b"whole"
    assert shard.pending_raw("jav:movie:other", "", 0, 1_000_000)[0] == b"whole"


def test_a_large_claim_is_handed_out_in_several_calls(shard: Shard) -> None:
    """The caller says how far it is. Parts that are frozen meanwhile come last."""
    shard.count(*(Ev(f"e{n}", f"jav:movie:{n}") for n in range(100)))
    while shard.claim(us=0).status == "more":
        pass
    parts, known, calls = {}, "", 0
    while (reply := shard.pending_raw(M, known, 10, 1))[0] == b"more":
        assert len(reply[1]) == 2, "one part, however small the limit is"
        parts |= unpack_parts(reply[1])
        known, calls = reply[1][-2].decode(), calls + 1
    _, _, _, last, _ = reply
    assert calls > 2
    frozen = shard.frozen()
    assert parts == {part: frozen[part] for part in parts}
    assert unpack_parts(last) == {part: None if part in parts else amounts for part, amounts in frozen.items()}


@pytest.mark.parametrize("args", [(), (M,), (M, ""), (M, "", "many", "1")])
def test_a_call_without_its_arguments_is_refused(shard: Shard, args: tuple[str, ...]) -> None:
    with pytest.raises(redis.ResponseError, match="BADCALL"):
        shard.pending_raw(*args)
