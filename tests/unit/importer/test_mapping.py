"""Which requests count, and as what."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from daemon.config import Import, ImportRoute
from daemon.importer.accesslog import Entry, parse
from daemon.importer.mapping import REMEMBERED_CHARS_MAX, Mapping, Target
from daemon.importer.outcome import LeftOut

DATA = Path(__file__).parents[2] / "data"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:27.0) Gecko/20100101 Firefox/27.0"
GOOGLEBOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"


def route(pattern: str, **fields: Any) -> ImportRoute:
    return ImportRoute(
        **{"pattern": pattern, "domain": "web", "entity_type": "page", "entity_id": "{0}", "action": "view", **fields}
    )


def request(path: str = "/a", method: str = "GET", status: int = 200, agent: str | None = FIREFOX) -> Entry:
    return Entry(method, path, status, agent, "17/May/2015:10:05:03 +0000")


def classify(entry: Entry, *routes: ImportRoute, **section: Any) -> Target | LeftOut:
    return Mapping(Import(routes=routes or (route("^/"),), **section)).classify(entry)


def test_the_whole_path_can_be_the_id() -> None:
    assert classify(request("/a/b%20c")) == Target("web", "page", "/a/b%20c", "view")


def test_groups_fill_every_field() -> None:
    by_groups = route(
        r"^/(?P<site>\w+)/(movie|actor)s/(\d+)",
        domain="{site}", entity_type="{2}", entity_id="{3}-{site}", action="view",
    )  # fmt: skip
    assert classify(request("/jav/movies/17/cover"), by_groups) == Target("jav", "movie", "17-jav", "view")


def test_a_group_that_took_no_part_is_empty() -> None:
    assert classify(request("/a"), route("^/a(x)?$", entity_id="a{1}")) == Target("web", "page", "a", "view")


def test_the_first_route_that_matches_wins() -> None:
    files, pages = route(r"\.pdf$", entity_type="file"), route("^/")
    assert classify(request("/a.pdf"), files, pages) == Target("web", "file", "/a.pdf", "view")
    assert classify(request("/a"), files, pages) == Target("web", "page", "/a", "view")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (request("x"), LeftOut.NO_ROUTE),
        (request(method="POST"), LeftOut.METHOD),
        (request(method="get"), LeftOut.METHOD),
        (request(status=404), LeftOut.STATUS),
        (request(agent=GOOGLEBOT), LeftOut.BOT),
        (request("x", "POST", 404, GOOGLEBOT), LeftOut.NO_ROUTE),
        (request("/a", "POST", 404, GOOGLEBOT), LeftOut.METHOD),
        (request("/a", "GET", 404, GOOGLEBOT), LeftOut.STATUS),
    ],
)
def test_what_is_left_out_has_the_first_reason_that_applies(entry: Entry, reason: LeftOut) -> None:
    assert classify(entry) is reason


def test_the_section_says_what_counts() -> None:
    anything = {"methods": ("POST",), "statuses": (404,), "bots": "count"}
    assert isinstance(classify(request(method="POST", status=404, agent=GOOGLEBOT), **anything), Target)
    assert classify(request(), **anything) is LeftOut.METHOD


def test_a_route_may_differ_from_the_section() -> None:
    files = route(r"\.pdf$", methods=("GET", "HEAD"), statuses=(200,), bots="count")
    assert isinstance(classify(request("/a.pdf", "HEAD", 200, GOOGLEBOT), files, route("^/")), Target)
    assert classify(request("/a.pdf", status=304), files, route("^/")) is LeftOut.STATUS
    assert isinstance(classify(request("/a", status=304), files, route("^/")), Target)


def test_a_log_without_user_agents_has_no_bots() -> None:
    assert isinstance(classify(request(agent=None)), Target)


def test_long_paths_and_agents_are_judged_like_short_ones() -> None:
    mapping = Mapping(Import(routes=(route("^/"),)))
    path, agent = "/" + "x" * REMEMBERED_CHARS_MAX, "x" * REMEMBERED_CHARS_MAX
    for _ in range(2):
        assert mapping.classify(request(path, agent=agent)) == Target("web", "page", path, "view")
        assert mapping.classify(request(path, agent=f"{agent} bot")) is LeftOut.BOT


def test_the_default_pattern_knows_the_programs_in_a_real_log_and_nobody_else() -> None:
    programs = set((DATA / "semicomplete-bots.txt").read_text().splitlines())
    with gzip.open(DATA / "semicomplete-access.log.gz") as log:
        entries = [parse(line.rstrip(b"\n")) for line in log]
    agents = {entry.agent for entry in entries if isinstance(entry, Entry) and entry.agent is not None}
    assert len(agents) == 559
    assert {agent for agent in agents if classify(request(agent=agent)) is LeftOut.BOT} == programs


@pytest.mark.parametrize(
    "agent",
    [
        "Mozilla/5.0 (Linux; Android 6.0; CUBOT DINOSAUR) AppleWebKit/537.36 Chrome/60.0 Mobile Safari/537.36",
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/17.4 Safari/605.1.15",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/126.0 Safari/537.36 Edg/126.0",
        "Lynx/2.8.7rel.2 libwww-FM/2.14 SSL-MM/1.4.1 OpenSSL/1.0.1f",
        "Opera/9.80 (J2ME/MIDP; Opera Mini/7.1.32052/34.1244; U; en) Presto/2.8.119 Version/11.10",
    ],
)
def test_people_are_not_taken_for_programs(agent: str) -> None:
    assert isinstance(classify(request(agent=agent)), Target)


@pytest.mark.parametrize(
    "agent",
    [
        "", "-", "GPTBot/1.0", "Mozilla/5.0 (compatible; ClaudeBot/1.0; +claudebot@anthropic.com)", "okhttp-crawler",
        "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
        "Go-http-client/1.1", "python-requests/2.31.0", "curl/8.5.0", "Apache-HttpClient/4.5.13 (Java/17)",
        "Mozilla/5.0 (X11; Linux x86_64) HeadlessChrome/120.0.0.0 Safari/537.36", "axios-bots", "UptimeMonitor",
    ],
)  # fmt: skip
def test_programs_of_today_are_known(agent: str) -> None:
    assert classify(request(agent=agent)) is LeftOut.BOT
