"""Answers: their shapes, which existing producers parse, and what they never say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon.domain.rejection import Rejection
from daemon.ingest import response
from daemon.ingest.decode import Batch
from daemon.response import Response


def body(answer: Response) -> Any:
    return json.loads(answer.body)


def headers(answer: Response) -> dict[str, str]:
    assert len({name for name, _ in answer.headers}) == len(answer.headers)
    return dict(answer.headers)


def test_accepted_is_one_word() -> None:
    assert (response.ACCEPTED.status, body(response.ACCEPTED)) == (202, {"status": "accepted"})


def test_a_batch_lists_what_it_rejected() -> None:
    answer = response.batch_accepted(3, 1, [(2, Rejection({"value": ["No."]}))])
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
        "rejected": [{"index": 0, "errors": {"value": ["No."]}}, {"index": 7, "errors": {"action": ["Nor this."]}}],
    }


@pytest.mark.parametrize(
    ("left_ms", "seconds"), [(1, 1), (999, 1), (1_000, 1), (1_001, 2), (59_001, 60), (60_000, 60), (0, 1), (-5, 1)]
)
def test_who_is_over_the_limit_waits_whole_seconds(left_ms: int, seconds: int) -> None:
    answer = response.too_many(left_ms)
    assert (answer.status, headers(answer)["retry-after"]) == (429, str(seconds))


def test_unavailable_says_when_to_come_back() -> None:
    answer = response.unavailable(7)
    assert (answer.status, headers(answer)["retry-after"]) == (503, "7")


@pytest.mark.parametrize(
    ("answer", "status", "word"),
    [
        (response.too_large(65_536), 413, "65536"),
        (response.unsupported("application/json"), 415, "application/json"),
        (response.method_not_allowed("POST"), 405, "POST"),
    ],
)
def test_a_refusal_says_what_would_be_taken(answer: Response, status: int, word: str) -> None:
    assert answer.status == status
    assert word in body(answer)["message"]


def test_a_method_that_is_not_allowed_names_those_that_are() -> None:
    assert headers(response.method_not_allowed("GET, HEAD"))["allow"] == "GET, HEAD"


def test_a_body_that_was_not_read_to_its_end_ends_the_connection() -> None:
    for answer in (response.too_large(1), response.BODY_TIMEOUT, response.BODY_CUT_OFF):
        assert headers(answer)["connection"] == "close"
