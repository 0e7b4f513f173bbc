"""`amend.lua` alone: a Redis that came back as it was before a claim takes that off again, once, and in one step."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.kit.shard import DAY, Claimed, Ev, Shard, pack, step

VIEW, DOWNLOAD = f"view:{DAY}", f"download:{DAY}"
M, N = "jav:movie:m", "jav:movie:n"


class Forgotten(NamedTuple):
    """A claim that Redis forgot, and its parts."""

    claim: Claimed
    parts: list[bytes]


def fall_back(shard: Shard, *lost: Ev) -> Forgotten:
    """Redis counts the `lost` events, too, and flushes all. It comes back as it was before."""
    saved = {key: shard.redis.dump(key) for key in shard.redis.scan_iter(f"{shard.tag}:*")}
    if lost:
        shard.count(*lost)
    claim = shard.claim_whole("a")
    parts = shard.payloads()
    assert shard.ack(claim.seq) == 1
    shard.redis.flushall()
    for key, value in saved.items():
        shard.redis.restore(key, 0, value)
    return Forgotten(claim, parts)


def floor_of(claim: Claimed) -> dict[str, object]:
    return {"floor": claim.seq, "floor_nonce": claim.nonce}


def test_what_is_live_again_is_taken_off(shard: Shard) -> None:
    shard.count(Ev("1"), Ev("2", N))
    claim, parts = fall_back(shard)
    assert shard.amend(claim, parts, {"flushed:view": 2}, [M]) == 1
    assert (shard.live(), shard.dirty()) == ({}, set())
    assert shard.ledger() == {"accepted:view": 2, "flushed:view": 2}
    assert shard.redis.zrange(shard.replica_key, 0, -1, withscores=True) == [(M.encode(), float(claim.seq))]
    assert shard.claim(**floor_of(claim)).status == "empty"
    assert int(shard.redis.hget(shard.claim_key, "last")) == claim.seq


def test_events_that_it_forgot_leave_a_gap_that_they_fill_when_they_come_again(shard: Shard) -> None:
    shard.count(Ev("1"))
    lost = (Ev("2"), Ev("3", N, (step("download", 4),)))
    claim, parts = fall_back(shard, *lost)
    assert shard.amend(claim, parts) == 1
    assert shard.live() == {M: {VIEW: -1}, N: {DOWNLOAD: -4}}
    assert shard.dirty() == {M, N}
    assert shard.count(Ev("1"), *lost) == 2, "it knows the first one"
    assert shard.claim_whole(**floor_of(claim)).by_entity == {M: {VIEW: 0}, N: {DOWNLOAD: 0}}


def test_a_gap_that_nobody_fills_is_claimed_like_any_amount(shard: Shard) -> None:
    claim, parts = fall_back(shard, Ev("1"))
    shard.amend(claim, parts)
    assert shard.claim_whole(**floor_of(claim)).by_entity == {M: {VIEW: -1}}


def test_it_is_amended_once(shard: Shard) -> None:
    shard.count(Ev("1"))
    claim, parts = fall_back(shard)
    assert shard.amend(claim, parts, {"flushed:view": 1}) == 1
    before = shard.everything()
    assert shard.amend(claim, parts, {"flushed:view": 1}) == 0
    assert shard.everything() == before


def test_the_claim_before_it_comes_first(shard: Shard) -> None:
    """It fell back by two claims, and again in the midst of its repair."""
    shard.count(Ev("1"))
    first, parts = fall_back(shard)
    shard.count(Ev("2"))
    later = Claimed("", first.seq + 1, {}, 0, None, first.seq, "later")
    before = shard.everything()
    assert shard.amend(later, parts) == 0
    assert shard.everything() == before
    assert shard.amend(first, parts) == 1
    assert shard.amend(later, []) == 1


def test_a_claim_that_is_in_flight_again_is_acknowledged_in_its_turn(shard: Shard) -> None:
    shard.count(Ev("1"))
    claim = shard.claim_whole("a")
    parts = shard.payloads()
    shard.count(Ev("2"))
    assert shard.amend(claim, parts, {"flushed:view": 1}) == 1
    assert shard.live() == {M: {VIEW: 1}}, "nothing of it was live"
    assert shard.claim(**floor_of(claim)).by_entity == {M: {VIEW: 1}}


@pytest.mark.parametrize("apart", [-1, 10**12], ids=["below it", "above it"])
@pytest.mark.parametrize("is_open", [True, False])
def test_another_claim_in_flight_gets_a_new_name_above_it(shard: Shard, is_open: bool, apart: int) -> None:
    """It was frozen before Redis fell back, and a claim of another history was flushed meanwhile.

    Its content may be in the journal already, written behind the claim before: under its old name."""
    shard.count(Ev("1"), Ev("2", N))
    frozen = shard.claim("a", us=0 if is_open else 10**6)
    assert frozen.status == ("more" if is_open else "new")
    flushed = Claimed("", frozen.seq + apart, {}, 0, None, 0, "of the other history")
    assert shard.amend(flushed, shard.payloads()) == 1
    claimed = shard.claim_whole("a", **floor_of(flushed))
    assert claimed.seq > flushed.seq
    assert claimed.acked == flushed.seq
    assert claimed.nonce != frozen.nonce
    sums = dict.fromkeys((M, N), 0)
    for entity, amounts in [*claimed.amounts, *shard.live().items()]:
        sums[entity] += amounts[VIEW]
    assert sorted(sums.values()) == ([0, 1] if is_open else [0, 0]), "what was flushed is taken off what is in flight"


def test_without_parts_what_is_live_stays_as_it_is(shard: Shard) -> None:
    shard.count(Ev("1"))
    claim, _ = fall_back(shard)
    assert shard.amend(claim, []) == 1
    assert shard.live() == {M: {VIEW: 1}}
    assert shard.claim(**floor_of(claim)).by_entity == {M: {VIEW: 1}}


def test_foreign_values_in_its_way_are_moved_aside(shard: Shard) -> None:
    shard.count(Ev("1"), Ev("2", N))
    claim, parts = fall_back(shard)
    shard.redis.hset(f"{shard.tag}:counters:{M}", VIEW, "foreign")
    shard.redis.set(f"{shard.tag}:counters:{N}", "foreign")
    assert shard.amend(claim, parts) == 1
    assert shard.live() == {M: {VIEW: -1}, N: {VIEW: -1}}
    assert shard.ledger()["aside"] == 2


def test_a_foreign_value_of_the_claim_is_given_up_where_it_is_still_the_same(shard: Shard) -> None:
    """A dead letter has it."""
    shard.redis.hset(f"{shard.tag}:counters:{M}", mapping={"no field": "no amount", "other": "no amount"})
    shard.redis.sadd(shard.dirty_key, M)
    claim = Claimed("", 70, {}, 0, None, 0, "nonce")
    assert shard.amend(claim, [pack([M, 2, "no field", "no amount", "other", "another"])]) == 1
    assert shard.redis.hgetall(f"{shard.tag}:counters:{M}") == {b"other": b"no amount"}
    assert shard.dirty() == {M}


def test_over_its_memory_redis_refuses_it_whole_or_not_at_all(shard: Shard) -> None:
    shard.count(*(Ev(str(n), f"jav:movie:{n}") for n in range(100)))
    claim, parts = fall_back(shard, Ev("lost"))
    shard.redis.config_set("maxmemory", 1)
    assert shard.amend(claim, parts, {"flushed:view": 101}, [M]) == 1
    assert shard.live() == {M: {VIEW: -1}}
