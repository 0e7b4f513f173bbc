"""`python -m bench.tracker`: what the tracker costs a page, in a real Chromium against a real daemon, in ten seconds.

It prints figures and keeps none. The time of `track()` is what it holds the page's thread, of which the bar is 1 ms.
Needs the programs of `ops/install-servers test`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

from playwright.sync_api import Browser, Page, sync_playwright

from tests.kit.servers import Stack
from tests.kit.system import System
from tests.web.browser import launch
from tests.web.site import ALIAS, SCRIPT, Shop, Site

LOADS = 30
CALLS = 150
"""Of one page. As many events wait when the daemon is away, and the queue has room for 200."""
NAME = "analytics"
AWAY = "http://127.0.0.1:1"
ISOLATED = {"cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp"}
"""In such a page the clock steps by 5 microseconds, in others by 100."""
REST_MS = 200
"""Before the first call: a visitor does not click at once."""
CALL_MS = """(calls) => Array.from({length: calls}, (_, n) => {
    const start = performance.now();
    analytics.track("view", "movie", `movie ${n}`);
    return performance.now() - start;
})"""
LOADED_MS = "performance.getEntriesByType('navigation')[0].loadEventStart"


@contextmanager
def shop() -> Iterator[Shop]:
    """A site, and a daemon that counts its events."""
    env = {"BROWSER__ORIGINS": '["*"]', "BROWSER__ALIAS": ALIAS, "BROWSER__SCRIPT": SCRIPT}
    with (
        tempfile.TemporaryDirectory(prefix="tallyd-tracker-") as folder,
        Site().running() as site,
        Stack(Path(folder) / "stack", mysql=False) as stack,
        System(stack, Path(folder)).ingest(**env) as ingest,
    ):
        yield Shop(site, f"http://localhost:{site.port}", ingest.url)


@contextmanager
def visit(browser: Browser, url: str) -> Iterator[Page]:
    """The page in a new profile, in which nothing is cached."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    yield page
    context.close()


def calls_ms(browser: Browser, url: str, calls: int) -> list[float]:
    """Of so many calls in a new page."""
    with visit(browser, url) as page:
        page.wait_for_timeout(REST_MS)
        found: list[float] = page.evaluate(CALL_MS, calls)
        return found


def show(what: str, values_ms: list[float]) -> None:
    print(f"{what:<58} median {median(values_ms):7.3f} ms   99 % {quantiles(values_ms, n=100)[98]:7.3f} ms")


def main() -> None:
    with shop() as demo, sync_playwright() as playwright:
        browser = launch(playwright)
        url = demo.page("/", headers=ISOLATED, global_=NAME)
        away = demo.page("/away", headers=ISOLATED, global_=NAME, endpoint=AWAY)
        first = [calls_ms(browser, url, 1)[0] for _ in range(LOADS)]
        show(f"track(), the first call in each of {LOADS} pages", first)
        show(f"track(), {CALLS} calls in a row", calls_ms(browser, url, CALLS))
        show(f"track(), {CALLS} calls in a row while the daemon is away", calls_ms(browser, away, CALLS))
        bare, tagged = demo.page("/bare", tag=False), demo.page("/tagged")
        loads: dict[str, list[float]] = {bare: [], tagged: []}
        for _ in range(LOADS):
            for each, times in loads.items():
                with visit(browser, each) as page:
                    times.append(page.evaluate(LOADED_MS))
        show("load event of a page without the tag", loads[bare])
        show("load event of the same page with it", loads[tagged])
        browser.close()


if __name__ == "__main__":
    main()
