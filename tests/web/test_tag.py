"""What `tallyd snippet` prints, the pixel and the badge, as a real Chromium takes them in a page of another origin."""

from __future__ import annotations

import re

from playwright.sync_api import Browser, Page, Route

from tests.web.browser import until
from tests.web.conftest import CONFIG as DAEMON
from tests.web.conftest import Finish, Stores
from tests.web.faults import FaultProxy
from tests.web.site import Shop

CONFIG = {"BROWSER__PIXEL": "/p.gif", "BROWSER__BADGE": "/b.svg", "READ__CORS_ORIGINS": '["*"]'}
MOVIE = "6f1c0a52-3c61-4d09-9a39-0d1e5a3d3f11"
PERSON = "Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0"
"""Chromium without a screen calls itself a robot."""
VIEW = f'<p data-track="view movie {MOVIE}">A movie</p>'


def tag(system: Stores, shop: Shop, *options: str) -> str:
    return system.tallyd("snippet", "--origin", shop.tallyd, *options, **DAEMON).stdout


def strict(shop: Shop) -> dict[str, str]:
    """Headers of a site that lets nothing in but what the page about the tag names."""
    tallyd = shop.tallyd
    policy = f"default-src 'none'; script-src {tallyd}; connect-src {tallyd}; img-src {tallyd}"
    return {"content-security-policy": policy, "cross-origin-embedder-policy": "require-corp"}


def test_the_printed_tag_counts_in_a_strict_page(shop: Shop, page: Page, system: Stores, finish: Finish) -> None:
    page.goto(shop.page("/", VIEW, tag=False, head=tag(system, shop), headers=strict(shop)))
    until(page, system.views, "the view is counted")
    finish.stores_hold({MOVIE: (1, 0)})


def test_a_page_does_not_wait_for_a_slow_daemon(shop: Shop, page: Page, system: Stores, finish: Finish) -> None:
    held: list[Route] = []
    page.route(f"{shop.tallyd}/*.js", lambda route: held.append(route))  # noqa: PLW0108 - marked by Playwright
    page.goto(shop.page("/", VIEW, tag=False, head=tag(system, shop)), wait_until="domcontentloaded")
    assert page.inner_text("p") == "A movie"
    until(page, lambda: held, "the script is asked for")
    held[0].continue_()
    until(page, system.views, "the view is counted")
    finish(shop, {MOVIE: (1, 0)})


def test_a_file_of_another_hash_does_not_run(shop: Shop, page: Page, system: Stores, faults: FaultProxy) -> None:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    wrong = re.sub(r'integrity="sha384-....', 'integrity="sha384-AAAA', tag(system, shop))
    page.goto(shop.page("/", VIEW, tag=False, head=wrong))
    until(page, lambda: [text for text in said if "integrity" in text], "Chromium says why")
    assert faults.posts() == []


def test_the_printed_module_is_the_tags_own(shop: Shop, page: Page, system: Stores) -> None:
    page.goto(shop.page("/", tag=False, head=tag(system, shop, "--module").replace("ID", MOVIE)))
    until(page, system.views, "the view is counted")
    assert system.ledger() == {"accepted:view": 1}


def test_counts_are_filled_into_a_strict_page(shop: Shop, page: Page, system: Stores) -> None:
    head = tag(system, shop)
    page.goto(shop.page("/", VIEW, tag=False, head=head))
    until(page, system.views, "the view is counted")
    system.flush()
    count = f'<span data-count="view movie {MOVIE}">many</span>'
    page.goto(shop.page("/counts", count, tag=False, head=head, headers=strict(shop)))
    until(page, lambda: page.inner_text("span") == "1", "the count is shown")


def test_a_pixel_counts_in_a_page_without_scripts(browser: Browser, shop: Shop, system: Stores, finish: Finish) -> None:
    pixel = f'<noscript><img src="{shop.tallyd}/p.gif?d=jav&amp;t=movie&amp;id={MOVIE}&amp;a=view" alt=""></noscript>'
    for has_scripts in (True, False):
        context = browser.new_context(java_script_enabled=has_scripts, user_agent=PERSON)
        context.new_page().goto(shop.page("/", pixel, tag=False, headers=strict(shop)))  # waits for images
        context.close()
    finish.stores_hold({MOVIE: (1, 0)})


def test_a_pixel_that_is_prefetched_does_not_count(browser: Browser, shop: Shop, system: Stores) -> None:
    link = f'<link rel="prefetch" as="image" href="{shop.tallyd}/p.gif?d=jav&amp;t=movie&amp;id={MOVIE}&amp;a=view">'
    context = browser.new_context(user_agent=PERSON)
    page = context.new_page()
    with page.expect_response("**/p.gif*") as answered:
        page.goto(shop.page("/", tag=False, head=link))
    assert answered.value.ok
    assert system.ledger() == {}
    context.close()


def test_a_badge_is_shown(shop: Shop, page: Page) -> None:
    image = f'<img src="{shop.tallyd}/b.svg?d=jav&amp;t=movie&amp;id={MOVIE}&amp;label=views" alt="">'
    page.goto(shop.page("/", image, tag=False, headers=strict(shop)))
    assert page.evaluate("document.images[0].naturalWidth") > 0
