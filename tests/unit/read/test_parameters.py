"""Parameters of a read: what is taken, and how every wrong one is named."""

from __future__ import annotations

import pytest

from daemon.domain.rejection import Rejection
from daemon.read.parameters import FIELDS_MAX, Parameters
from daemon.response import invalid


def test_absent_parameters_have_their_defaults() -> None:
    parameters = Parameters("")
    assert parameters.choice("window", ("total", "day"), "total") == "total"
    assert parameters.integer("limit", 1, 100, 10) == 10
    assert parameters.flag("fresh") is False
    assert parameters.day("from") is None
    assert parameters.number("days", (7, 30), 30) == 30
    parameters.reject_unknown()
    assert parameters.errors == {}


def test_every_wrong_parameter_is_named() -> None:
    parameters = Parameters("window=x&limit=0&fresh=yes&from=2026-02-30&oops=1")
    parameters.choice("window", ("total", "day"), "total")
    parameters.integer("limit", 1, 100, 10)
    parameters.flag("fresh")
    parameters.day("from")
    parameters.reject_unknown()
    assert list(parameters.errors) == ["window", "limit", "fresh", "from", "oops"]
    assert parameters.errors["oops"] == ["There is no such parameter; there are: window, limit, fresh, from."]


@pytest.mark.parametrize(
    "given", ["101", "-1", "1.0", "\u0661", "1e1", "", " 1", "9999999999999999999999", "5&limit=6"]
)
def test_what_is_no_integer_in_range_given_once_is_wrong(given: str) -> None:
    parameters = Parameters(f"limit={given}")
    parameters.integer("limit", 1, 100, 10)
    assert "limit" in parameters.errors


@pytest.mark.parametrize("text", ["20260219", "2026-W08-4", "2026-2-19", "2026-02-19T00:00:00Z", "0000-01-01", ""])
def test_what_is_no_day_is_wrong(text: str) -> None:
    parameters = Parameters(f"from={text}")
    parameters.day("from")
    assert "from" in parameters.errors


@pytest.mark.parametrize("query", ["", "label=", "label=%00", "label=" + "x" * 256, "label=a&label=b"])
def test_a_text_must_be_given_once_and_be_short_and_plain(query: str) -> None:
    parameters = Parameters(query)
    parameters.text("label")
    assert "label" in parameters.errors
    assert parameters.required == {"label"}


def test_ids_come_in_lists_and_one_by_one_and_each_once() -> None:
    parameters = Parameters("ids=a,b%2Cc&id=d%2Ce&ids=a")
    assert parameters.entity_ids("ids", "id", 5) == ["a", "b", "c", "d,e"]
    assert parameters.errors == {}


@pytest.mark.parametrize(
    "query", ["ids=", "ids=a,", "ids=a,b,c,d", "id=%00", "id=" + "x" * 256, "ids=a&id=b&id=c&id=d"]
)
def test_ids_that_are_none_or_too_many_are_wrong(query: str) -> None:
    parameters = Parameters(query)
    parameters.entity_ids("ids", "id", 3)
    assert "ids" in parameters.errors


@pytest.mark.parametrize("query", ["a=%ff", "&".join(f"p{n}=1" for n in range(FIELDS_MAX + 1))])
def test_a_query_that_cannot_be_read_is_wrong_as_a_whole(query: str) -> None:
    assert "query" in Parameters(query).errors


def test_the_answer_to_many_unknown_parameters_is_short() -> None:
    parameters = Parameters("&".join(f"{'%01' * 100}{n}=1" for n in range(100)))
    parameters.choice("window", ("total", "day"), "total")
    parameters.reject_unknown()
    assert len(invalid(Rejection(parameters.errors)).body) <= 4_096
    assert parameters.errors["query"] == ["Of the parameters 92 more are unknown."]
