"""Answers: their shapes, which existing producers parse, and what they never say."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from daemon.buffer.outcome import Counted
from daemon.buffer.wire import Limit
from daemon.config import load
from daemon.domain.rejection import Rejection
from daemon.ingest import response
from daemon.ingest.decode import Batch, Decoder, build_catalogue
from daemon.response import JSON, Response, invalid
from tests.kit.events import event

EVENT = event()


def body(answer: Response) -> Any:
    return json.loads(answer.body)


def headers(answer: Response) -> dict[str, str]:
    assert len({name for name, _ in answer.headers}) == len(answer.headers)
    return dict(answer.headers)


def test_accepted_is_one_word() -> None:
    for answer in (response.ACCEPTED, response.DUPLICATE, response.accepted(0, Limit(60, 0), 59)):
        assert (answer.status, body(answer)) == (202, {"status": "accepted"})


def test_a_duplicate_has_a_header_of_its_own() -> None:
    for new, answer in ((1, response.ACCEPTED), (0, response.DUPLICATE)):
        for each in (answer, response.accepted(new, Limit(60, 0), 59), response.accepted(new, Limit(0, 5), 0)):
            assert headers(each).get("x-tallyd-duplicate") == (None if new else "1")


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (None, {}),
        (Limit(0, 5), {}),
        (Limit(60, 5), {"x-ratelimit-limit": "60", "x-ratelimit-remaining": "7"}),
    ],
)
def test_a_sender_with_a_limit_of_events_is_told_how_many_are_left(limit: Limit | None, told: dict[str, str]) -> None:
    def found(answer: Response) -> dict[str, str]:
        return {name: value for name, value in headers(answer).items() if name.startswith("x-ratelimit-")}

    assert found(response.batch_accepted(Counted(1, room=7), 0, Batch([], []), limit)) == told
    if limit is not None:
        assert found(response.accepted(1, limit, 7)) == told
        assert response.accepted(1, limit, 7) is response.accepted(1, limit, 7), "made once"
    refused = response.too_many(1_500, limit, 7)
    reset_s = int(found(refused).pop("x-ratelimit-reset", "0"))
    assert {name: value for name, value in found(refused).items() if name != "x-ratelimit-reset"} == told
    assert bool(told) == (time.time() <= reset_s <= time.time() + int(headers(refused)["retry-after"]))


def test_a_batch_lists_what_it_rejected() -> None:
    answer = response.batch_accepted(Counted(3), 1, Batch([], [(2, Rejection({"value": ["No."]}))]))
    assert answer.status == 202
    assert body(answer) == {
        "status": "accepted", "accepted": 3, "duplicates": 1, "rejected": [{"index": 2, "errors": {"value": ["No."]}}]
    }  # fmt: skip


def test_a_batch_without_a_good_event_names_fields_the_way_laravel_names_items() -> None:
    batch = Batch([], [(0, Rejection({"value": ["No."]})), (7, Rejection({"action": ["Nor this."]}))])
    answer = response.batch_invalid(batch)
    assert answer.status == 422
    assert body(answer) == {
        "message": "No. (and 1 more error)",
        "errors": {"events.0.value": ["No."], "events.7.action": ["Nor this."]},
    }


def test_events_that_are_not_listed_are_counted() -> None:
    batch = Batch([], [(7, Rejection({"value": ["No."]}))], rejected_more=1_979)
    assert body(response.batch_accepted(Counted(1), 0, batch))["rejected_more"] == 1_979
    assert body(response.batch_invalid(batch))["rejected_more"] == 1_979


MANY = Decoder(
    build_catalogue(
        load(
            environ={
                "TALLYD_ACTIONS": json.dumps({f"{'a' * 29}{n:03d}": {"value_max": n + 1} for n in range(100)}),
                "TALLYD_DOMAINS": json.dumps(
                    {
                        f"{'d' * 29}{n:03d}": {
                            "entity_types": [f"{'t' * 29}{m:03d}" for m in range(100)],
                            "entity_id": {"t" * 29 + "000": "[a-z]" + "{1,2}" + "(?:)" * 60},
                        }
                        for n in range(100)
                    }
                ),
            }
        )
    ),
    batch_events_max=2_000,
    clock=time.time,
)
"""With a hundred domains, types and actions of the longest names."""
HOSTILE: list[Any] = [
    {},
    5,
    dict.fromkeys(EVENT, "x" * 3000),
    dict.fromkeys(EVENT, '😀\x00"\\' * 60),
    {name: {"\x00": [1] * 5} for name in EVENT},
    {**EVENT, "domain": "d" * 29 + "000", "entity_type": "t" * 29 + "000", "entity_id": "!", "action": "x", "value": 0},
]


@pytest.mark.parametrize("item", HOSTILE)
def test_an_answer_that_refuses_has_at_most_4_kib(item: Any) -> None:
    alone = MANY.single(json.dumps(item).encode())
    assert isinstance(alone, Rejection)
    assert 0 < len(invalid(alone).body) <= response.REFUSAL_BYTES_MAX
    for size in (1, 20, 150):
        batch = MANY.batch(json.dumps([item] * size).encode())
        assert isinstance(batch, Batch)
        assert batch.refused == size
        for answer in (response.batch_invalid(batch), response.batch_accepted(Counted(10**9), 10**9, batch)):
            assert len(answer.body) <= response.REFUSAL_BYTES_MAX
            told = body(answer)
            named = {name.split(".")[1] for name in told["errors"]} if "errors" in told else told["rejected"]
            assert len(named) + told.get("rejected_more", 0) == size
            assert named


@pytest.mark.parametrize(
    ("left_ms", "seconds"), [(1, 1), (999, 1), (1_000, 1), (1_001, 2), (59_001, 60), (60_000, 60), (0, 1), (-5, 1)]
)
def test_who_is_over_the_limit_waits_whole_seconds(left_ms: int, seconds: int) -> None:
    answer = response.too_many(left_ms)
    assert (answer.status, headers(answer)["retry-after"]) == (429, str(seconds))


@pytest.mark.parametrize(
    ("answer", "status", "word", "header"),
    [
        (response.unavailable(7), 503, "again", ("retry-after", "7")),
        (response.too_large(65_536), 413, "65536", ("connection", "close")),
        (response.BODY_TIMEOUT, 408, "body", ("connection", "close")),
        (response.BODY_CUT_OFF, 400, "body", ("connection", "close")),
        (response.unsupported("application/json"), 415, "application/json", JSON),
        (response.method_not_allowed("GET, HEAD"), 405, "GET, HEAD", ("allow", "GET, HEAD")),
    ],
)
def test_a_refusal_says_what_to_do(answer: Response, status: int, word: str, header: tuple[str, str]) -> None:
    """A body that was not read to its end ends the connection."""
    assert answer.status == status
    assert word in body(answer)["message"]
    assert header in headers(answer).items()
