"""Which refused requests the log tells of, and that strangers cannot fill it."""

from __future__ import annotations

import logging

import pytest

from daemon.ingest import response
from daemon.ingest.refusals import ENTRIES_PER_SECOND_MAX, PATH_CHARACTERS_MAX, Refusals
from daemon.ingest.requests import RequestHead


class Headers:
    def __init__(self, *ids: str) -> None:
        self._ids = ids

    def get_all(self, key: str, /) -> tuple[str, ...]:
        return self._ids if key == "x-request-id" else ()


def head(*ids: str, path: str = "/x") -> RequestHead:
    return RequestHead("POST", path, 0, "", "", "127.0.0.1", Headers(*ids))


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


@pytest.mark.parametrize("ids", [(), ("",), ("a b",), ("a\x1b",), ("ü",), ("x" * 129,), ("a", "b")])
def test_a_request_without_a_good_id_is_not_logged(said: pytest.LogCaptureFixture, ids: tuple[str, ...]) -> None:
    Refusals(Clock()).note(head(*ids), response.NOT_JSON)
    assert said.messages == []


def test_a_refusal_says_what_and_why_and_a_failure_is_a_warning(said: pytest.LogCaptureFixture) -> None:
    refusals = Refusals(Clock())
    refusals.note(head("x" * 128), response.NOT_JSON)
    refusals.note(head("b", path="/" + "y" * 9_999), response.FAILED)
    assert said.messages[0] == "POST /x: 400. The body is not valid JSON."
    assert said.messages[1].startswith(f"POST /{'y' * (PATH_CHARACTERS_MAX - 1)}: 500. The server failed.")
    assert [each.levelname for each in said.records] == ["INFO", "WARNING"]


def test_a_second_has_so_many_entries_and_the_next_one_says_how_many_were_left_out(
    said: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    refusals = Refusals(clock)
    for _ in range(ENTRIES_PER_SECOND_MAX + 7):
        refusals.note(head("a"), response.NOT_JSON)
    assert len(said.messages) == ENTRIES_PER_SECOND_MAX
    clock.now_s += 1
    refusals.note(head("a"), response.NOT_JSON)
    assert said.messages[ENTRIES_PER_SECOND_MAX:] == [
        "7 more requests were refused or failed.",
        "POST /x: 400. The body is not valid JSON.",
    ]
