"""While Redis is away a worker keeps to the limits by itself: the same budgets, and a share of the spool."""

from __future__ import annotations

import pytest

from daemon.buffer.outcome import Counted, Failed, Limited
from daemon.buffer.wire import Limit, Request
from daemon.config import SpoolSection
from daemon.domain.action import Action
from daemon.domain.event import Event
from daemon.ingest.outage import SENDERS_MAX, Outage

EFFECT = Action("view", 1, 100, {"view": "value"}).effect(1, "2026-02-19")
A, SHOP = "198.51.100.7", "key:shop"
USUAL = Limit(60, 0)


class Made:
    """An outage with a clock that stands still."""

    def __init__(self, workers: int = 1) -> None:
        self.now = 1_000.0
        self.outage = Outage(SpoolSection(bytes_max=1_048_576, address_percent_max=10), workers, lambda: self.now)

    def take(
        self, events: int, sender: str = A, limit: Limit | None = USUAL, refused: int = 0, size: int = 10
    ) -> Counted | Limited | Failed:
        sent = [Event("e" * size, "jav:movie:m", EFFECT) for _ in range(events)]
        return self.outage.take(Request(sender, limit, events + refused, sent))


def test_a_batch_is_taken_as_far_as_the_limit_reaches_and_the_budget_refills_evenly() -> None:
    made = Made()
    assert made.take(50) == Counted(50, room=10)
    assert made.take(30) == Counted(10, limited=20, left_ms=1_000)
    assert isinstance(made.take(1), Limited)
    made.now += 5
    assert made.take(30) == Counted(5, limited=25, left_ms=1_000)
    made.now += 3_600
    assert made.take(60) == Counted(60)
    made.now += 30.5
    assert made.take(1) == Counted(1, room=29)


def test_what_was_refused_is_charged_but_never_more_than_there_is() -> None:
    made = Made()
    assert made.take(10, refused=1_000) == Counted(10)
    assert isinstance(made.take(1), Limited)
    made.now += 10
    assert made.take(0, refused=4) == Counted(0, room=6)
    assert made.take(0, refused=10) == Counted(0, limited=4, left_ms=1_000), "and no room"
    assert isinstance(made.take(0, refused=1), Limited)


@pytest.mark.parametrize("limit", [None, Limit(0, 10)])
def test_a_sender_without_a_limit_has_its_share_of_the_spool_and_no_more(limit: Limit | None) -> None:
    made = Made()
    taken = 0
    while isinstance(outcome := made.take(100, limit=limit), Counted):
        taken += outcome.new
    assert isinstance(outcome, Failed)
    assert 3_000 <= taken <= 1_048_576 // 10 // 29
    assert isinstance(made.take(1, "198.51.100.8", limit), Counted), "others have theirs"
    made.outage.clear()
    assert isinstance(made.take(100, limit=limit), Counted)


def test_workers_split_a_share() -> None:
    made = Made(workers=4)
    assert isinstance(made.take(1_000, limit=None), Failed)
    assert made.take(500, limit=None) == Counted(500)


def test_a_producer_with_a_key_has_no_share_but_its_rate() -> None:
    made = Made()
    assert made.take(2_000, SHOP, None, size=200) == Counted(2_000)
    assert made.take(2_000, SHOP, Limit(500, 0)) == Counted(500, limited=1_500, left_ms=120)


def test_so_many_senders_are_remembered_and_no_more() -> None:
    made = Made()
    made.take(60)
    for number in range(SENDERS_MAX):
        made.take(1, f"sender {number}")
    assert len(made.outage._senders) == SENDERS_MAX
    assert made.take(60) == Counted(60), "the first was forgotten"


def test_what_the_spool_did_not_take_is_none_of_a_share() -> None:
    made = Made()
    sent = Request(A, None, 1_000, [Event("e" * 10, "jav:movie:m", EFFECT) for _ in range(1_000)])
    for _ in range(10):
        assert made.outage.take(sent) == Counted(1_000)
        made.outage.give_back(sent, 1_000)
