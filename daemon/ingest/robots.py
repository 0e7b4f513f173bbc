"""Who is a robot, by the user agent: the list that the package crawler-user-agents maintains.

`app.py` asks, unless `browser.robots` is "count", and only about requests without a key. An answer costs 0.1 ms, with a
hostile user agent 0.5 ms, so answers are remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module

AGENT_CHARS_MAX = 512
"""Of a longer user agent only the beginning is looked at."""
AGENTS_REMEMBERED_MAX = 4_096
"""At most 4 MB."""


class Robots:
    """Built once. The package takes 3 MB and 0.3 s to load, so it is loaded here and not above."""

    def __init__(self) -> None:
        is_crawler = import_module("crawleruseragents").is_crawler
        is_crawler("")  # compiles its patterns
        self._is_crawler = lru_cache(AGENTS_REMEMBERED_MAX)(is_crawler)

    def sent(self, agents: Sequence[str]) -> bool:
        """Whether a robot sent a request with these User-Agent headers. Without one, a robot did."""
        agent = agents[0][:AGENT_CHARS_MAX] if agents else ""
        return not agent or self._is_crawler(agent)
