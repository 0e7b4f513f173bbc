"""The one type of answer: what a server in front is given of it, while the daemon runs and while it stops."""

from __future__ import annotations

import json
from http import HTTPStatus

import pytest

from daemon.domain.rejection import Rejection
from daemon.ingest import response as of_ingest
from daemon.read import response as of_reads
from daemon.response import CLOSE, JSON, Response, invalid, json_response

CONSTANTS = [each for module in (of_ingest, of_reads) for each in vars(module).values() if isinstance(each, Response)]
FULL = [each for each in CONSTANTS if each.status != HTTPStatus.NO_CONTENT]


@pytest.mark.parametrize("answer", FULL, ids=lambda answer: str(answer.status))
def test_an_answer_is_json_and_says_how_long_it_is(answer: Response) -> None:
    start, body = answer.messages
    assert dict(start["headers"])[b"content-length"] == str(len(answer.body)).encode()
    assert (start["status"], body["body"]) == (answer.status, answer.body)
    assert answer.headers[0] == JSON
    assert set(json.loads(answer.body)) == ({"status"} if answer.status < 400 else {"message"})


@pytest.mark.parametrize("status", [HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED])
def test_an_answer_without_content_has_no_length(status: HTTPStatus) -> None:
    start, _ = Response(status, b"", [("etag", "x")]).messages
    assert start["headers"] == [(b"etag", b"x")]


@pytest.mark.parametrize("answer", CONSTANTS, ids=lambda answer: str(answer.status))
def test_a_daemon_that_stops_asks_once_for_a_new_connection(answer: Response) -> None:
    assert answer.closing_headers.count(CLOSE) == 1
    assert [each for each in answer.closing_headers if each != CLOSE] == [
        each for each in answer.headers if each != CLOSE
    ]
    start, body = answer.closing_messages
    assert start["headers"].count((b"connection", b"close")) == 1
    assert body == answer.messages[1]


def test_what_is_sent_of_a_constant_is_built_once() -> None:
    answer = of_ingest.ACCEPTED
    assert answer.headers is answer.headers
    assert answer.messages is answer.messages


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ({"a": ["A is wrong."]}, "A is wrong."),
        ({"a": ["A is wrong."], "b": ["B is wrong."]}, "A is wrong. (and 1 more error)"),
        ({"a": ["A is wrong.", "Very."], "b": ["B is wrong."]}, "A is wrong. (and 2 more errors)"),
    ],
)
def test_wrong_fields_have_laravels_shape(errors: dict[str, list[str]], message: str) -> None:
    answer = invalid(Rejection(errors))
    assert (answer.status, json.loads(answer.body)) == (422, {"message": message, "errors": errors})


def test_text_of_any_kind_survives() -> None:
    odd = 'a"b\\c\n\x00é😀'
    assert json.loads(json_response(HTTPStatus.OK, {"text": odd}).body) == {"text": odd}
