"""The mapping: which requests of an access log count, and as what event. Pure; built once from the configuration.

Paths and user agents repeat, so the results for a bounded number of them are remembered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

from msgspec import Struct

from daemon.config import Import, ImportRoute
from daemon.importer.accesslog import Entry
from daemon.importer.outcome import LeftOut

REMEMBERED_MAX = 16_384
REMEMBERED_CHARS_MAX = 512
"""Longer texts are not remembered, so all that is takes less than about 20 MB."""

T = TypeVar("T")


class Target(Struct, frozen=True, gc=False):
    """The event that a counted request of one path becomes."""

    domain: str
    entity_type: str
    entity_id: str
    action: str


class Rule(Struct, frozen=True, gc=False):
    """A route, compiled."""

    route: ImportRoute
    pattern: re.Pattern[str]
    methods: frozenset[str]
    statuses: frozenset[int]
    bots_count: bool


class Mapping:
    """Says which event a request becomes, or why it is left out."""

    def __init__(self, section: Import) -> None:
        self._rules = [_rule(section, route) for route in section.routes]
        bot_pattern = re.compile(section.bot_pattern)
        self._is_bot = _remembering(lambda agent: bot_pattern.search(agent) is not None)
        self._find = _remembering(lambda path: _find(self._rules, path))

    def classify(self, entry: Entry) -> Target | LeftOut:
        found = self._find(entry.path)
        if found is None:
            return LeftOut.NO_ROUTE
        rule, target = found
        if entry.method not in rule.methods:
            return LeftOut.METHOD
        if entry.status not in rule.statuses:
            return LeftOut.STATUS
        if not rule.bots_count and entry.agent is not None and self._is_bot(entry.agent):
            return LeftOut.BOT
        return target


def _rule(section: Import, route: ImportRoute) -> Rule:
    return Rule(
        route,
        re.compile(route.pattern),
        frozenset(section.methods if route.methods is None else route.methods),
        frozenset(section.statuses if route.statuses is None else route.statuses),
        (section.bots if route.bots is None else route.bots) == "count",
    )


def _find(rules: Sequence[Rule], path: str) -> tuple[Rule, Target] | None:
    for rule in rules:
        match = rule.pattern.search(path)
        if match is not None:
            route = rule.route
            groups, named = match.groups(""), match.groupdict("")
            # `{0}` is the whole path. The templates' fields were checked when the configuration was read.
            texts = (
                template.format(path, *groups, **named)
                for template in (route.domain, route.entity_type, route.entity_id, route.action)
            )
            return rule, Target(*texts)
    return None


def _remembering(answer: Callable[[str], T]) -> Callable[[str], T]:
    remembered = lru_cache(maxsize=REMEMBERED_MAX)(answer)
    return lambda text: remembered(text) if len(text) <= REMEMBERED_CHARS_MAX else answer(text)
