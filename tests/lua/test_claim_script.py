"""`claim.lua` and `unfold.lua` alone: one claim in flight, the same to all who may have it, nothing lost on the way.

A claim is frozen a part a call. Between two of them it is open, and belongs to nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
import redis

from tests.kit.shard import DAY, Claimed, Ev, Shard, step

VIEW = f"view:{DAY}"
DAYS = [f"2025-{month:02d}-{day:02d}" for month in range(1, 13) for day in range(1, 29)]


def count_entities(shard: Shard, entities: int) -> None:
    shard.count(*(Ev(f"e{n}", f"jav:movie:{n}") for n in range(entities)))


def expire_lease(shard: Shard) -> None:
    shard.redis.hset(shard.claim_key, "until", shard.redis.time()[0] * 1_000 - 1)


def drain(shard: Shard, **limits: int) -> list[Claimed]:
    """Claims and acks until nothing is left. Nothing is lost between two calls, either."""
    claims = []
    whole = _live(shard)
    while (claimed := shard.claim(**limits)).status != "empty":
        if claimed.status == "more":
            assert _sums(claims) + _frozen(shard) + _live(shard) == whole
            continue
        claims.append(claimed)
        assert shard.dirty() == set(shard.live()), "dirty, exactly when a hash exists"
        assert claimed.left == len(shard.dirty())
        assert _sums(claims) + _live(shard) == whole, "in the payload or in the hash, never in neither or in both"
        assert shard.ack(claimed.seq) == 1
    assert claimed.left == 0
    return claims


def _sums(claims: list[Claimed]) -> Counter[tuple[str, str]]:
    return _added(pair for claim in claims for pair in claim.amounts)


def _frozen(shard: Shard) -> Counter[tuple[str, str]]:
    return _added(pair for part in shard.frozen().values() for pair in part)


def _added(amounts: Iterable[tuple[str, dict[str, int]]]) -> Counter[tuple[str, str]]:
    sums: Counter[tuple[str, str]] = Counter()
    for entity, fields in amounts:
        sums.update({(entity, field): amount for field, amount in fields.items()})
    return sums


def _live(shard: Shard) -> Counter[tuple[str, str]]:
    return Counter({(e, field): amount for e, fields in shard.live().items() for field, amount in fields.items()})


# Empty, new, again, busy ------------------------------------------------------------------------------------------


def test_nothing_dirty_is_nothing_to_claim(shard: Shard) -> None:
    assert shard.claim() == Claimed("empty", 0, {}, 0)
    assert shard.everything() == {}


def test_a_claim_takes_what_was_counted(shard: Shard) -> None:
    shard.count(
        Ev("e1"), Ev("e2", "jav:actor:x", (step("download"),)), Ev("e3", effect=(step(amount=5, day="2024-02-29"),))
    )
    claimed = shard.claim()
    assert (claimed.status, claimed.left) == ("new", 0)
    assert claimed.by_entity == {
        "jav:movie:m": {VIEW: 1, "view:2024-02-29": 5},
        "jav:actor:x": {f"download:{DAY}": 1},
    }
    assert (shard.live(), shard.dirty()) == ({}, set())


def test_the_same_owner_gets_the_same_claim_again(shard: Shard) -> None:
    shard.count(Ev("e1"))
    first = shard.claim("a")
    shard.count(Ev("e2"), Ev("e3", "jav:movie:n"))
    again = shard.claim("a")
    assert again == first._replace(status="again", left=2)
    assert shard.live() == {"jav:movie:m": {VIEW: 1}, "jav:movie:n": {VIEW: 1}}


@pytest.mark.parametrize(("entities", "us"), [(60, 0), (1, 1_000_000)], ids=["open", "sealed"])
def test_another_owner_is_told_how_long_the_claim_is_taken(shard: Shard, entities: int, us: int) -> None:
    count_entities(shard, entities)
    shard.claim("a", lease_ms=50_000, us=us)
    before = shard.everything()
    busy = shard.claim("b", lease_ms=99_000)
    assert busy.status == "busy"
    assert 0 < busy.left <= 50_000
    assert shard.everything() == before


def test_a_claim_whose_lease_ran_out_is_handed_to_whoever_asks(shard: Shard) -> None:
    shard.count(Ev("e1"))
    first = shard.claim("a")
    expire_lease(shard)
    assert shard.claim("b") == first._replace(status="again", taken_from=b"a")
    assert shard.claim("a").status == "busy", "it is the other's now"
    assert shard.claim("b") == first._replace(status="again")


def test_while_a_claim_is_in_flight_no_other_is_begun(shard: Shard) -> None:
    count_entities(shard, 10)
    first = shard.claim(entities=3)
    for _ in range(3):
        assert shard.claim(entities=3).seq == first.seq
    assert len(shard.dirty()) == 7


def test_entities_without_counts_are_dropped_and_not_claimed(shard: Shard) -> None:
    shard.redis.sadd(shard.dirty_key, *(f"jav:movie:ghost{n}" for n in range(200)))
    assert shard.claim() == Claimed("empty", 0, {}, 0)
    shard.redis.sadd(shard.dirty_key, *(f"jav:movie:ghost{n}" for n in range(200)))
    shard.count(Ev("e1"))
    assert shard.claim().by_entity == {"jav:movie:m": {VIEW: 1}}
    assert shard.dirty() == set()


# Bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("us", [0, 1_000_000], ids=["in parts", "at once"])
@pytest.mark.parametrize("entities", [1, 20, 63, 64, 65, 100])
def test_a_claim_takes_no_more_entities_than_it_may(shard: Shard, entities: int, us: int) -> None:
    count_entities(shard, 130)
    claims = drain(shard, entities=entities, us=us)
    sizes = [len(claim.amounts) for claim in claims]
    assert sizes == [entities] * (130 // entities) + ([130 % entities] if 130 % entities else [])
    assert _sums(claims) == Counter({(f"jav:movie:{n}", VIEW): 1 for n in range(130)})


@pytest.mark.parametrize("fields", [1, 2, 7, 100])
def test_a_claim_takes_no_more_counter_days_than_it_may(shard: Shard, fields: int) -> None:
    shard.count(*(Ev(f"e{n}", f"jav:movie:{n % 30}", (step(day=DAYS[n % 5], amount=n + 1),)) for n in range(150)))
    claims = drain(shard, fields=fields)
    sizes = [sum(len(fields) for _, fields in claim.amounts) for claim in claims]
    assert max(sizes) <= fields
    assert sum(_sums(claims).values()) == sum(range(1, 151))


@pytest.mark.parametrize("fields", [1, 50, 335, 336, 337])
def test_an_entity_with_more_counter_days_than_that_is_claimed_in_parts(shard: Shard, fields: int) -> None:
    shard.count(*(Ev(f"e{day}", effect=(step(day=day, amount=n + 1),)) for n, day in enumerate(DAYS)))
    first = shard.claim(fields=fields)
    assert len(first.by_entity["jav:movie:m"]) == min(fields, len(DAYS))
    assert shard.dirty() == ({"jav:movie:m"} if fields < len(DAYS) else set())
    shard.ack(first.seq)
    claims = [first, *drain(shard, fields=fields)]
    assert len(claims) == -(-len(DAYS) // fields)
    assert _sums(claims) == Counter({("jav:movie:m", f"view:{day}"): n + 1 for n, day in enumerate(DAYS)})


@pytest.mark.parametrize("fields", [999, 1_000, 1_001, 5_000, 100_000])
def test_an_entity_of_thousands_of_counter_days_is_claimed_whole_or_in_parts(shard: Shard, fields: int) -> None:
    key = f"{shard.tag}:counters:jav:movie:m"
    shard.redis.hset(key, mapping={f"c{n}:{DAY}": n + 1 for n in range(4_321)})
    shard.redis.sadd(shard.dirty_key, "jav:movie:m")
    shard.count(*(Ev(f"e{n}", f"jav:movie:{n}") for n in range(10)))
    claims = drain(shard, fields=fields)
    sizes = [sum(len(fields) for _, fields in claim.amounts) for claim in claims]
    assert max(sizes) <= fields
    assert sum(_sums(claims).values()) == sum(range(1, 4_322)) + 10


def test_a_call_that_may_take_no_time_still_takes_something(shard: Shard) -> None:
    count_entities(shard, 400)
    (claim,) = drain(shard, us=0)
    assert len(claim.parts) == 400
    assert _sums([claim]) == Counter({(f"jav:movie:{n}", VIEW): 1 for n in range(400)})


def test_entities_without_counts_use_up_the_time_too(shard: Shard) -> None:
    shard.redis.sadd(shard.dirty_key, *(f"jav:movie:ghost{n}" for n in range(10_000)))
    assert 0 < shard.claim(us=1).left < 10_000


@pytest.mark.parametrize("fields", [1, 30, 700])
def test_the_bound_of_counter_days_is_the_whole_claims(shard: Shard, fields: int) -> None:
    shard.count(*(Ev(f"e{n}", f"jav:movie:{n % 3}", (step(day=DAYS[n // 3]),)) for n in range(3 * len(DAYS))))
    claims = drain(shard, fields=fields, us=0)
    sizes = [sum(len(fields) for _, fields in claim.amounts) for claim in claims]
    assert sizes[:-1] == [fields] * (len(claims) - 1)
    assert sum(sizes) == 3 * len(DAYS)


# Parts ------------------------------------------------------------------------------------------------------------


def open_claim(shard: Shard, owner: str = "a", *, entities: int = 60) -> Claimed:
    """A claim whose flusher has come as far as its second part."""
    count_entities(shard, entities)
    shard.claim(owner, us=0)
    claimed = shard.claim(owner, us=0)
    assert claimed.status == "more"
    assert len(shard.frozen()) == 2
    return claimed


def test_an_open_claim_is_handed_to_nobody(shard: Shard) -> None:
    """Whoever applied it would leave its seq in documents that refuse what is added later."""
    first = open_claim(shard)
    expire_lease(shard)
    taken = shard.claim("b", us=0)
    assert (taken.status, taken.taken_from) == ("more", b"a")
    assert shard.claim("b", us=0).taken_from is None, "it is its own now"
    assert shard.claim("a").status == "busy"
    assert shard.claim("b").parts.keys() > {first.seq}


def test_every_part_gives_the_claim_a_seq_of_its_own(shard: Shard) -> None:
    """So a seq names one content, for ever."""
    count_entities(shard, 100)
    seqs = []
    while (claimed := shard.claim(us=0)).status == "more":
        seqs.append(claimed.seq)
        assert max(shard.frozen()) == claimed.seq == int(shard.redis.hget(shard.claim_key, "last"))
    assert claimed.status == "new"
    assert set(claimed.parts) == {*seqs, claimed.seq}
    assert [*seqs, claimed.seq] == sorted(set(claimed.parts))


def test_a_sealed_claim_never_grows(shard: Shard) -> None:
    open_claim(shard)
    sealed = shard.claim_whole("a")
    shard.count(Ev("later", "jav:movie:0"), Ev("later too", "jav:movie:later"))
    assert shard.claim("a") == sealed._replace(status="again", left=2)
    expire_lease(shard)
    assert shard.claim("b", us=0) == sealed._replace(status="again", left=2, taken_from=b"a")
    assert shard.live() == {"jav:movie:0": {VIEW: 1}, "jav:movie:later": {VIEW: 1}}


def test_an_open_claim_whose_lease_ran_out_is_finished_by_whoever_asks(shard: Shard) -> None:
    opened = open_claim(shard)
    expire_lease(shard)
    finished = shard.claim_whole("b", us=0)
    assert finished.status == "new", "nobody had it before"
    assert finished.seq > opened.seq
    assert _sums([finished]) == Counter({(f"jav:movie:{n}", VIEW): 1 for n in range(60)})
    assert shard.claim("a").status == "busy"
    assert shard.ack(finished.seq) == 1
    assert (shard.frozen(), shard.claim("a").status) == ({}, "empty")


@pytest.mark.parametrize("us", [0, 1_000_000], ids=["a part", "again"])
def test_asking_renews_the_lease_but_not_the_age(shard: Shard, us: int) -> None:
    count_entities(shard, 60)
    shard.claim("a", us=us, lease_ms=1_000)
    since = shard.redis.hget(shard.claim_key, "since")
    expire_lease(shard)
    shard.claim("a", us=us, lease_ms=80_000)
    assert 60_000 < shard.claim("b").left <= 80_000
    assert shard.redis.hget(shard.claim_key, "since") == since


def test_an_open_claim_to_which_nothing_is_left_to_add_is_sealed_under_a_new_name(shard: Shard) -> None:
    """So no open claim ever had the name of a claim in the journal."""
    opened = open_claim(shard)
    nonce = shard.redis.hget(shard.claim_key, "nonce").decode()
    shard.redis.delete(shard.dirty_key)
    sealed = shard.claim("a")
    assert (sealed.status, sealed.parts.keys(), len(sealed.parts)) == ("new", shard.frozen().keys(), 2)
    assert sealed.seq > opened.seq
    assert sealed.nonce != nonce
    assert shard.claim("a") == sealed._replace(status="again")


def test_who_takes_an_open_claim_over_and_may_take_less_seals_it(shard: Shard) -> None:
    opened = open_claim(shard)
    expire_lease(shard)
    sealed = shard.claim("b", entities=1)
    assert (sealed.status, len(sealed.parts)) == ("new", 2)
    assert sealed.seq > opened.seq


def test_an_entity_counted_between_two_parts_may_be_in_both(shard: Shard) -> None:
    open_claim(shard)
    (frozen, _), *_ = next(iter(shard.frozen().values()))
    shard.count(Ev("later", frozen, (step(amount=5),)))
    whole = shard.claim_whole("a", us=0)
    assert [fields for entity, fields in whole.amounts if entity == frozen] == [{VIEW: 1}, {VIEW: 5}]
    assert shard.live() == {}


def test_an_entity_is_in_a_part_once(shard: Shard) -> None:
    """Of one that holds more than fits into a call, the rest is for the next call."""
    key = f"{shard.tag}:counters:jav:movie:m"
    shard.redis.hset(key, mapping={f"c{n}:{DAY}": n + 1 for n in range(2_000)})
    shard.redis.sadd(shard.dirty_key, "jav:movie:m")
    claim = shard.claim_whole(us=0)
    assert len(claim.parts) > 2
    assert [len(part) for part in claim.parts.values()] == [1] * len(claim.parts)
    assert sum(_sums([claim]).values()) == sum(range(1, 2_001))


def test_an_open_claim_of_a_redis_that_came_back_older_freezes_nothing_until_that_is_amended(shard: Shard) -> None:
    open_claim(shard)
    saved = shard.redis.dump(shard.claim_key)
    applied = shard.claim_whole("a")
    shard.redis.restore(shard.claim_key, 0, saved, replace=True)
    shard.count(Ev("later"))
    before = shard.everything()
    assert shard.claim("a", floor=applied.seq, floor_nonce=applied.nonce) == Claimed("behind", 0, {}, 0)
    assert shard.everything() == before
    assert shard.amend(applied, []) == 1
    again = shard.claim_whole("a", floor=applied.seq, floor_nonce=applied.nonce)
    assert again.seq > applied.seq
    assert again.acked == applied.seq


# Seqs -------------------------------------------------------------------------------------------------------------


def test_a_seq_is_the_time_in_microseconds(shard: Shard) -> None:
    shard.count(Ev("e1"))
    seconds, micros = shard.redis.time()
    seq = shard.claim().seq
    now_s, now_us = shard.redis.time()
    assert seconds * 10**6 + micros <= seq <= now_s * 10**6 + now_us


def test_a_seq_is_above_the_last_one_even_if_the_clock_went_back(shard: Shard) -> None:
    ahead = (shard.redis.time()[0] + 10**8) * 10**6
    shard.redis.hset(shard.claim_key, "last", ahead)
    shard.floor = ahead
    for expected in (ahead + 1, ahead + 2):
        shard.count(Ev(f"e{expected}"))
        claimed = shard.claim()
        assert claimed.seq == expected
        shard.ack(claimed.seq)


def test_a_redis_that_lost_its_memory_starts_above_the_floor(shard: Shard) -> None:
    floor = (shard.redis.time()[0] + 10**8) * 10**6
    shard.count(Ev("e1"))
    for _ in range(2):
        assert shard.claim(floor=floor, floor_nonce="n") == Claimed("behind", 0, {}, 0), "until it is amended"
    assert shard.amend(Claimed("", floor, {}, 0, nonce="n"), []) == 1
    claimed = shard.claim(floor=floor, floor_nonce="n")
    assert (claimed.seq, claimed.acked, claimed.by_entity) == (floor + 1, floor, {"jav:movie:m": {VIEW: 1}})


def test_a_redis_that_is_older_than_mongodb_says_so_even_with_nothing_to_claim(shard: Shard) -> None:
    assert shard.claim(floor=7) == Claimed("behind", 0, {}, 0)
    assert shard.everything() == {}


def test_a_claim_in_flight_that_is_the_last_of_the_journal_is_handed_out(shard: Shard) -> None:
    shard.count(Ev("e1"))
    first = shard.claim()
    assert shard.claim(floor=first.seq, floor_nonce=first.nonce) == first._replace(status="again")
    assert shard.claim(floor=first.seq, floor_nonce="") == first._replace(status="again"), "by an older version"


def test_a_claim_with_the_seq_of_another_one_in_the_journal_is_not_that(shard: Shard) -> None:
    """A replica whose clock is late gave the seq of a claim that it does not know to other counts."""
    shard.count(Ev("e1"))
    first = shard.claim()
    assert shard.claim(floor=first.seq, floor_nonce="another") == Claimed("behind", 0, {}, 0)
    assert shard.ack(first.seq, nonce="another") == 0


def test_a_mongodb_that_is_older_than_redis_is_met_idle_and_in_flight(shard: Shard) -> None:
    shard.count(Ev("e1"))
    acked = shard.claim().seq
    assert shard.claim(floor=0).seq == acked, "in flight, and none before it was acknowledged"
    shard.ack(acked)
    assert shard.claim(floor=acked).status == "empty"
    assert shard.claim(floor=acked - 1) == Claimed("ahead", acked, {}, 0)
    shard.count(Ev("e2"))
    in_flight = shard.claim(floor=acked).seq
    assert shard.claim(floor=acked - 1) == Claimed("ahead", acked, {}, 0)
    assert shard.claim(floor=in_flight).seq == in_flight, "its documents are being written"
    shard.ack(in_flight)
    assert set(shard.redis.hgetall(shard.claim_key)) == {b"last", b"acked_at"}


# Amounts and text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [2**53 + 1, 2**63 - 1, -(2**63), -1, 0])
def test_amounts_pass_through_digit_by_digit(shard: Shard, amount: int) -> None:
    shard.redis.hset(f"{shard.tag}:counters:jav:movie:m", VIEW, amount)
    shard.redis.sadd(shard.dirty_key, "jav:movie:m")
    assert shard.claim().by_entity == {"jav:movie:m": {VIEW: amount}}
    assert shard.claim().by_entity == {"jav:movie:m": {VIEW: amount}}


def test_unfold_shows_the_payload_as_plain_strings(shard: Shard) -> None:
    shard.redis.hset(f"{shard.tag}:counters:jav:movie:\udcff".encode(errors="surrogateescape"), VIEW, 1)
    shard.redis.sadd(shard.dirty_key, b"jav:movie:\xff")
    seq = int(shard.claim_raw("a", 60_000, 0, "", 10, 10, 10**6, "nonce")[1])
    assert shard.unfold(seq) == [b"jav:movie:\xff", 1, VIEW.encode(), b"1"]


def test_unfold_shows_one_part(shard: Shard) -> None:
    open_claim(shard)
    for part, amounts in shard.frozen().items():
        assert shard.unfold(part)[::4] == [entity.encode() for entity, _ in amounts]


def test_unfold_shows_nothing_of_a_part_that_is_gone(shard: Shard) -> None:
    assert shard.unfold(1) == []
    shard.count(Ev("e1"))
    seq = shard.claim().seq
    assert shard.unfold(seq - 1) == []
    shard.ack(seq)
    assert shard.unfold(seq) == []


# Memory, malformed calls, other keys ------------------------------------------------------------------------------


def test_out_of_memory_nothing_is_lost_and_the_claim_can_be_claimed_again(shard: Shard) -> None:
    count_entities(shard, 300)
    shard.redis.config_set("maxmemory", 1)
    first = shard.claim("a", entities=100)
    assert first.status == "new"
    assert shard.claim("a") == first._replace(status="again")
    assert shard.claim("a", lease_ms=1).seq == first.seq
    while (taken_over := shard.claim("b")).status == "busy":
        pass
    assert taken_over == first._replace(status="again", taken_from=b"a")
    assert shard.ack(first.seq, {"flushed:view": 100}, ["jav:movie:1"]) == 1
    claims = [first, *drain(shard, entities=70, us=0)]
    assert _sums(claims) == Counter({(f"jav:movie:{n}", VIEW): 1 for n in range(300)})


@pytest.mark.parametrize(
    "args",
    [
        (), ("a",), ("a", "x", 0, 1, 1, 1), ("a", 1, "", 1, 1, 1), ("a", 1, 0, "x", 1, 1), ("a", 1, 0, 1, "x", 1),
        ("a", 1, 0, 1, 1, "x"), ("a", 1, 0, 1, 1),
        ("a", 1, 0, 1, 1, 1),
    ],
)  # fmt: skip
def test_a_malformed_call_writes_nothing(shard: Shard, args: tuple[object, ...]) -> None:
    shard.count(Ev("e1"))
    before = shard.everything()
    with pytest.raises(redis.ResponseError, match="BADCALL"):
        shard.claim_raw(*args)
    assert shard.everything() == before


def test_it_touches_its_own_keys_only(shard: Shard) -> None:
    for key in ("anl:{2}:dirty", "anl:{2}:claim", "anl:{3}:counters:jav:movie:clean", "anl:{3}:claim2", "anl:layout"):
        shard.redis.set(key, "not yours")
    shard.count(Ev("e1"))
    before = shard.everything()
    shard.claim()
    after = shard.everything()
    changed = {key.decode() for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert changed == {"anl:{3}:dirty", "anl:{3}:claim", "anl:{3}:counters:jav:movie:m"}
