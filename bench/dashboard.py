"""`python -m bench.dashboard`: how long the dashboard of a large domain takes to appear, in a real Chromium.

It prints figures and keeps none. The bars: first paint within 0.5 s, all drawn within 1 s, at most 60 KB over the wire.
Every load is one of a new profile, in which nothing is cached; the daemon's own caches are off. With a million entities
(`--entities 1000000`) it takes four minutes first, in which MongoDB makes ten million daily documents, and a flusher
what it keeps of the whole domain. Needs the programs of `ops/install-servers test`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, NamedTuple

import typer
from playwright.sync_api import Browser, sync_playwright

from bench.reads import make_documents
from tests.kit import catalogue
from tests.kit.servers import Stack
from tests.kit.system import System
from tests.web.browser import launch
from tests.web.dashboard import PATH, SCREENS, SETTLED, daemons, visitor

LOADS = 20
WIRE_KB_MAX, PAINT_MS_MAX, DRAWN_MS_MAX = 60, 500, 1_000
NOTE_DRAWN = f"""new MutationObserver((_, observer) => {{
    if (document.querySelector("{SETTLED}")) {{
        globalThis.drawnMs = performance.now();
        observer.disconnect();
    }}
}}).observe(document, {{attributes: true, childList: true, subtree: true}})"""
PAINTED_MS = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


class Load(NamedTuple):
    painted_ms: float
    drawn_ms: float
    wire_kb: float
    """Heads and bodies, as they were sent."""
    requests: int


@contextmanager
def large(entities: int) -> Iterator[str]:
    """The URL of a daemon whose domain has so many thousands of movies, each with ten days and a row in MySQL."""
    with (
        tempfile.TemporaryDirectory(prefix="tallyd-dashboard-") as folder,
        Stack(Path(folder) / "stack") as stack,
    ):
        system = System(stack, Path(folder))
        make_documents(system.mongo, entities)
        catalogue.prepare(system, ())
        system.sql(
            f"INSERT INTO {catalogue.TABLE} (uuid, code, title) SELECT"
            " CONCAT('0f8fad5b-d9cb-469f-a165-', 100000000000 + seq), CONCAT('M-', seq), CONCAT('Movie number ', seq)"
            f" FROM seq_0_to_{entities - 1}"
        )
        system.flush()  # makes the indexes
        with daemons(system) as ingest:
            yield ingest.url


def load(browser: Browser, url: str) -> Load:
    with visitor(browser, SCREENS["desk"], "light") as context:
        page = context.new_page()
        network = context.new_cdp_session(page)
        network.send("Network.enable")
        sizes: list[float] = []
        network.on("Network.loadingFinished", lambda each: sizes.append(each["encodedDataLength"]))
        page.add_init_script(NOTE_DRAWN)
        page.goto(url + PATH)
        page.wait_for_function("() => globalThis.drawnMs")
        return Load(page.evaluate(PAINTED_MS), page.evaluate("drawnMs"), sum(sizes) / 1024, len(sizes))


def main(
    entities: Annotated[int, typer.Option(min=1_000, help="Movies, in thousands.")] = 20_000,
) -> None:
    with large(entities) as url, sync_playwright() as playwright:
        browser = launch(playwright)
        load(browser, url)  # Chromium's own first page
        loads = [load(browser, url) for _ in range(LOADS)]
        browser.close()
    for what, bar, values in (
        ("first paint", f"{PAINT_MS_MAX} ms", [each.painted_ms for each in loads]),
        ("all drawn", f"{DRAWN_MS_MAX} ms", [each.drawn_ms for each in loads]),
    ):
        print(f"{what:<14} median {median(values):7.1f} ms   95 % {quantiles(values, n=20)[18]:7.1f} ms   bar {bar}")
    wire = max(each.wire_kb for each in loads)
    print(f"over the wire  {wire:.1f} KB in {loads[0].requests} requests   bar {WIRE_KB_MAX} KB")


if __name__ == "__main__":
    typer.run(main)
