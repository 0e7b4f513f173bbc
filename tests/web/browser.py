"""Debian's Chromium, driven by Playwright, and what the tracker keeps in a page."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Frame, Page, Playwright

from daemon.devstack import process
from tests.kit.wait import WAIT_TIMEOUT_S, wait_until

ARGUMENTS = [
    "--no-sandbox",  # tests also run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP *.test 127.0.0.1",  # a site on plain http: localhost counts as secure
]
QUEUE, KEYS = "anl:q:v1:", "anl:track:v1:"
"""How the tracker's names begin in localStorage and in sessionStorage."""
POLL_MS = 20
_STORED = """([storage, prefix]) => Object.fromEntries(
    Object.entries(window[storage]).filter(([name]) => name.startsWith(prefix)))"""
_VIEW_ALL = """async ([script, movies]) => {
    const analytics = (await import(script)).default;
    return Promise.all(movies.map((movie) => analytics.track("view", "movie", movie)));
}"""
_TRACK = "async ([script, event, options]) => (await import(script)).default.track(...event, options)"


def program() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    assert found is not None, "The tests need Chromium: run ./justw test, or apt-get install chromium."
    return found


def launch(playwright: Playwright) -> Browser:
    """A browser. Playwright switches the back/forward cache off; here it is on, as everywhere."""
    return playwright.chromium.launch(
        executable_path=program(), args=ARGUMENTS, ignore_default_args=["--disable-back-forward-cache"]
    )


@contextmanager
def with_background_tabs(playwright: Playwright) -> Iterator[BrowserContext]:
    """A browser of its own in which only the tab in front is visible: elsewhere Playwright says so of every tab."""
    folder = Path(tempfile.mkdtemp(prefix="tallyd-chromium-"))
    options = [*ARGUMENTS, "--headless", "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
    command = [*process.dies_with_parent(), program(), *options]
    port = folder / "DevToolsActivePort"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            wait_until(lambda: port.exists() and port.read_text().count("\n"), "Chromium says its port")
            browser = playwright.chromium.connect_over_cdp(
                f"http://127.0.0.1:{port.read_text().split()[0]}", no_defaults=True
            )
            yield browser.contexts[0]
            browser.close()
        finally:
            running.terminate()
            running.wait(10)
            shutil.rmtree(folder, ignore_errors=True)


def background_tab(context: BrowserContext, url: str) -> Page:
    """A new tab behind the one in front, of a context of `with_background_tabs`."""
    assert context.browser is not None
    session = context.browser.new_browser_cdp_session()
    with context.expect_page() as opened:
        session.send("Target.createTarget", {"url": url, "background": True})
    session.detach()
    return opened.value


def shift_clock(page: Page, ms: int) -> None:
    """From the next document on the page's clock is so far ahead. Its timers run as ever."""
    page.add_init_script(f"""{{
        const Real = Date;
        globalThis.Date = class extends Real {{
            constructor(...given) {{ super(...(given.length ? given : [Real.now() + {ms}])); }}
            static now() {{ return Real.now() + {ms}; }}
        }};
    }}""")


def until(page: Page, true: Callable[[], object], what: str, timeout_s: float = WAIT_TIMEOUT_S) -> None:
    """As `wait_until`, and the page's events are handled meanwhile: Playwright's own loop runs in this thread."""
    for _ in range(int(timeout_s * 1000 / POLL_MS)):
        if true():
            return
        page.wait_for_timeout(POLL_MS)
    raise AssertionError(f"not within {timeout_s:g} s: {what}")


def queue(page: Page) -> dict[str, str]:
    """The events that wait in the page's origin, by the names of their keys."""
    return stored(page, "localStorage", QUEUE)


def marks(page: Page) -> dict[str, str]:
    """What the tab knows of its events: `<action>:<type>:<id>` → the state."""
    return {name.removeprefix(KEYS): value for name, value in stored(page, "sessionStorage", KEYS).items()}


def stored(page: Page, storage: str, prefix: str) -> dict[str, str]:
    found: dict[str, str] = page.evaluate(_STORED, [storage, prefix])
    return found


def track(page: Page, script: str, *event: Any, **options: Any) -> bool:
    """`analytics.track(*event, options)` in a page that has the script; what its promise became."""
    result: bool = page.evaluate(_TRACK, [script, event, options])
    return result


def view_all(page: Page | Frame, script: str, movies: Sequence[str]) -> list[bool]:
    """Tracks a view of each movie in one go; what the promises became."""
    results: list[bool] = page.evaluate(_VIEW_ALL, [script, list(movies)])
    return results


def once(movies: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The counts of one view of each."""
    return dict.fromkeys(movies, (1, 0))
