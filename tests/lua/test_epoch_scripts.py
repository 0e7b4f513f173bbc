"""`mark.lua`, `epoch.lua` and `set_aside.lua` alone: a Redis that lost its transactions is known, and taken anew."""

from __future__ import annotations

from tests.kit.shard import DAY, Ev, Shard

WANTED = ("format", "1", "shards", "1", "dedupe_window_s", "172800")


def marks(shard: Shard) -> dict[str, int]:
    return {key.decode(): int(text) for key, text in shard.redis.hgetall("anl:layout").items()}  # type: ignore[union-attr]


def lose_transactions(shard: Shard) -> int:
    """As Redis 7.0 does: the first mark is an old one, the second is there. Returns the epoch."""
    shard.layout(*WANTED)
    shard.mark(shard.mark())
    shard.redis.hset("anl:layout", "atomic", 5)
    return marks(shard)["epoch"]


def test_without_a_layout_there_are_no_marks(shard: Shard) -> None:
    assert shard.mark() == ""
    assert not shard.everything()


def test_the_second_mark_follows_the_first_and_none_is_renewed_while_it_is_good(shard: Shard) -> None:
    shard.layout(*WANTED)
    first = shard.mark()
    assert "alone" not in marks(shard)
    assert shard.mark(first) == ""
    assert marks(shard)["alone"] == marks(shard)["atomic"] == int(first)
    assert shard.mark(good_for_ms=60_000) == ""
    assert int(shard.mark()) > int(first)


def test_a_second_mark_whose_first_is_gone_is_not_written(shard: Shard) -> None:
    """Redis restarted between the two, and lost its last second."""
    shard.layout(*WANTED)
    mark = shard.mark()
    shard.redis.hdel("anl:layout", "atomic")
    shard.mark(mark)
    assert "alone" not in marks(shard)


def test_marks_go_on_when_the_clock_went_back(shard: Shard) -> None:
    shard.layout(*WANTED)
    shard.redis.hset("anl:layout", "atomic", 2**52)
    assert int(shard.mark(good_for_ms=60_000)) == 2**52 + 1


def test_a_redis_that_lost_nothing_keeps_its_epoch(shard: Shard) -> None:
    shard.layout(*WANTED)
    shard.mark(shard.mark())
    before = shard.everything()
    assert shard.epoch() == ""
    assert shard.epoch("77") == ""
    assert shard.everything() == before


def test_two_daemons_begin_one_epoch_and_one_of_them_ends_it(shard: Shard) -> None:
    old = lose_transactions(shard)
    begun = shard.epoch()
    assert int(begun) > old
    assert shard.epoch() == begun
    assert shard.mark() == "", "a mark would hide the loss"
    assert [shard.epoch(begun), shard.epoch(begun)] == ["1", ""]
    assert marks(shard)["epoch"] == int(begun)
    assert "next" not in marks(shard)
    assert shard.epoch() == "", "the loss is over"


def test_what_was_live_or_in_flight_is_renamed_and_the_dedupe_memory_stays(shard: Shard) -> None:
    shard.count(Ev("a", "jav:movie:a"))
    shard.claim()
    shard.count(*(Ev(f"b{n}", f"jav:movie:b{n}") for n in range(3)))
    assert shard.set_aside("90", entities=2) == [2, 0, 1]
    assert shard.set_aside("90", entities=2) == [1, 1, 0]
    assert shard.live() == {}
    assert shard.ledger() == {"epoch": 90}
    assert shard.claim().status == "empty"
    assert shard.redis.hget(f"{shard.tag}:aside:90:{shard.tag}:counters:jav:movie:b1", f"view:{DAY}") == b"1"
    assert shard.redis.hget(f"{shard.tag}:aside:90:{shard.ledger_key}", "accepted:view") == b"4"
    assert shard.count(Ev("a", "jav:movie:a"), Ev("c", "jav:movie:c")) == 1


def test_a_daemon_that_was_frozen_meanwhile_renames_nothing_that_was_counted_since(shard: Shard) -> None:
    shard.count(Ev("a"))
    assert shard.set_aside("90") == [1, 0, 0]
    shard.count(Ev("b"))
    before = shard.everything()
    assert shard.set_aside("90") == shard.set_aside("80") == [0, 0, 0]
    assert shard.everything() == before
    assert shard.set_aside("91") == [1, 0, 0]


def test_foreign_values_are_renamed_too(shard: Shard) -> None:
    for key in (shard.dirty_key, shard.claim_key, shard.ledger_key):
        shard.redis.set(key, "foreign")
    assert shard.set_aside("90") == [0, 0, 0]
    assert shard.ledger() == {"epoch": 90}
    assert shard.count(Ev("a")) == 1
