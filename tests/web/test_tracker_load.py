"""Views and clicks of a visitor: each is counted once, however he reloads, leaves and comes back.

Cases 1, 2 and 6 of the tracker's list. The user's three are the first three tests.
"""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import BrowserContext, Page, Playwright, Route

from tests.kit.system import EVENTS
from tests.kit.wait import wait_until
from tests.web import browser as chromium
from tests.web.browser import marks, queue, track, until
from tests.web.conftest import Finish, Stores
from tests.web.faults import Fate, FaultProxy
from tests.web.site import Shop

MOVIE = "0f8fad5b-d9cb-469f-a165-70867728950e"
OTHER = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
THIRD = "16fd2706-8baf-433b-82eb-8c7fada847da"
VIEW = f'<h1 data-track="view movie {MOVIE}">A movie</h1>'
KEY = f"view:movie:{MOVIE}"
RELOADS = """<script>
    const loads = +(sessionStorage.loads ?? 0);
    sessionStorage.loads = loads + 1;
    const again = () => location.reload();
    if (loads == 0) addEventListener('DOMContentLoaded', again);
    if (loads == 1) addEventListener('load', again);
    if (loads == 2) addEventListener('load', () => setTimeout(again, 50));
</script>"""
"""The page reloads itself three times: before an element of it is seen, about then, and afterwards."""
SHOWN_MS = 400
"""After which a view of a visible element is sent, and an event of a page that is left."""


def link(href: str) -> str:
    return f'<a href="{href}" data-track-click="download movie {MOVIE}">Have it</a>'


def ids(faults: FaultProxy) -> set[str]:
    """Of all events that were sent."""
    return {event["event_id"] for each in faults.posts() for event in each.events()}


# The user's three ------------------------------------------------------------------------------------------------


def test_view_on_load(each_shop: Shop, page: Page, system: Stores, finish: Finish) -> None:
    page.goto(each_shop.page("/movie", VIEW))
    wait_until(system.views, "the view is counted")
    finish(each_shop, {MOVIE: (1, 0)})


@pytest.mark.parametrize("button", ["left", "middle"])
def test_download_click(button: str, each_shop: Shop, page: Page, faults: FaultProxy, finish: Finish) -> None:
    each_shop.file("/file", b"a movie", content_type="application/octet-stream")
    page.goto(each_shop.page("/movie", link("/file")))
    page.click("a", button=button)  # type: ignore[arg-type]
    faults.wait_for(Fate.PASS)
    finish(each_shop, {MOVIE: (0, 1)})


def test_rapid_reloads_are_counted_once(each_shop: Shop, page: Page, faults: FaultProxy, finish: Finish) -> None:
    page.goto(each_shop.page("/movie", VIEW + RELOADS), wait_until="commit")
    page.wait_for_function("sessionStorage.loads == 4")
    until(page, lambda: marks(page) == {KEY: "1"}, "the view is confirmed")
    assert len(ids(faults)) == 1
    finish(each_shop, {MOVIE: (1, 0)})


# Replies that do not come ----------------------------------------------------------------------------------------


def test_a_reload_while_the_reply_is_held_sends_the_same_event(
    each_shop: Shop, page: Page, faults: FaultProxy, finish: Finish
) -> None:
    faults.script(Fate.HOLD_REPLY)
    page.goto(each_shop.page("/movie", VIEW))
    faults.wait_for(Fate.HOLD_REPLY)
    page.reload()
    until(page, lambda: marks(page) == {KEY: "1"}, "the view is confirmed")
    assert len(ids(faults)) == 1
    finish(each_shop, {MOVIE: (1, 0)}, resent=True)


def test_a_lost_reply_and_a_reload_count_once(each_shop: Shop, page: Page, faults: FaultProxy, finish: Finish) -> None:
    faults.every(Fate.LOSE_REPLY)
    page.goto(each_shop.page("/movie", VIEW))
    faults.wait_for(Fate.LOSE_REPLY)
    assert marks(page)[KEY] != "1"
    faults.restore()
    page.reload()
    until(page, lambda: marks(page) == {KEY: "1"}, "the view is confirmed")
    assert len(ids(faults)) == 1
    finish(each_shop, {MOVIE: (1, 0)}, resent=True)


def test_a_lost_reply_and_another_call_count_once(
    each_shop: Shop, page: Page, faults: FaultProxy, finish: Finish
) -> None:
    page.goto(each_shop.page("/movie"))
    faults.every(Fate.LOSE_REPLY)
    assert track(page, each_shop.script, "view", "movie", MOVIE) is False
    faults.restore()
    assert track(page, each_shop.script, "view", "movie", MOVIE) is True
    assert track(page, each_shop.script, "view", "movie", MOVIE) is False, "it is known"
    assert len(ids(faults)) == 1
    finish(each_shop, {MOVIE: (1, 0)}, resent=True)


# Leaving ---------------------------------------------------------------------------------------------------------


def test_a_click_that_navigates_is_counted_without_another_visit(
    each_shop: Shop, page: Page, system: Stores, finish: Finish
) -> None:
    page.goto(each_shop.page("/movie", link(each_shop.page("/next", tag=False))))
    page.click("a")
    page.wait_for_url("**/next")
    wait_until(lambda: system.ledger() == {"accepted:download": 1}, "the download is counted")
    finish(each_shop, {MOVIE: (0, 1)})


def test_a_click_whose_request_is_lost_is_sent_by_the_next_page(
    each_shop: Shop, page: Page, faults: FaultProxy, system: Stores, finish: Finish
) -> None:
    page.goto(each_shop.page("/movie", link(each_shop.page("/next"))))
    faults.every(Fate.CUT)
    page.click("a")
    page.wait_for_url("**/next")
    faults.wait_for(Fate.CUT)
    assert system.ledger() == {}
    faults.restore()
    wait_until(lambda: system.ledger() == {"accepted:download": 1}, "the download is counted")
    finish(each_shop, {MOVIE: (0, 1)})


def test_a_click_that_closes_its_window_is_counted(shop: Shop, page: Page, system: Stores, finish: Finish) -> None:
    button = f'<button data-track-click="download movie {MOVIE}" onclick="window.close()">Have it</button>'
    popup = shop.page("/popup", button)
    page.goto(shop.page("/movie"))
    with page.expect_popup() as opened:
        page.evaluate("url => { window.open(url) }", popup)
    with opened.value.expect_event("close"):
        opened.value.click("button")
    wait_until(lambda: system.ledger() == {"accepted:download": 1}, "the download is counted")
    finish(shop, {MOVIE: (0, 1)})


def test_a_tab_that_is_closed_at_once_has_sent_what_it_tracked(
    shop: Shop, page: Page, context: BrowserContext, system: Stores, finish: Finish
) -> None:
    page.goto(shop.page("/stays", tag=False))
    closing = context.new_page()
    closing.goto(shop.page("/movie", global_="analytics"))
    closing.wait_for_function("window.analytics")
    movies = [MOVIE, OTHER, THIRD]  # the first is sent at once, the others wait for each other
    closing.evaluate("movies => { movies.forEach((movie) => { analytics.track('view', 'movie', movie) }) }", movies)
    closing.close()
    wait_until(lambda: system.views() == 3, "the views are counted")
    finish(shop, dict.fromkeys(movies, (1, 0)))


def test_a_tab_in_the_background_is_counted_once_it_is_shown(
    shop: Shop, playwright: Playwright, system: Stores, faults: FaultProxy, finish: Finish
) -> None:
    never, later = shop.page("/never", f'<h1 data-track="view movie {OTHER}">B</h1>'), shop.page("/movie", VIEW)
    with chromium.with_background_tabs(playwright) as context:
        front = context.pages[0]
        front.goto(shop.page("/front", tag=False))
        hidden = [chromium.background_tab(context, url) for url in (never, later)]
        for each in hidden:
            each.wait_for_load_state()
        assert [each.evaluate("document.visibilityState") for each in [front, *hidden]] == [
            "visible",
            "hidden",
            "hidden",
        ]
        time.sleep(SHOWN_MS / 1000)
        assert faults.posts() == []
        hidden[0].close()
        for _ in range(2):
            hidden[1].bring_to_front()
            until(hidden[1], lambda: marks(hidden[1]) == {KEY: "1"}, "the view is confirmed")
            front.bring_to_front()
        finish(shop, {MOVIE: (1, 0)}, context=context)


# What it costs a page --------------------------------------------------------------------------------------------


def test_the_tag_adds_one_request_to_a_page(shop: Shop, context: BrowserContext, finish: Finish) -> None:
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    bare, tagged = shop.page("/bare", tag=False), shop.page("/tagged")
    page = context.new_page()
    for url in (bare, tagged):
        page.goto(url)
        page.wait_for_timeout(SHOWN_MS)
    assert asked == [bare, tagged, shop.script]
    finish(shop, {})


# A blocker -------------------------------------------------------------------------------------------------------

BLOCKED = (
    "/analytics/event",
    "/analytics/hit",
    "/analytics/track?",
    "/analytics/v1/*",
    "/analytics.min.",
    "/analytics.v1.js",
    ".analytics.min.",
    "/pixel.gif?",
    "/counter?id=",
    "/t/event?",
    "/track?event=",
    "&event=view&",
    "-analytics/insight.",
)
"""Of EasyPrivacy's general rules those that are near to a name of tallyd's. They hold on a site's own address, too."""


def blocks(rule: str, url: str) -> bool:
    """As blockers read a rule: a part of the URL in any case, with `*` for anything and `^` for a separator."""
    parts = (".*" if each == "*" else r"(?:[^\w.%-]|$)" if each == "^" else re.escape(each) for each in rule)
    return re.search("".join(parts), url, re.IGNORECASE) is not None


def block(route: Route) -> None:
    if any(blocks(rule, route.request.url) for rule in BLOCKED):
        route.abort("blockedbyclient")
    else:
        route.continue_()


def test_a_rule_of_a_blocker_is_read_as_blockers_do() -> None:
    assert blocks("/pixel.gif?", "https://a.example/PIXEL.gif?x=1")
    assert not blocks("/pixel.gif?", "https://a.example/pixel.gif")
    assert blocks("/analytics/v1/*", "https://a.example/analytics/v1/x")
    assert blocks("/ping^", "https://a.example/ping/")
    assert blocks("/ping^", "https://a.example/ping")
    assert not blocks("/ping^", "https://a.example/pinged")


def test_the_alias_counts_where_a_blocker_stops_the_path(
    each_shop: Shop, page: Page, system: Stores, finish: Finish
) -> None:
    page.route("**/*", block)
    page.goto(each_shop.page("/movie", VIEW))
    until(page, system.views, "the view is counted")
    finish(each_shop, {MOVIE: (1, 0)})


def test_what_a_blocker_stops_waits_and_is_counted_without_it(
    each_shop: Shop, page: Page, faults: FaultProxy, finish: Finish
) -> None:
    page.route("**/*", block)
    endpoint = each_shop.tallyd + EVENTS
    page.goto(each_shop.page("/movie", VIEW, endpoint=endpoint))
    until(page, lambda: len(queue(page)) == 1, "the view waits")
    page.wait_for_timeout(SHOWN_MS)
    assert faults.posts() == []
    page.unroute("**/*")
    page.reload()
    until(page, lambda: marks(page) == {KEY: "1"}, "the view is confirmed")
    finish(each_shop, {MOVIE: (1, 0)}, endpoint=endpoint)
