"""What the ids of one entity type look like: `[domains.DOMAIN] entity_id`.

`config/check.py` builds each rule to find what is wrong with it, `ingest/decode.py` to use it. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from re import _parser  # type: ignore[attr-defined]  # there is no public way to look into a pattern
from typing import Any, NamedTuple

from daemon.domain import rejection
from daemon.domain.entity import ENTITY_ID_CHARS_MAX

WAYS_MAX = 1_000
"""In how many ways a pattern may try to match one id. Python's `re` tries them all before it says no."""

_KINDS = {
    "uuid": (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", rejection.NO_UUID),
    "integer": (r"0|-?[1-9][0-9]{0,18}", rejection.NO_DECIMAL),
}
"""Name → pattern, and the text of a 422. These ids are canonical: a database writes the same key in no other way."""


Matches = Callable[[str], object]


class IdRule(NamedTuple):
    """`matches` tells whether it takes an id; the text of a 422 otherwise."""

    matches: Matches
    text: str


def id_rule(rule: str) -> IdRule:
    """The rule that a text of the configuration names: "uuid", "integer", or a pattern of the whole id.

    In a pattern, `\\d`, `\\w` and `\\s` are ASCII's. Raises ValueError, which says what is wrong.
    """
    if rule in _KINDS:
        pattern, text = _KINDS[rule]
        return IdRule(re.compile(pattern).fullmatch, text)
    if re.fullmatch(r"[A-Za-z_]*", rule):
        raise ValueError(f'must be "uuid", "integer" or a pattern such as "[a-z0-9-]{{1,64}}", not "{rule}"')
    try:
        compiled, parsed = re.compile(rule, re.ASCII), _parser.parse(rule, re.ASCII)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}") from error
    if _ways(parsed) > WAYS_MAX:
        raise ValueError(
            "can match an id in too many ways, and so may take long. Repeat only one part without a bound, repeat no"
            " group that holds a choice or a repeat, and refer to no group"
        )
    return IdRule(compiled.fullmatch, rejection.say(rejection.NO_MATCH, "entity_id", pattern=rule))


def _ways(parsed: Iterable[tuple[object, Any]]) -> int:
    """At most in so many ways a parsed pattern can match the beginning of a text. WAYS_MAX + 1: in too many."""
    ways = 1
    for operator, argument in parsed:
        ways *= _ways_of(str(operator), argument)
        if ways > WAYS_MAX:
            return WAYS_MAX + 1
    return ways


def _ways_of(operator: str, argument: Any) -> int:
    match operator:
        case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN" | "AT":
            return 1
        case "SUBPATTERN":
            return _ways(argument[-1])
        case "BRANCH":
            return sum(map(_ways, argument[1]))
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            fewest, most, inner = argument
            each, ways = _ways(inner), 0
            for times in range(fewest, min(most, ENTITY_ID_CHARS_MAX) + 1):
                ways += each**times
                if ways > WAYS_MAX:
                    break
            return ways
        case _:  # it looks around, or refers to a group
            return WAYS_MAX + 1
