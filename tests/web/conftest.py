"""One Chromium, one system and one daemon for all tests of a module; a new profile, proxy and site for each.

The tests of the dashboard don't change the catalogue of their module, or they make it good.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright

from daemon.flush.flusher import Flushed
from tests.kit import catalogue
from tests.kit.nginx import nginx, nginx_folder
from tests.kit.proxy import Proxy
from tests.kit.servers import Stack
from tests.kit.system import Ingest, System
from tests.kit.wait import wait_until
from tests.web import browser as chromium
from tests.web import dashboard
from tests.web.dashboard import Look
from tests.web.faults import FaultProxy
from tests.web.site import ALIAS, SCRIPT, Shop, Site

CONFIG = {"BROWSER__ORIGINS": '["*"]', "BROWSER__ALIAS": ALIAS, "BROWSER__SCRIPT": SCRIPT}
"""Of the daemon; a module's own `CONFIG` is put over it."""
Counts = Mapping[str, tuple[int, int]]
"""Movie → (views, downloads)."""
LATER_MS = 60_000
"""No other tab's lease of an event and no short wait after a failure lasts so long."""
LOCATION = r"~ ^/(t|t/batch|s\.([0-9a-f]+\.)?js)$"
"""Of alias and script, as ops/proxy/nginx.conf says."""
T = TypeVar("T")


class Stores(System):
    """A system whose coroutines run in a thread of their own: Playwright's loop runs in the tests' thread."""

    def __init__(self, *args: Any) -> None:
        self._aside = ThreadPoolExecutor(1, "stores")
        super().__init__(*args)

    def _apart(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        return self._aside.submit(work, *args, **options).result()

    def sql(self, *args: Any, **options: Any) -> list[tuple[Any, ...]]:
        return self._apart(super().sql, *args, **options)

    def count(self, *args: Any, **options: Any) -> int:
        return self._apart(super().count, *args, **options)

    def flush(self, **env: str) -> Flushed:
        return self._apart(super().flush, **env)

    def make_indexes(self) -> None:
        self._apart(super().make_indexes)

    def tallyd(self, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self._apart(super().tallyd, *args, **options)


# A module's -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def playwright(stack: Stack) -> Iterator[Playwright]:
    """Not the session's: while it runs, no other test of this process can start an event loop. `stack` is started
    before it for the same reason."""
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    launched = chromium.launch(playwright)
    yield launched
    launched.close()


@pytest.fixture(scope="module")
def stores(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    system = Stores(stack, tmp_path_factory.mktemp("web"))
    yield system
    system.close()


@pytest.fixture(scope="module")
def module_daemon(request: pytest.FixtureRequest, stores: Stores) -> Iterator[Ingest]:
    with stores.ingest(**{**CONFIG, **getattr(request.module, "CONFIG", {})}) as running:
        yield running


# A test's ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def system(stores: Stores, tmp_path: Path) -> Stores:
    """The module's stores, empty."""
    stores.empty(tmp_path)
    return stores


@pytest.fixture
def daemon(module_daemon: Ingest, system: Stores) -> Ingest:
    """The module's daemon, which answers. A test may stop, kill and start it."""
    if not module_daemon.running:
        module_daemon.start()
        module_daemon.wait_up()
    return module_daemon


@pytest.fixture
def faults(daemon: Ingest) -> Iterator[FaultProxy]:
    with FaultProxy(lambda: daemon.url).running() as proxy:
        yield proxy


@pytest.fixture
def site() -> Iterator[Site]:
    with Site().running() as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    with nginx_folder() as made:
        yield made


@pytest.fixture
def shop(site: Site, faults: FaultProxy) -> Shop:
    """The demo site on another origin than tallyd."""
    return Shop(site, f"http://localhost:{site.port}", faults.url())


@pytest.fixture
def shop_behind_nginx(site: Site, faults: FaultProxy, folder: Path) -> Iterator[Shop]:
    """The demo site and tallyd on one origin, behind nginx."""
    upstream = faults.url().removeprefix("http://")
    with nginx(folder, upstream, also=LOCATION, site=f"http://127.0.0.1:{site.port}") as url:
        yield Shop(site, url, "")


@pytest.fixture(params=["another origin", "behind nginx"])
def each_shop(request: pytest.FixtureRequest) -> Shop:
    """The demo site in either place."""
    name = "shop_behind_nginx" if request.param == "behind nginx" else "shop"
    found: Shop = request.getfixturevalue(name)
    return found


@pytest.fixture
def errors() -> list[str]:
    """Exceptions that no page caught."""
    return []


@pytest.fixture
def context(browser: Browser, faults: FaultProxy, errors: list[str]) -> Iterator[BrowserContext]:
    """A new profile. It is gone before the proxy is."""
    made = browser.new_context()
    made.on("weberror", lambda error: errors.append(str(error.error)))
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


# Of the dashboard --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def catalogued(request: pytest.FixtureRequest, stores: Stores) -> Stores:
    """The module's stores with a catalogue of movies, hostile ids included; of a module with `EMPTY = True`, only the
    table, and nothing counted."""
    catalogue.prepare(stores)
    if not getattr(request.module, "EMPTY", False):
        catalogue.fill(stores)
    return stores


@pytest.fixture(scope="module")
def lines(catalogued: Stores) -> Iterator[dict[str, Proxy]]:
    """From the dashboard's daemon to each store."""
    urls = {name: catalogued.env[f"TALLYD_{name.upper()}__URL"] for name in ("redis", "mongo", "mysql")}
    with ExitStack() as running:
        yield {name: running.enter_context(Proxy(url).running()) for name, url in urls.items()}


@pytest.fixture(scope="module")
def seen(request: pytest.FixtureRequest, catalogued: Stores, lines: dict[str, Proxy]) -> Iterator[Ingest]:
    """The daemon with the dashboard, beside a flusher."""
    env = {f"{name.upper()}__URL": line.url() for name, line in lines.items()}
    with dashboard.daemons(catalogued, **{**env, **getattr(request.module, "CONFIG", {})}) as daemon:
        yield daemon


@pytest.fixture
def look(browser: Browser) -> Iterator[Callable[..., Look]]:
    """Opens a dashboard in a new profile. At the end nothing may have happened in it that must not."""
    with ExitStack() as opened:
        looks: list[Look] = []

        def open_(url: str, at: str = "", *, screen: str = "desk", clock: bool = False, **options: Any) -> Look:
            """`clock`: the test winds it. `options`: of `Browser.new_context`."""
            context = opened.enter_context(dashboard.visitor(browser, dashboard.SCREENS[screen], "light", **options))
            looks.append(Look(context, url))
            if clock:
                looks[-1].page.clock.install()
            looks[-1].go(at)
            return looks[-1]

        yield open_
        assert [each.wrong() for each in looks if each.wrong()] == []


class Finish:
    """How every case ends; called with what its script did, for each movie that it touched."""

    def __init__(self, context: BrowserContext, faults: FaultProxy, system: Stores, errors: list[str]) -> None:
        self._context = context
        self._faults = faults
        self._system = system
        self._errors = errors

    def __call__(
        self,
        shop: Shop,
        counts: Counts,
        *,
        resent: bool = False,
        context: BrowserContext | None = None,
        **attributes: str | None,
    ) -> None:
        """No fault any more, and one more visit, a minute later. No event waits in the browser then. The totals in
        MongoDB and the columns in MySQL are `counts` and nothing else, and the audit finds every amount.

        `resent`: the script forced an event to be sent twice, so the dedupe must have met a duplicate. `context`: if it
        is not the test's own. `attributes`: of the tag in the last page.
        """
        self._faults.restore()
        page = (context or self._context).new_page()
        chromium.shift_clock(page, LATER_MS)
        page.goto(shop.page("/last", **attributes))
        wait_until(lambda: not chromium.queue(page), "no event waits in the browser")
        page.close()
        self.stores_hold(counts)
        ledger = self._system.ledger()
        assert not resent or any(name.startswith("duplicate:") for name in ledger), ledger
        assert self._errors == []

    def stores_hold(self, counts: Counts) -> None:
        """Flushed, totals and columns are `counts`, and the audit holds."""
        self._system.add_movies(*(set(counts) - set(self._system.replica())))
        self._system.flush()
        nonzero = {movie: amounts for movie, amounts in counts.items() if any(amounts)}
        found = {key.removeprefix("jav:movie:"): fields for key, fields in self._system.rollup("totals").items()}
        assert {movie: (each.get("view", 0), each.get("download", 0)) for movie, each in found.items()} == nonzero
        assert {movie: amounts for movie, amounts in self._system.replica().items() if any(amounts)} == nonzero
        code, report = self._system.tallyd_here("audit", "--json")
        assert (code, json.loads(report)["holds"]) == (0, True), report
        assert self._system.dead_letters() == 0


@pytest.fixture
def finish(context: BrowserContext, faults: FaultProxy, system: Stores, errors: list[str]) -> Finish:
    return Finish(context, faults, system, errors)
