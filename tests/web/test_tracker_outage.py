"""The daemon, its answers, the line or the permission to use it are missing for a while: each event counts once."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.kit.system import Ingest
from tests.web.browser import marks, once, queue, shift_clock, track, until, view_all
from tests.web.conftest import CONFIG as DAEMON
from tests.web.conftest import Finish, Stores
from tests.web.faults import Fate, FaultProxy
from tests.web.site import Shop, Site

CONFIG = {"INGEST__MAX_AGE_S": "172800"}
"""As a real daemon: the system's own bound is off."""
MOVIES = [f"0b5e7a61-52c1-4e0c-8f3f-{n:012x}" for n in range(250)]
QUEUE_EVENTS_MAX = 200
HOUR_MS = 3_600_000


def test_events_wait_while_nothing_listens(shop: Shop, page: Page, faults: FaultProxy, finish: Finish) -> None:
    page.goto(shop.page("/"))
    faults.refuse()
    assert view_all(page, shop.script, MOVIES[:3]) == [False] * 3
    assert len(queue(page)) == 3
    page.wait_for_timeout(1_500)
    faults.restore()
    until(page, lambda: not queue(page), "the page sends them by itself")
    assert marks(page) == {f"view:movie:{movie}": "1" for movie in MOVIES[:3]}
    finish(shop, once(MOVIES[:3]))


def test_replies_that_are_lost_for_a_while_do_not_count_twice(
    shop: Shop, page: Page, faults: FaultProxy, finish: Finish
) -> None:
    page.goto(shop.page("/"))
    faults.every(Fate.LOSE_REPLY)
    assert view_all(page, shop.script, MOVIES[:5]) == [False] * 5
    faults.restore()
    until(page, lambda: not queue(page), "the page sends them again by itself")
    finish(shop, once(MOVIES[:5]), resent=True)


@pytest.mark.parametrize("fate", [Fate.BUSY, Fate.LIMITED])
def test_a_busy_daemon_is_asked_again_after_it_said_when(
    fate: Fate, shop: Shop, page: Page, faults: FaultProxy, finish: Finish
) -> None:
    page.goto(shop.page("/"))
    faults.script(fate)
    assert not track(page, shop.script, "view", "movie", MOVIES[0])
    faults.wait_for(Fate.PASS)
    until(page, lambda: not queue(page), "the event was taken")
    first, second = faults.posts()
    assert first.events()[0]["event_id"] == second.events()[0]["event_id"]
    finish(shop, once(MOVIES[:1]))


def test_what_the_daemon_takes_only_later_counts_later(
    site: Site, context: BrowserContext, system: Stores, errors: list[str]
) -> None:
    """The real limit: a batch is taken as far as the budget reaches, and its last events are not."""
    with (
        system.ingest(**DAEMON, RATE_LIMIT__PER_MINUTE="60") as daemon,
        FaultProxy(lambda: daemon.url).running() as faults,
    ):
        shop = Shop(site, f"http://localhost:{site.port}", faults.url())
        page = context.new_page()
        page.goto(shop.page("/"))
        view_all(page, shop.script, MOVIES[:62])
        assert queue(page), "the limit took all: the test is too small"
        until(page, lambda: not queue(page), "all were taken")
        Finish(context, faults, system, errors)(shop, once(MOVIES[:62]))


def test_a_daemon_restarts_under_a_page(
    shop: Shop, page: Page, daemon: Ingest, faults: FaultProxy, finish: Finish
) -> None:
    page.goto(shop.page("/"))
    assert track(page, shop.script, "view", "movie", MOVIES[0])
    faults.script(Fate.HOLD_REPLY)
    page.evaluate(
        "([script, id]) => void import(script).then((it) => it.default.track('view', 'movie', id))",
        [shop.script, MOVIES[1]],
    )
    faults.wait_for(Fate.HOLD_REPLY)
    daemon.kill()
    faults.release(deliver=False)
    view_all(page, shop.script, MOVIES[2:5])
    daemon.start()
    daemon.wait_up()
    until(page, lambda: not queue(page), "the page sends them by itself")
    finish(shop, once(MOVIES[:5]), resent=True)


def test_a_page_that_comes_online_sends_at_once(
    shop: Shop, page: Page, context: BrowserContext, finish: Finish
) -> None:
    page.goto(shop.page("/"))
    context.set_offline(True)
    assert view_all(page, shop.script, MOVIES[:4]) == [False] * 4
    context.set_offline(False)
    until(page, lambda: not queue(page), "the page sends them by itself")
    finish(shop, once(MOVIES[:4]))


@pytest.mark.parametrize(("hours", "counted"), [(20, True), (25, False)])
def test_the_next_day_sends_only_what_the_daemon_must_still_know(
    hours: int, counted: bool, shop: Shop, page: Page, context: BrowserContext, finish: Finish
) -> None:
    page.goto(shop.page("/"))
    context.set_offline(True)
    view_all(page, shop.script, MOVIES[:2])
    page.close()
    context.set_offline(False)
    tomorrow = context.new_page()
    shift_clock(tomorrow, hours * HOUR_MS)
    tomorrow.goto(shop.page("/"))
    until(tomorrow, lambda: not queue(tomorrow), "the events were sent, or given up")
    finish(shop, once(MOVIES[:2]) if counted else dict.fromkeys(MOVIES[:2], (0, 0)))


def test_an_event_whose_reply_was_lost_is_not_sent_after_its_time(
    shop: Shop, page: Page, faults: FaultProxy, finish: Finish
) -> None:
    """Also by the tab that still knows its id."""
    page.goto(shop.page("/"))
    faults.every(Fate.LOSE_REPLY)
    assert not track(page, shop.script, "view", "movie", MOVIES[0])
    page.goto("about:blank")
    faults.restore()
    sent = len(faults.posts())
    shift_clock(page, 25 * HOUR_MS)
    page.goto(shop.page("/"))
    assert not track(page, shop.script, "view", "movie", MOVIES[0])
    assert len(faults.posts()) == sent
    finish(shop, once(MOVIES[:1]))


def test_a_page_that_may_not_connect_keeps_a_bounded_queue(
    shop: Shop, page: Page, context: BrowserContext, finish: Finish
) -> None:
    policy = {"content-security-policy": f"default-src 'self'; script-src {shop.tallyd}; connect-src 'none'"}
    page.goto(shop.page("/", headers=policy))
    assert view_all(page, shop.script, MOVIES) == [False] * len(MOVIES)
    kept = [event["entity_id"] for event in map(event_of, queue(page).values())]
    assert 0 < len(kept) <= QUEUE_EVENTS_MAX
    page.close()
    finish(shop, once(kept))


def event_of(entry: str) -> dict[str, str]:
    """The event in an entry of the queue."""
    held = json.loads(entry)
    return next(each for each in (held, *held.values()) if isinstance(each, dict) and "entity_id" in each)
