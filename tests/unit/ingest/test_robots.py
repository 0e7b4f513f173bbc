"""Robots by user agent: who is one, and that no user agent costs much."""

from __future__ import annotations

import pytest

from daemon.ingest.robots import AGENT_CHARS_MAX, AGENTS_REMEMBERED_MAX, Robots

ROBOTS = Robots()


@pytest.mark.parametrize(
    "agents",
    [
        ["Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"],
        ["Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; bingbot/2.0) Chrome/116.0.0.0 Safari/537.36"],
        ["Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)"],
        ["Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/131.0 Safari/537.36"],
        ["curl/8.5.0"],
        ["python-requests/2.32.3"],
        [""],
        [],
    ],
)
def test_a_robot_is_known(agents: list[str]) -> None:
    assert ROBOTS.sent(agents)


@pytest.mark.parametrize(
    "agent",
    [
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/131.0.0.0 Safari/537.36",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Version/17.5 Mobile Safari/604.1",
        "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0",
        "Mozilla/5.0 (Linux; Android 6.0; CUBOT DINOSAUR) AppleWebKit/537.36 Chrome/60.0 Mobile Safari/537.36",
    ],
)
def test_people_are_not_taken_for_robots(agent: str) -> None:
    assert not ROBOTS.sent([agent])


def test_only_the_beginning_of_a_long_user_agent_is_looked_at() -> None:
    assert ROBOTS.sent(["x" * (AGENT_CHARS_MAX - 10) + "Googlebot/" + "x" * 60_000])
    assert not ROBOTS.sent(["x" * AGENT_CHARS_MAX + "Googlebot/"])


def test_a_bounded_number_of_user_agents_is_remembered() -> None:
    robots = Robots()
    for number in range(AGENTS_REMEMBERED_MAX + 10):
        robots.sent([f"x{number}"])
    assert robots._is_crawler.cache_info().currsize == AGENTS_REMEMBERED_MAX
