"""ingest.lua: what a visitor repeats within the window moves the raw counter only."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from tests.kit.shard import DAY, Ev, Req, Shard, step

FIRST, REPEATED = (step("view"), step("view_raw")), (step("view_raw"),)


def ev(id_: str, visit: str = "v", **fields: Any) -> Ev:
    return Ev(id_, effect=FIRST, visit=visit, repeated=REPEATED, **fields)


def counted(shard: Shard, entity: str = "jav:movie:m") -> tuple[int, int]:
    """The filtered and the raw amount."""
    found = shard.live().get(entity, {})
    return found.get(f"view:{DAY}", 0), found.get(f"view_raw:{DAY}", 0)


def test_what_is_repeated_within_the_window_is_not_counted_twice(shard: Shard) -> None:
    assert shard.ingest(("", [ev("a"), ev("b")]), ("", [ev("c")])) == [2, 1]
    assert shard.count(ev("d")) == 1
    assert counted(shard) == (1, 4)
    assert shard.ledger() == {"accepted:view": 1, "accepted:view_raw": 4}


def test_another_visit_is_counted(shard: Shard) -> None:
    shard.count(ev("a"), ev("b", visit="w"), ev("c"))
    assert counted(shard) == (2, 3)


def test_each_event_begins_the_window_anew_and_its_end_forgets_the_visit(shard: Shard) -> None:
    shard.count(ev("a"))
    key = f"{shard.tag}:visit:v"
    shard.redis.pexpire(key, 20_000)
    shard.count(ev("b"))
    assert 20_000 < shard.redis.pttl(key) <= 30_000
    shard.redis.delete(key)  # as its expiry does
    shard.count(ev("c"))
    assert counted(shard) == (2, 3)


def test_a_duplicate_is_no_visit(shard: Shard) -> None:
    """So a call whose reply was lost may be repeated."""
    shard.count(ev("a"))
    shard.redis.delete(f"{shard.tag}:visit:v")
    assert shard.count(ev("a")) == 0
    assert shard.redis.keys(f"{shard.tag}:visit:*") == []
    assert shard.ledger() == {"accepted:view": 1, "accepted:view_raw": 1, "duplicate:view": 1, "duplicate:view_raw": 1}


def test_an_event_that_the_limit_refuses_is_no_visit(shard: Shard) -> None:
    shard.ingest(Req("x", [ev("a"), ev("b", visit="w")], rate=1))
    assert shard.redis.keys(f"{shard.tag}:visit:*") == [f"{shard.tag}:visit:v".encode()]


def test_events_with_and_without_a_visit_go_together(shard: Shard) -> None:
    plain = Ev("p", "jav:tag:t")
    shard.ingest(("", [plain, ev("a")]), ("", [ev("b"), Ev("q", effect=FIRST)]))
    assert counted(shard) == (2, 3)
    assert shard.live()["jav:tag:t"] == {f"view:{DAY}": 1}


def test_a_foreign_value_under_a_visit_is_moved_aside(shard: Shard) -> None:
    shard.redis.lpush(f"{shard.tag}:visit:v", "foreign")
    shard.count(ev("a"))
    assert counted(shard) == (1, 1)
    assert shard.ledger()["aside"] == 1


@pytest.mark.parametrize("fields", [{"window_ms": 0}, {"window_ms": 1.5}, {"window_ms": "x"}])
def test_a_malformed_visit_is_refused_before_the_first_write(shard: Shard, fields: dict[str, Any]) -> None:
    with pytest.raises(redis.ResponseError, match="BADCALL a visit is malformed"):
        shard.count(ev("a", **fields))
    assert shard.redis.dbsize() == 0
