"""A dashboard to look at, and what tests ask of it: `python -m tests.web.dashboard` shows one until Ctrl-C.

The system is that of tests/kit/catalogue.py: real servers, a daemon, and a flusher.
"""

from __future__ import annotations

import re
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

import typer
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from daemon.devstack.demo import MOVIES
from tests.kit import catalogue
from tests.kit.servers import Stack
from tests.kit.system import Ingest, System
from tests.web.browser import launch

PATH = "/dashboard"
PERSON = {"user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0"}
"""Of an event that no robot sends."""
SERVED = {"READ__CACHE_TTL_MS": "0", "READ__TOP_CACHE_TTL_MS": "0"}
"""What a page shows is then what the stores hold."""
FLUSHED = {"FLUSH__INTERVAL_S": "1"}


class Screen(NamedTuple):
    width: int
    height: int


SCREENS = {
    "phone": Screen(360, 740),
    "tablet": Screen(768, 1024),
    "desk": Screen(1440, 900),
    "wall": Screen(3840, 2160),
}
Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")
SETTLED = "body[data-ready]"
PATIENCE_S = 90.0
"""A browser on a busy machine is slow."""
TRIPWIRES = """
    globalThis.pwned = () => console.error("pwned");
    globalThis.alert = globalThis.pwned;
    addEventListener("securitypolicyviolation", (event) => console.error("pwned policy: " + event.violatedDirective));
"""
WRONG = re.compile("pwned|Content.Security.Policy|Mixed Content|Uncaught")


def movies() -> list[catalogue.Row]:
    """Those that nobody chose to do harm."""
    return [catalogue.Row(*movie) for movie in MOVIES]


@contextmanager
def daemons(system: System, port: int = 0, **env: str) -> Iterator[Ingest]:
    """The daemon of the dashboard, and a flusher."""
    with system.flusher(**FLUSHED), system.ingest(port=port, **{**SERVED, **env}) as ingest:
        yield ingest


@contextmanager
def visitor(browser: Browser, screen: Screen, theme: Theme, **options: Any) -> Iterator[BrowserContext]:
    """A new profile with such a screen. `options`: of `Browser.new_context`."""
    context = browser.new_context(
        viewport={"width": screen.width, "height": screen.height},
        color_scheme=theme,
        reduced_motion="reduce",
        **options,
    )
    yield context
    context.close()


class Look:
    """A page with the dashboard, and all that happens in it that must not."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        """`url`: of the daemon, or of what stands in front of it."""
        self.url = url.rstrip("/")
        self.asked: list[str] = []
        """The URL of each request so far."""
        self._wrong: list[str] = []
        context.on("request", lambda request: self.asked.append(request.url))
        context.on("weberror", lambda error: self._wrong.append(str(error.error)))
        context.on("console", lambda line: self._wrong.extend([line.text] if WRONG.search(line.text) else []))
        context.add_init_script(TRIPWIRES)
        context.set_default_timeout(PATIENCE_S * 1000)
        self.page = context.new_page()

    def go(self, at: str = "") -> None:
        """Returns once all is drawn. `at`: what follows "#/"."""
        self.page.goto("about:blank")  # else another fragment opens no page
        self.page.goto(f"{self.url}{PATH}{at and '#/'}{at}")
        self.settle()

    def settle(self) -> None:
        self.page.wait_for_selector(SETTLED)

    def wrong(self) -> list[str]:
        """Breaches of the page's policy, deeds of strangers' text, errors that nobody caught, requests to others."""
        origin = "{0.scheme}://{0.netloc}/".format(urlsplit(self.url))
        return self._wrong + [
            url for url in self.asked if not url.startswith((origin, "blob:" + origin, "data:", "about:"))
        ]

    def reads(self, path: str) -> list[str]:
        """The requests to this read so far."""
        return [url for url in self.asked if f"/api/v1/analytics/{path}" in url]


def faults_of(page: Page) -> list[str]:
    """What axe finds and calls serious or critical: rule, and where."""
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {' '.join(map(str, node['target']))}: {node['failureSummary']}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def run(
    port: Annotated[int, typer.Option(help="Of the daemon. 0: a free one.")] = 0,
    picture: Annotated[Path | None, typer.Option(help="Take a picture of it for the README, and end.")] = None,
    hostile: Annotated[bool, typer.Option(help="With ids and titles that strangers chose.")] = False,
) -> None:
    """Fill new servers with a catalogue and show its dashboard.

    Example: `just dashboard --hostile`
    """
    with tempfile.TemporaryDirectory(prefix="tallyd-dashboard-") as folder, Stack(Path(folder) / "stack") as stack:
        system = System(stack, Path(folder))
        rows = catalogue.ROWS if hostile else movies()
        catalogue.prepare(system, rows)
        catalogue.fill(system, rows)
        with daemons(system, port=port) as ingest:
            if picture:
                take_picture(ingest.url, picture)
            else:
                typer.echo(f"{ingest.url}{PATH}   (the stores: {stack.redis} {system.env['TALLYD_MONGO__URL']})")
                ended = threading.Event()
                signal.signal(signal.SIGINT, lambda *_: ended.set())
                signal.signal(signal.SIGTERM, lambda *_: ended.set())
                ended.wait()
        system.close()


def take_picture(url: str, file: Path) -> None:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        with visitor(browser, Screen(1280, 800), "light") as context:
            look = Look(context, url)
            look.go()
            look.page.screenshot(path=file)
        browser.close()


if __name__ == "__main__":
    typer.run(run)
