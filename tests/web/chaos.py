"""Four tabs that track, reload, leave, close and go offline at random, while their requests fail at random.

The script knows at each moment what has to be counted: what was tracked, once in each tab's session. `just chaos-web`
runs it for a minute; `test_tracker_chaos.py` is the short run of every test run.
"""

from __future__ import annotations

import random
import secrets
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from playwright.sync_api import BrowserContext, Page, sync_playwright

from tests.kit.servers import Stack
from tests.kit.system import Ingest
from tests.web.browser import launch
from tests.web.conftest import CONFIG, Finish, Stores
from tests.web.faults import Fate, FaultProxy
from tests.web.site import Shop, Site

TABS = 4
MOVIES = [f"7e9a1c04-6b2d-4f8e-a1c3-{n:012x}" for n in range(15)]
ACTIONS = ("view", "download")
SHARES = {Fate.LOSE_REPLY: 0.25, Fate.CUT: 0.15, Fate.BUSY: 0.1, Fate.LIMITED: 0.05}
"""Of the requests, while they fail at random."""
WAITING_MAX = 120
"""Events in the queue beyond which the script waits: the tracker keeps 200."""
PAUSE_MS = 400
"""The longest time between two steps."""
# Returns at once, how many events wait: by then the event is in the queue, whatever becomes of the page.
TRACK = """([events, options]) => {
    for (const event of events) analytics.track(...event, options)
    return Object.keys(localStorage).filter((name) => name.startsWith("anl:q:v1:")).length
}"""


class Tab:
    """A tab and what was tracked in its session."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.tracked: set[tuple[str, str]] = set()


class Chaos:
    """`counted` grows with each event that has to be counted; `steps` says how often each step was made."""

    def __init__(self, shop: Shop, context: BrowserContext, faults: FaultProxy, daemon: Ingest, seed: int) -> None:
        self.counted: Counter[tuple[str, str]] = Counter()
        self.steps: Counter[str] = Counter()
        self._shop = shop
        self._context = context
        self._faults = faults
        self._daemon = daemon
        self._dice = random.Random(seed)
        self._waiting = 0
        tag = shop.tag(**{"global": "analytics"})
        for movie in MOVIES:
            shop.page(f"/{movie}", f'<p data-track="view movie {movie}">A movie</p>', tag=False, head=tag)
        self._tabs = [self._opened() for _ in range(TABS)]

    def run(self, seconds: float) -> dict[str, tuple[int, int]]:
        """Steps for so long. Then all tabs are closed. Returns movie → (views, downloads)."""
        steps: dict[Callable[[], object], int] = {
            self._track: 12,
            self._track_always: 3,
            self._reload: 6,
            self._leave: 4,
            self._close: 4,
            self._go_offline: 2,
            self._fail: 4,
            self._hold: 2,
            self._refuse: 2,
            self._restart: 1,
            self._faults.restore: 3,
        }
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            if self._waiting > WAITING_MAX:
                self._faults.restore()
                self._pause(2_000)
                self._waiting = self._send(self._tabs[0], [])
                continue
            (step,) = self._dice.choices(list(steps), list(steps.values()))
            self.steps[step.__name__.strip("_")] += 1
            step()
            self._pause(self._dice.randrange(PAUSE_MS))
        for tab in self._tabs:
            tab.page.close()
        return {movie: (self.counted[movie, "view"], self.counted[movie, "download"]) for movie in MOVIES}

    # Steps ------------------------------------------------------------------------------------------------------

    def _track(self) -> None:
        """Some events of one tab in one go, among them some that it has tracked."""
        tab = self._dice.choice(self._tabs)
        chosen = [(self._dice.choice(MOVIES), self._dice.choice(ACTIONS)) for _ in range(self._dice.randint(1, 6))]
        self._expect(tab, *chosen)
        self._waiting = self._send(tab, chosen)

    def _track_always(self) -> None:
        """Events that count each time."""
        chosen = [(self._dice.choice(MOVIES), "download") for _ in range(self._dice.randint(1, 3))]
        self.counted.update(chosen)
        self._waiting = self._send(self._dice.choice(self._tabs), chosen, dedupe=False)

    def _reload(self) -> None:
        """Often while a request is under way."""
        self._dice.choice((self._track, lambda: None))()
        self._dice.choice(self._tabs).page.reload()

    def _leave(self) -> None:
        """For the page of another movie, in the same session."""
        tab = self._dice.choice(self._tabs)
        self._visit(tab)

    def _close(self) -> None:
        """At once after an event. Another tab is opened in its place."""
        tab = self._dice.choice(self._tabs)
        chosen = (self._dice.choice(MOVIES), "view")
        self._expect(tab, chosen)
        self._send(tab, [chosen])
        tab.page.close()
        self._tabs[self._tabs.index(tab)] = self._opened()

    def _go_offline(self) -> None:
        self._context.set_offline(True)
        self._track()
        self._pause(self._dice.randrange(1_000))
        self._track_always()
        self._context.set_offline(False)

    def _fail(self) -> None:
        """From now on requests fail at random."""
        self._faults.at_random(self._dice.randrange(2**32), SHARES)

    def _hold(self) -> None:
        """Requests, or their answers, come late or never; meanwhile tabs reload or close."""
        self._faults.every(self._dice.choice((Fate.HOLD_REPLY, Fate.HOLD_REQUEST)))
        self._track()
        # By another thread: Chromium has six connections to a host, and a page that loads may wait for one.
        deliver = self._dice.random() < 0.5
        release = threading.Timer(self._dice.random(), lambda: self._faults.release(deliver=deliver))
        release.start()
        self._dice.choice((self._reload, self._close, self._track))()
        release.join()

    def _refuse(self) -> None:
        """Nothing listens for a while."""
        self._faults.refuse()
        self._track()
        self._pause(self._dice.randrange(1_000))
        self._faults.restore()

    def _restart(self) -> None:
        """The daemon is killed, and started again."""
        self._daemon.kill()
        self._track()
        self._daemon.start()
        self._track_always()
        self._daemon.wait_up()

    # ------------------------------------------------------------------------------------------------------------

    def _opened(self) -> Tab:
        tab = Tab(self._context.new_page())
        self._visit(tab)
        return tab

    def _visit(self, tab: Tab) -> None:
        """Shows the page of a movie, which counts a view of it once the tracker has seen it."""
        movie = self._dice.choice(MOVIES)
        tab.page.goto(f"{self._shop.url}/{movie}")
        tab.page.wait_for_function("(name) => sessionStorage.getItem(name)", arg=f"anl:track:v1:view:movie:{movie}")
        self._expect(tab, (movie, "view"))

    def _expect(self, tab: Tab, *chosen: tuple[str, str]) -> None:
        new = set(chosen) - tab.tracked
        tab.tracked |= new
        self.counted.update(new)

    def _send(self, tab: Tab, chosen: list[tuple[str, str]], **options: bool) -> int:
        events = [(action, "movie", movie) for movie, action in chosen]
        waiting: int = tab.page.evaluate(TRACK, [events, options])
        return waiting

    def _pause(self, ms: int) -> None:
        """Playwright's loop runs meanwhile."""
        self._tabs[0].page.wait_for_timeout(ms)


def run(
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 60,
    seed: Annotated[int | None, typer.Option(help="Repeats a run's choices. Default: random, and printed.")] = None,
) -> None:
    """Let four tabs do things at random while requests fail, and compare every count with what the script did.

    Example: `just chaos-web --seconds 300 --seed 7`
    """
    seed = secrets.randbelow(2**32) if seed is None else seed
    typer.echo(f"seed {seed}, {seconds:g} s", err=True)
    errors: list[str] = []
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="tallyd-chaos-web-")))
        system = Stores(opened.enter_context(Stack(folder / "stack")), folder)
        opened.callback(system.close)
        daemon = opened.enter_context(system.ingest(**CONFIG))
        faults = opened.enter_context(FaultProxy(lambda: daemon.url).running())
        site = opened.enter_context(Site().running())
        context = launch(opened.enter_context(sync_playwright())).new_context()
        opened.callback(context.close)
        context.on("weberror", lambda error: errors.append(str(error.error)))
        shop = Shop(site, f"http://localhost:{site.port}", faults.url())
        chaos = Chaos(shop, context, faults, daemon, seed)
        Finish(context, faults, system, errors)(shop, chaos.run(seconds), resent=True)
        events, requests = sum(chaos.counted.values()), len(faults.posts())
        typer.echo(f"exact: {events} events in {requests} requests; {system.ledger()}; {dict(chaos.steps)}")


if __name__ == "__main__":
    typer.run(run)
