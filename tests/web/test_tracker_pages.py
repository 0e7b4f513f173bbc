"""Pages as sites have them: plain http, foreign origins, strict policies, privacy signals, scripts that patch fetch."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page

from tests.web.browser import marks, once, queue, track, until
from tests.web.conftest import CONFIG as DAEMON
from tests.web.conftest import Finish, Stores
from tests.web.faults import FaultProxy
from tests.web.site import Shop, Site

MOVIES = [f"c0d1e2f3-0a1b-4c2d-8e3f-{n:012x}" for n in range(5)]
VIEW = f'<p data-track="view movie {MOVIES[0]}">A movie</p>'
NONCE = "bm9uY2Utb2YtYS10ZXN0"
PATCHES = {
    "throws": "window.fetch = () => { throw new Error('patched') }",
    "answers nothing": "window.fetch = () => undefined",
    "rejects with nothing": "window.fetch = () => Promise.reject()",
}


def counted(faults: FaultProxy, count: int = 1) -> Callable[[], bool]:
    """Whether the daemon took so many requests."""
    return lambda: sum(post.status == 202 for post in faults.posts()) >= count


def test_plain_http_has_ids_that_differ(site: Site, faults: FaultProxy, page: Page, finish: Finish) -> None:
    """There a page has neither crypto.randomUUID nor navigator.locks."""
    shop = Shop(site, f"http://shop.test:{site.port}", faults.url().replace("127.0.0.1", "count.test"))
    page.goto(shop.page("/", VIEW))
    assert page.evaluate("[isSecureContext, typeof crypto.randomUUID, typeof navigator.locks]") == [
        False,
        "undefined",
        "undefined",
    ]
    assert track(page, shop.script, "view", "movie", MOVIES[1])
    until(page, counted(faults, 2), "both were taken")
    ids = {event["event_id"] for post in faults.posts() for event in post.events()}
    assert len(ids) == 2
    finish(shop, once(MOVIES[:2]))


@pytest.mark.parametrize("signal", ["globalPrivacyControl = true", "doNotTrack = '1'"])
def test_a_site_that_respects_privacy_signals_sends_and_stores_nothing(
    signal: str, shop: Shop, context: BrowserContext, faults: FaultProxy, finish: Finish
) -> None:
    name, _, value = signal.partition(" = ")
    context.add_init_script(f"Object.defineProperty(Navigator.prototype, '{name}', {{get: () => {value}}})")
    page = context.new_page()
    page.goto(shop.page("/", VIEW, privacy="respect"))
    assert not track(page, shop.script, "view", "movie", MOVIES[1])
    assert (queue(page), marks(page), faults.posts()) == ({}, {}, [])
    page.goto(shop.page("/asks-nobody", VIEW))
    until(page, counted(faults), "without the attribute the view counts")
    finish(shop, once(MOVIES[:1]))


# Origins ----------------------------------------------------------------------------------------------------------


def test_only_pages_of_a_named_origin_count(
    site: Site, context: BrowserContext, system: Stores, errors: list[str]
) -> None:
    shop_url, other_url = (f"http://{host}.test:{site.port}" for host in ("shop", "other"))
    with (
        system.ingest(**{**DAEMON, "BROWSER__ORIGINS": json.dumps([shop_url])}) as daemon,
        FaultProxy(lambda: daemon.url).running() as faults,
    ):
        tallyd = faults.url().replace("127.0.0.1", "count.test")
        shop, other = Shop(site, shop_url, tallyd), Shop(site, other_url, tallyd)
        page = context.new_page()
        page.goto(other.page("/other"))
        assert not track(page, other.script, "view", "movie", MOVIES[1])
        assert [post.status for post in faults.posts()] == [403]
        page.goto(shop.page("/", VIEW))
        until(page, counted(faults), "the shop's view counts")
        page.close()
        Finish(context, faults, system, errors)(shop, once(MOVIES[:1]))


# Policies ---------------------------------------------------------------------------------------------------------


def test_a_strict_policy_with_a_nonce_lets_the_tracker_count(
    shop: Shop, page: Page, faults: FaultProxy, finish: Finish
) -> None:
    policy = (
        f"default-src 'none'; script-src 'nonce-{NONCE}' 'strict-dynamic'; connect-src {shop.tallyd}; img-src data:"
    )
    tag = shop.tag().replace("<script ", f'<script nonce="{NONCE}" ')
    page.goto(shop.page("/", VIEW, tag=False, head=tag, headers={"content-security-policy": policy}))
    until(page, counted(faults), "the view counts")
    finish(shop, once(MOVIES[:1]))


@pytest.mark.parametrize("intact", [True, False])
def test_the_browser_checks_the_hash_of_the_tracker(
    intact: bool, shop: Shop, page: Page, faults: FaultProxy, finish: Finish
) -> None:
    script = httpx.get(shop.script).content
    digest = base64.b64encode(hashlib.sha384(script if intact else script + b" ").digest()).decode()
    tag = shop.tag().replace("<script ", f'<script integrity="sha384-{digest}" crossorigin="anonymous" ')
    failed = "<script>addEventListener('error', () => { window.refused = true }, true)</script>"
    page.goto(shop.page("/", VIEW, tag=False, head=failed + tag))
    if intact:
        until(page, counted(faults), "the view counts")
    else:
        until(page, lambda: page.evaluate("window.refused === true"), "the script is refused")
    finish(shop, once(MOVIES[:1]) if intact else {MOVIES[0]: (0, 0)})


# Other scripts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", PATCHES)
def test_a_fetch_that_another_script_broke_loses_nothing(
    patch: str, shop: Shop, page: Page, faults: FaultProxy, finish: Finish
) -> None:
    page.goto(shop.page("/", VIEW, head=f"<script>{PATCHES[patch]}</script>"))
    assert not track(page, shop.script, "view", "movie", MOVIES[1])
    until(page, lambda: len(queue(page)) == 2, "both events wait")
    assert faults.posts() == []
    finish(shop, once(MOVIES[:2]))


def test_an_answer_that_never_comes_does_not_hold_a_page_up(shop: Shop, page: Page, finish: Finish) -> None:
    page.goto(shop.page("/", head="<script>window.fetch = () => new Promise(() => {})</script>"))
    assert not track(page, shop.script, "view", "movie", MOVIES[0])
    page.close()
    finish(shop, once(MOVIES[:1]))


def test_what_another_script_put_into_every_object_changes_no_event(
    shop: Shop, page: Page, faults: FaultProxy, finish: Finish
) -> None:
    spoilt = {"dedupe": False, "domain": "other", "eventId": "the-same", "value": 7, "occurredAt": "never", "userId": 1}
    page.goto(shop.page("/", head=f"<script>Object.assign(Object.prototype, {json.dumps(spoilt)})</script>"))
    call = "async ([script, movie]) => (await import(script)).default.track('view', 'movie', movie)"
    assert [page.evaluate(call, [shop.script, movie]) for movie in (*MOVIES[:2], MOVIES[0])] == [True, True, False]
    finish(shop, once(MOVIES[:2]))
