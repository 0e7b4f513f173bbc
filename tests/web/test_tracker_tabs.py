"""Several tabs, frames and instances, pages that are left and come back, and storages that fail: events count once."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page

from daemon.devstack import process
from tests.kit.system import EVENTS
from tests.kit.wait import wait_until
from tests.web.browser import ARGUMENTS, once, program, queue, track, until, view_all
from tests.web.conftest import Finish
from tests.web.faults import Exchange, Fate, FaultProxy
from tests.web.site import ALIAS, Shop, Site

MOVIES = [f"51b1c6d4-3a6e-4f0b-9a55-{n:012x}" for n in range(40)]


# Waits for no answer.
TRACK = """async ([script, movies]) => {
    const analytics = (await import(script)).default
    for (const movie of movies) analytics.track("view", "movie", movie)
}"""


def entities(posts: list[Exchange]) -> set[str]:
    return {event["entity_id"] for post in posts for event in post.events()}


# Tabs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tabs", [2, 5])
def test_tabs_that_drain_one_queue_count_each_event_once(
    tabs: int, shop: Shop, context: BrowserContext, faults: FaultProxy, finish: Finish
) -> None:
    shop.page("/")
    pages = [context.new_page() for _ in range(tabs)]
    for page in pages:
        page.goto(shop.url + "/")
    context.set_offline(True)
    for number, page in enumerate(pages):
        view_all(page, shop.script, MOVIES[number::tabs])
    assert len(queue(pages[0])) == len(MOVIES)
    faults.script(*[Fate.LOSE_REPLY] * tabs)
    context.set_offline(False)  # all of them hear it, and each sees all events
    until(pages[0], lambda: not queue(pages[0]), "the tabs sent all events")
    finish(shop, once(MOVIES), resent=True)


def test_a_tab_that_was_closed_leaves_its_events_to_the_others(
    shop: Shop, context: BrowserContext, faults: FaultProxy, finish: Finish
) -> None:
    shop.page("/")
    closed, other = context.new_page(), context.new_page()
    closed.goto(shop.url + "/")
    other.goto(shop.url + "/")
    faults.every(Fate.HOLD_REQUEST)
    closed.evaluate(TRACK, [shop.script, MOVIES[:10]])
    faults.wait_for(Fate.HOLD_REQUEST)
    until(other, lambda: len(queue(other)) == 10, "all events wait")
    closed.close()
    faults.release(deliver=False)
    finish(shop, once(MOVIES[:10]))


def test_a_tab_counts_its_own_view_while_it_sends_the_same_of_another(
    shop: Shop, context: BrowserContext, faults: FaultProxy, finish: Finish
) -> None:
    shop.page("/")
    one, other = context.new_page(), context.new_page()
    one.goto(shop.url + "/")
    faults.every(Fate.CUT)
    assert view_all(one, shop.script, MOVIES[:1]) == [False]
    one.close()
    faults.every(Fate.HOLD_REPLY)
    other.goto(shop.url + "/")
    faults.wait_for(Fate.HOLD_REPLY)
    other.evaluate(TRACK, [shop.script, MOVIES[:1]])
    faults.wait_for(Fate.HOLD_REPLY, 2)
    faults.release()
    finish(shop, {MOVIES[0]: (2, 0)})


def test_two_instances_with_their_own_endpoints_send_what_is_theirs(
    shop: Shop, page: Page, faults: FaultProxy, finish: Finish
) -> None:
    page.goto(shop.page("/"))
    faults.every(Fate.CUT)
    made = """async ([script, endpoint, one, other]) => {
        const {default: analytics, AnalyticsService} = await import(script)
        const second = new AnalyticsService({endpoint})
        return Promise.all([analytics.track("view", "movie", one), second.track("view", "movie", other)])
    }"""
    assert page.evaluate(made, [shop.script, shop.tallyd + EVENTS, *MOVIES[:2]]) == [False, False]
    assert len(queue(page)) == 2
    faults.restore()
    until(page, lambda: not queue(page), "both sent what is theirs")
    sent = {
        (post.path.removesuffix("/batch"), event["entity_id"]) for post in faults.posts() for event in post.events()
    }
    assert sent == {(ALIAS, MOVIES[0]), (EVENTS, MOVIES[1])}
    finish(shop, once(MOVIES[:2]))


# Navigation -------------------------------------------------------------------------------------------------------


def test_an_application_of_one_page_counts_a_view_again_after_reset(shop: Shop, page: Page, finish: Finish) -> None:
    page.goto(shop.page("/"))
    for number, counted in enumerate((True, False)):
        page.evaluate("(path) => history.pushState(null, '', path)", f"/movie-{number}")
        assert track(page, shop.script, "view", "movie", MOVIES[0]) is counted
    page.evaluate("async (script) => (await import(script)).default.reset()", shop.script)
    page.evaluate("history.pushState(null, '', '/movie-2')")
    assert track(page, shop.script, "view", "movie", MOVIES[0])
    finish(shop, {MOVIES[0]: (2, 0)})


def test_after_reset_a_view_is_a_new_event_whatever_became_of_the_one_before(
    shop: Shop, page: Page, faults: FaultProxy, finish: Finish
) -> None:
    """Else the count would depend on the network."""
    page.goto(shop.page("/"))
    faults.script(Fate.LOSE_REPLY)
    assert not track(page, shop.script, "view", "movie", MOVIES[0])
    page.evaluate("async (script) => (await import(script)).default.reset()", shop.script)
    assert track(page, shop.script, "view", "movie", MOVIES[0])
    finish(shop, {MOVIES[0]: (2, 0)}, resent=True)


def test_a_page_that_comes_back_from_the_cache_counts_no_new_view_and_sends_what_waits(
    shop: Shop, site: Site, page: Page, faults: FaultProxy, finish: Finish
) -> None:
    shop.file("/said", b"")
    shop.page("/next", tag=False)
    head = "<script>addEventListener('pageshow', (event) => event.persisted && fetch('/said?back'))</script>"
    faults.every(Fate.CUT)
    page.goto(shop.page("/", f'<p data-track="view movie {MOVIES[0]}">A movie</p>', head=head))
    faults.wait_for(Fate.CUT)
    page.goto(shop.url + "/next")
    faults.restore()
    page.evaluate("history.back()")  # Playwright's own way waits for a load, which there is not
    until(page, lambda: "/said?back" in site.asked, "the page came back from the cache")
    until(page, lambda: faults.posts(Fate.PASS), "the page sent what waited")
    finish(shop, once(MOVIES[:1]))


@contextmanager
def alone(url: str) -> Iterator[None]:
    """A Chromium that nobody drives shows this page: a driver's attaching ends prerendering."""
    folder = Path(tempfile.mkdtemp(prefix="tallyd-chromium-"))
    command = [*process.dies_with_parent(), program(), *ARGUMENTS, "--headless", f"--user-data-dir={folder}", url]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            yield
        finally:
            running.terminate()
            running.wait(10)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("activated", [True, False])
def test_a_prerendered_page_counts_once_it_is_shown(
    activated: bool, shop: Shop, site: Site, faults: FaultProxy, finish: Finish
) -> None:
    """By its attribute and by its script. While nobody sees it, it keeps nothing that another tab would send."""
    say = "const say = (word) => fetch('/said?' + word + Object.keys(localStorage).length)"
    module = f"""<script type="module">
        {say}
        const prerendered = document.prerendering
        document.addEventListener("prerenderingchange", () => say("shown"))
        const {{default: analytics}} = await import("{shop.script}")
        const sent = analytics.track("view", "movie", "{MOVIES[1]}")
        setTimeout(() => say(prerendered ? "prerendered" : "plain"), 300)
        sent.then(() => setTimeout(() => say("sent"), 500))
    </script>"""
    shop.file("/said", b"")
    shop.page("/movie", f'<p data-track="view movie {MOVIES[0]}">A movie</p>{module}')
    rules = json.dumps({"prerender": [{"source": "list", "urls": ["/movie"], "eagerness": "immediate"}]})
    leave = "setTimeout(() => { location.href = '/movie' }, 1500)" if activated else ""
    start = shop.page("/", f'<script type="speculationrules">{rules}</script><script>{leave}</script>')
    with alone(start):
        wait_until(
            lambda: "/said?prerendered0" in site.asked, f"the page is prerendered and keeps nothing: {site.asked}"
        )
        assert faults.posts() == []
        if activated:
            wait_until(lambda: "/said?sent0" in site.asked, f"both events were sent: {site.asked}")
            wait_until(lambda: entities(faults.posts()) == set(MOVIES[:2]), "both events were sent")
    assert ("/said?shown0" in site.asked) is activated
    finish(shop, once(MOVIES[:2]) if activated else dict.fromkeys(MOVIES[:2], (0, 0)))


# Storages ---------------------------------------------------------------------------------------------------------

DENIED = """for (const name of ["localStorage", "sessionStorage"])
    Object.defineProperty(window, name, {get() { throw new DOMException("denied", "SecurityError") }})"""
FULL = """() => {
    for (const storage of [localStorage, sessionStorage]) {
        for (let bytes = 4194304; bytes >= 1; bytes /= 2) {
            try { while (true) storage.setItem("theirs" + Math.random(), "x".repeat(bytes)) } catch {}
        }
    }
}"""


def test_a_sandboxed_frame_counts_without_any_storage(shop: Shop, page: Page, finish: Finish) -> None:
    shop.page("/inside", f'<p data-track="view movie {MOVIES[0]}">A movie</p>')
    page.goto(shop.page("/", '<iframe sandbox="allow-scripts" src="/inside"></iframe>', tag=False))
    frame = page.frames[1]
    assert frame.evaluate("origin") == "null"
    assert view_all(frame, shop.script, MOVIES[:2])[1]
    assert view_all(frame, shop.script, MOVIES[:2]) == [False, False]
    finish(shop, once(MOVIES[:2]))


def test_a_storage_that_is_denied_is_as_good_as_none(
    shop: Shop, context: BrowserContext, faults: FaultProxy, finish: Finish
) -> None:
    page = context.new_page()
    page.add_init_script(DENIED)
    page.goto(shop.page("/"))
    faults.script(Fate.LOSE_REPLY)
    assert not track(page, shop.script, "view", "movie", MOVIES[0])
    assert track(page, shop.script, "view", "movie", MOVIES[0])
    assert not track(page, shop.script, "view", "movie", MOVIES[0])
    finish(shop, once(MOVIES[:1]), resent=True)


def test_a_storage_that_is_full_loses_nothing_while_the_page_is_open(
    shop: Shop, page: Page, faults: FaultProxy, finish: Finish
) -> None:
    page.goto(shop.page("/"))
    page.evaluate(FULL)
    faults.every(Fate.LOSE_REPLY)
    assert view_all(page, shop.script, MOVIES[:5]) == [False] * 5
    assert queue(page) == {}
    faults.restore()
    until(page, lambda: entities(faults.posts(Fate.PASS)) == set(MOVIES[:5]), "the page sends them by itself")
    finish(shop, once(MOVIES[:5]), resent=True)


def test_what_another_script_wrote_into_the_queue_is_thrown_away(
    shop: Shop, page: Page, faults: FaultProxy, finish: Finish
) -> None:
    page.goto(shop.page("/"))
    faults.every(Fate.CUT)
    assert view_all(page, shop.script, MOVIES[:2]) == [False, False]
    (name, entry), *_ = queue(page).items()
    ours = name.rpartition(":")[0] + ":"
    held = json.loads(entry)
    spoilt = {f"{ours}w{number}": text for number, text in enumerate(SPOILT)}
    for field in held:
        for number, wrong in enumerate(WRONG):
            # The daemon refuses such an event: it must go, too, and not be asked about for ever.
            refused = held["e"] | {"event_id": f"{field}{number}", "action": "favorite"}
            spoilt[ours + refused["event_id"]] = json.dumps(held | {"e": refused} | {field: wrong})
    page.evaluate("(entries) => { for (const each in entries) localStorage.setItem(each, entries[each]) }", spoilt)
    faults.restore()
    page.reload()
    until(page, lambda: not queue(page), "nothing is left")
    finish(shop, once(MOVIES[:2]))


WRONG: list[object] = [None, "x", -1, -1e9, 1e18, 4e12, [], {}, True]
SPOILT = ["", "{", "null", "1", '"text"', "[]", "{}", '{"__proto__":{"at":1}}', "\ud83d", "x" * 300_000, "[" * 5_000]
