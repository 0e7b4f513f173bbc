"""Rules for ids: what they take, and that no pattern of the configuration can hold a worker up."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.id_rule import id_rule

UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ("uuid", [UUID], [UUID.upper(), UUID.replace("-", ""), f"{{{UUID}}}", f"{UUID} ", f"{UUID}\n", UUID[1:], ""]),
        ("integer", ["0", "7", "-7", "9223372036854775807"], ["", "-", "-0", "07", "+7", "7 ", "7\n", "1e3", "\u0667"]),
        ("[a-z0-9-]{1,64}", ["a", "a-1", "a" * 64], ["a" * 65, "A", "a\n", "a/"]),
        (r"\d+", ["123"], ["\u0661", "12a", " 12"]),
        (".{1,3}", ["a", "\u6f22\u6f22\u6f22"], ["aaaa"]),
        ("sku-[0-9]{4}|old-.+", ["sku-0001", "old-x"], ["sku-1", "xsku-0001"]),
        ("^[a-z]+$", ["abc"], ["abc\n", "ab1"]),
    ],
)  # fmt: skip
def test_a_rule_takes_the_whole_id_or_nothing(rule: str, good: list[str], bad: list[str]) -> None:
    matches = id_rule(rule).matches
    assert [id_ for id_ in good if not matches(id_)] == []
    assert [id_ for id_ in bad if matches(id_)] == []


@pytest.mark.parametrize(
    "rule",
    ["(a+)+", "(a|a)*", "(a|ab)*c", "a*a*a*b", "(.*)(.*)x", r"(a)\1", "(?=a)a", "(?!a)b", "(x?){200}", "(.{0,99}a){3}"],
)
def test_a_pattern_that_can_match_in_too_many_ways_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="too many ways"):
        id_rule(rule)


@pytest.mark.parametrize("rule", ["", "uid", "UUID", "int", "movie_id"])
def test_a_misspelled_name_is_not_taken_for_a_pattern(rule: str) -> None:
    with pytest.raises(ValueError, match="uuid"):
        id_rule(rule)


@pytest.mark.parametrize("rule", ["(", "[z-a]", "a**", "(?P<n>a", "a{99999999999999999999}"])
def test_what_is_no_pattern_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="not a regular expression"):
        id_rule(rule)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of "[[", which a later Python may take for a nested set
@given(st.text("ab()[]|*+?{}0123,.^$\\-", max_size=12))
def test_whatever_a_pattern_is_it_makes_a_rule_or_a_message(rule: str) -> None:
    try:
        made = id_rule(rule)
    except ValueError as error:
        assert str(error)  # noqa: PT017
        return
    for id_ in ("a" * 255, "ab" * 127, "b" * 254 + "!"):
        assert bool(made.matches(id_)) is bool(re.fullmatch(rule, id_, re.ASCII))
