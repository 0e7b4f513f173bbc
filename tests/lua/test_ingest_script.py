"""`ingest.lua` alone: dedupe, increments, dirty marks, the ledger."""

from __future__ import annotations

import pytest

from tests.kit.shard import DAY, Ev, Shard, digest, step

VIEW = f"view:{DAY}"


# First and second deliveries --------------------------------------------------------------------------------------


def test_a_first_delivery_is_counted(shard: Shard) -> None:
    assert shard.ingest(("", [Ev("e1")])) == [1]
    assert shard.live() == {"jav:movie:m": {VIEW: 1}}
    assert shard.dirty() == {"jav:movie:m"}
    assert shard.ledger() == {"accepted:view": 1}


def test_second_delivery_is_counted_once(shard: Shard) -> None:
    assert shard.count(Ev("e1")) == 1
    assert shard.count(Ev("e1")) == 0
    assert shard.live() == {"jav:movie:m": {VIEW: 1}}
    assert shard.ledger() == {"accepted:view": 1, "duplicate:view": 1}


def test_the_same_id_twice_in_one_request_is_counted_once(shard: Shard) -> None:
    assert shard.count(Ev("e1"), Ev("e1"), Ev("e2")) == 2
    assert shard.live() == {"jav:movie:m": {VIEW: 2}}
    assert shard.ledger() == {"accepted:view": 2, "duplicate:view": 1}


def test_the_same_id_in_two_requests_of_one_call_is_counted_for_the_first(shard: Shard) -> None:
    assert shard.ingest(("", [Ev("e1")]), ("", [Ev("e1"), Ev("e2")])) == [1, 1]


def test_an_id_is_recognised_whatever_entity_and_action_it_names(shard: Shard) -> None:
    assert shard.count(Ev("e1", "jav:movie:a")) == 1
    assert shard.count(Ev("e1", "jav:actor:b", (step("download"),))) == 0
    assert set(shard.live()) == {"jav:movie:a"}
    assert shard.ledger() == {"accepted:view": 1, "duplicate:download": 1}


def test_a_whole_call_delivered_again_changes_nothing_but_the_duplicates(shard: Shard) -> None:
    requests = [("", [Ev(f"e{n}{m}", f"jav:movie:{n % 3}", (step(amount=n + 1),)) for m in range(3)]) for n in range(7)]
    assert shard.ingest(*requests) == [3] * 7
    live, dirty = shard.live(), shard.dirty()
    assert shard.ingest(*requests) == [0] * 7
    assert (shard.live(), shard.dirty()) == (live, dirty)
    assert shard.ledger() == {"accepted:view": 84, "duplicate:view": 84}


def test_each_request_gets_its_own_result_in_order(shard: Shard) -> None:
    shard.count(Ev("old"))
    results = shard.ingest(("", [Ev("a"), Ev("b")]), ("", []), ("", [Ev("old")]), ("", [Ev("c"), Ev("old")]))
    assert results == [2, 0, 0, 1]


def test_a_call_without_requests_writes_nothing(shard: Shard) -> None:
    assert shard.ingest() == []
    assert shard.ingest(("", [])) == [0]
    assert shard.everything() == {}


def test_a_call_of_two_thousand_events_is_counted_whole(shard: Shard) -> None:
    assert shard.count(*(Ev(f"e{n}", f"jav:movie:{n % 500}") for n in range(2_000))) == 2_000
    assert shard.live() == {f"jav:movie:{n}": {VIEW: 4} for n in range(500)}
    assert shard.dirty() == set(shard.live())


# Effects ----------------------------------------------------------------------------------------------------------


def test_one_event_moves_every_counter_of_its_action(shard: Shard) -> None:
    rating = (step("rating_count", 1), step("rating_sum", 4))
    assert shard.count(Ev("e1", effect=rating), Ev("e2", effect=rating)) == 2
    assert shard.live() == {"jav:movie:m": {f"rating_count:{DAY}": 2, f"rating_sum:{DAY}": 8}}
    assert shard.ledger() == {"accepted:rating_count": 2, "accepted:rating_sum": 8}


def test_days_are_kept_apart(shard: Shard) -> None:
    shard.count(Ev("e1", effect=(step(day="2024-02-29"),)), Ev("e2", effect=(step(day="2026-01-01", amount=5),)))
    assert shard.live() == {"jav:movie:m": {"view:2024-02-29": 1, "view:2026-01-01": 5}}
    assert shard.ledger() == {"accepted:view": 6}


def test_amounts_are_booked_to_the_last_digit(shard: Shard) -> None:
    amounts = [10**14 + n for n in range(50)] + [10**9 - n for n in range(2_000)]
    assert shard.count(*(Ev(f"e{n}", effect=(step(amount=amount),)) for n, amount in enumerate(amounts))) == len(
        amounts
    )
    assert shard.live() == {"jav:movie:m": {VIEW: sum(amounts)}}
    assert shard.ledger() == {"accepted:view": sum(amounts)}


def test_entity_ids_may_hold_any_text(shard: Shard) -> None:
    entities = ["jav:movie:a:b:c", "jav:movie:{9}", "jav:movie:/päth/ü?x=1", "jav:movie:" + "漢" * 255, "jav:tag:7"]
    assert shard.count(*(Ev(f"e{n}", entity) for n, entity in enumerate(entities))) == len(entities)
    assert set(shard.live()) == shard.dirty() == set(entities)


# Dirty ------------------------------------------------------------------------------------------------------------


def test_an_entity_is_dirty_exactly_when_it_has_a_hash(shard: Shard) -> None:
    shard.count(*(Ev(f"e{n}", f"jav:movie:{n % 5}") for n in range(20)))
    assert shard.dirty() == set(shard.live()) == {f"jav:movie:{n}" for n in range(5)}
    shard.count(Ev("e1", "jav:movie:never"))  # a duplicate under another name
    assert shard.dirty() == set(shard.live())


def test_an_entity_counted_after_its_claim_is_dirty_again(shard: Shard) -> None:
    shard.count(Ev("e1"))
    shard.claim()
    assert (shard.dirty(), shard.live()) == (set(), {})
    shard.count(Ev("e1"))
    assert (shard.dirty(), shard.live()) == (set(), {})
    shard.count(Ev("e2"))
    assert (shard.dirty(), shard.live()) == ({"jav:movie:m"}, {"jav:movie:m": {VIEW: 1}})


# The dedupe memory ------------------------------------------------------------------------------------------------


def test_a_duplicate_of_the_previous_window_is_recognised(shard: Shard) -> None:
    shard.count(Ev("e1"), Ev("e2"))
    shard.age()
    assert shard.count(Ev("e1"), Ev("e3")) == 1
    assert shard.count(Ev("e1"), Ev("e2"), Ev("e3")) == 0


def test_an_id_is_forgotten_after_two_windows(shard: Shard) -> None:
    shard.count(Ev("e1"))
    shard.age(2)
    assert shard.count(Ev("e1")) == 1
    assert shard.count(Ev("e1")) == 0


def test_real_time_moves_the_window(shard: Shard) -> None:
    """With windows of a second: recognised one window later, counted again three windows later."""
    recognised = False
    for attempt in range(50):  # a machine may be too slow to hit the very next window; then once more
        event = Ev(f"e{attempt}")
        assert shard.count(event, window_s=1) == 1
        first = int(shard.seen()["gen"])
        _until_window(shard, first + 1)
        again = shard.count(event, window_s=1)
        recognised = int(shard.seen()["gen"]) == first + 1
        if recognised:
            assert again == 0
            break
    assert recognised
    _until_window(shard, first + 3)
    assert shard.count(event, window_s=1) == 1


def _until_window(shard: Shard, window: int) -> None:
    while shard.redis.time()[0] < window:
        pass


def test_a_clock_that_went_back_forgets_nothing(shard: Shard) -> None:
    shard.count(Ev("e1"))
    shard.age(-1)  # as if everything so far had happened under a clock one window ahead
    assert shard.count(Ev("e1"), Ev("e2")) == 1
    assert shard.count(Ev("e2")) == 0


def test_a_new_window_is_laid_out_for_what_the_one_before_saw(shard: Shard) -> None:
    shard.count(Ev("e0"), bits=4)
    assert shard.seen()["bits"] == "4"
    shard.redis.hset(shard.seen_key, "events", 100_000)
    shard.age()
    assert shard.count(Ev("e0"), Ev("e1")) == 1
    state = shard.seen()
    assert 2 ** int(state["bits"]) * 244 >= 100_000 > 2 ** (int(state["bits"]) - 1) * 244
    assert state["events"] == "1"
    assert state["prev_events"] == "100000"
    assert shard.count(Ev("e0"), Ev("e1")) == 0, "the window before is still read with its own number of buckets"


def test_the_layout_of_a_window_keeps_to_its_bounds(shard: Shard) -> None:
    shard.count(Ev("e0"), bits=4)
    shard.redis.hset(shard.seen_key, "events", 10**15)
    shard.age()
    shard.count(Ev("e1"), bits=4)
    assert shard.seen()["bits"] == "28"
    shard.age(2)
    shard.count(Ev("e2"), bits=6)
    assert shard.seen()["bits"] == "6"
    assert shard.seen()["prev_events"] == "0", "the window before had none"


def test_the_memory_of_an_event_is_one_small_integer(shard: Shard) -> None:
    shard.count(*(Ev(f"e{n}") for n in range(1_900)))
    buckets = shard.keys("seen:")
    assert len(buckets) == 2**4
    assert {shard.redis.object("encoding", key) for key in buckets} == {b"intset"}
    members = {int(member) for key in buckets for member in shard.redis.smembers(key)}
    assert members == {int(digest(f"e{n}")[1]) for n in range(1_900)}


# Order and foreign keys -------------------------------------------------------------------------------------------


def test_it_touches_its_own_keys_only(shard: Shard) -> None:
    foreign = [
        "anl:{3}:dirty2", "anl:{2}:dirty", "anl:{3}:counters:jav:movie:other", "anl:{3}:counters", "anl:{3}:rate",
        "anl:{3}:claim", "anl:{3}:replica", "anl:{3}:rate:9.9.9.9", "anl:{3}:seen:1:1", "anl:layout", "laravel:cache",
    ]  # fmt: skip
    for key in foreign:
        shard.redis.set(key, "not yours")
    before = shard.everything()
    shard.ingest(("1.2.3.4", [Ev("e1"), Ev("e1")]), ("", [Ev("e2", "jav:movie:n")]), rate=60)
    after = shard.everything()
    assert {key: after[key] for key in before} == before
    new = {key.decode() for key in after.keys() - before.keys()}
    memory = {key for key in new if key.startswith("anl:{3}:seen:")}
    assert len(memory) in (1, 2)
    assert new - memory == {
        "anl:{3}:dirty", "anl:{3}:ledger", "anl:{3}:seen", "anl:{3}:rate:1.2.3.4",
        "anl:{3}:counters:jav:movie:m", "anl:{3}:counters:jav:movie:n",
    }  # fmt: skip


@pytest.mark.parametrize("number", [0, 3, 16_383])
def test_every_key_carries_the_shard_as_its_hash_tag(shard: Shard, number: int) -> None:
    own = Shard(shard.redis, number)
    own.ingest(("1.2.3.4", [Ev("e1", "jav:movie:{x}:m")]), rate=1)
    assert {key.split(b":", 2)[1] for key in own.everything()} == {b"{%d}" % number}
