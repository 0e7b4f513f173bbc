"""What the dashboard says while something is away, switched off, refused or not there yet, and when it asks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright

from tests.kit.catalogue import ROWS
from tests.kit.nginx import nginx
from tests.kit.proxy import Proxy
from tests.kit.system import Ingest, event, wait_until
from tests.web.browser import until, with_background_tabs
from tests.web.conftest import Stores
from tests.web.dashboard import PATH, PATIENCE_S, PERSON, Look

EMPTY = True
KEY = "an-operator-s-key-0123456789"


@pytest.fixture
def away(lines: dict[str, Proxy]) -> Iterator[Callable[[str], None]]:
    """Cuts the daemon off from a store."""
    yield lambda name: lines[name].cut()
    for line in lines.values():
        line.restore()


@pytest.fixture(scope="module")
def keyed(catalogued: Stores) -> Iterator[Ingest]:
    """A daemon whose dashboard needs a key, behind a proxy."""
    trusted = json.dumps(["127.0.0.1"])
    with catalogued.ingest(DASHBOARD__KEY=KEY, HTTP__TRUSTED_PROXIES=trusted) as running:
        yield running


def count(system: Stores, seen: Ingest) -> None:
    """One view, in all stores."""
    views = sum(each.get("view", 0) for each in system.rollup("totals").values())
    visitor = {"user-agent": f"{PERSON['user-agent']} {views}"}  # the same one is counted once in 30 s
    seen.post(event(entity_id=ROWS[0].id, occurred_at=None), headers=visitor).raise_for_status()

    def flushed() -> bool:
        return sum(each.get("view", 0) for each in system.rollup("totals").values()) > views

    wait_until(flushed, "a flush", PATIENCE_S)


def says(shown: Look, text: str) -> None:
    until(shown.page, lambda: text in shown.page.inner_text("body"), text, PATIENCE_S)


def test_an_empty_system_says_how_an_event_looks(seen: Ingest, look: Callable[..., Look]) -> None:
    shown = look(seen.url)
    says(shown, "Nothing was counted")
    says(shown, '"domain": "jav"')
    says(look(seen.url, "health"), "All is well")


def test_an_entity_that_was_only_downloaded_has_its_name_once_mysql_answers(
    catalogued: Stores, seen: Ingest, look: Callable[..., Look], away: Callable[[str], None], lines: dict[str, Proxy]
) -> None:
    seen.post(event(entity_id=ROWS[1].id, action="download", occurred_at=None), headers=PERSON).raise_for_status()
    wait_until(lambda: f"jav:movie:{ROWS[1].id}" in catalogued.rollup("totals"), "a flush", PATIENCE_S)
    away("mysql")
    shown = look(seen.url, "entity?type=movie&id=" + ROWS[1].id)
    assert shown.page.inner_text("h1") == ROWS[1].id
    lines["mysql"].restore()
    says(shown, ROWS[1].title)


def test_mysql_away_leaves_the_counts_without_names(
    catalogued: Stores, seen: Ingest, look: Callable[..., Look], away: Callable[[str], None]
) -> None:
    count(catalogued, seen)
    shown = look(seen.url)
    says(shown, ROWS[0].title)
    away("mysql")
    shown = look(seen.url)
    says(shown, ROWS[0].id)
    says(shown, "MySQL does not answer")
    assert ROWS[0].title not in shown.page.inner_text("main")


def test_redis_away_is_said_and_events_wait_in_the_spool(
    catalogued: Stores, seen: Ingest, look: Callable[..., Look], away: Callable[[str], None]
) -> None:
    count(catalogued, seen)
    away("redis")
    assert seen.post(event(entity_id=ROWS[0].id)).status_code == 202
    shown = look(seen.url, "health")
    says(shown, "Redis does not answer. Events wait in the spool.")
    says(shown, "spooling")
    says(look(seen.url), ROWS[0].title)


def test_mongodb_away_leaves_the_last_numbers_and_says_of_when_they_are(
    catalogued: Stores, seen: Ingest, look: Callable[..., Look], away: Callable[[str], None]
) -> None:
    count(catalogued, seen)
    shown = look(seen.url, "entity?type=movie&id=" + ROWS[0].id, clock=True)
    away("mongo")
    shown.page.clock.fast_forward(10_000)
    says(shown, "The numbers are of")
    says(shown, "Next try in")
    says(look(seen.url, "health"), "MongoDB does not answer")


def test_switched_off_is_said(catalogued: Stores, look: Callable[..., Look]) -> None:
    with catalogued.ingest(ENABLED="false") as off:
        says(look(off.url), "tallyd is switched off")
        says(look(off.url, "health"), "switched off")


# Who sees it ------------------------------------------------------------------------------------------------------


def test_it_works_below_a_path_of_nginx_with_the_key_as_password(
    keyed: Ingest, folder: Path, look: Callable[..., Look]
) -> None:
    credentials = {"username": "anybody", "password": KEY}
    with nginx(folder, keyed.url.removeprefix("http://"), under="/stats/") as url:
        shown = look(f"{url}/stats", http_credentials=credentials)
        says(shown, "jav")
        assert {asked.removeprefix(url).split("/")[1] for asked in shown.asked} == {"stats"}
        shown.go("health")
        says(shown, "All is well")


def test_a_part_that_cannot_be_loaded_is_said(seen: Ingest, look: Callable[..., Look]) -> None:
    """Its file has another name after an upgrade."""
    shown = look(seen.url)
    shown.page.route("**/health.js", lambda route: route.fulfill(status=404))
    shown.page.click("nav a[data-page=health]")
    says(shown, "could not be loaded")
    assert not shown.page.query_selector("table.figures"), "numbers that nobody keeps up to date"


def test_whether_all_is_well_is_not_said_while_nobody_knows(seen: Ingest, look: Callable[..., Look]) -> None:
    shown = look(seen.url, clock=True)
    until(shown.page, lambda: shown.page.query_selector("#state i"), "the state is shown", PATIENCE_S)
    shown.page.route("**/status", lambda route: route.fulfill(status=401, json={"message": "Only operators."}))
    shown.page.clock.run_for(20_000)
    says(shown, "Whether all is well is not known")
    assert shown.page.query_selector("#state i") is None


def test_a_wrong_key_shows_nothing(keyed: Ingest, browser: Browser) -> None:
    context = browser.new_context(http_credentials={"username": "anybody", "password": KEY + "x"})
    page = context.new_page()
    answer = page.goto(keyed.url + PATH)
    assert answer is not None
    assert answer.status == 401
    assert "operator's key" in page.inner_text("body")
    context.close()


# When it asks -----------------------------------------------------------------------------------------------------


def test_a_hidden_tab_asks_nothing(seen: Ingest, playwright: Playwright) -> None:
    with with_background_tabs(playwright) as context:
        shown = Look(context, seen.url)
        shown.page.clock.install()
        shown.go()
        shown.page.clock.fast_forward("01:00")
        until(shown.page, lambda: len(shown.reads("summary")) > 1, "it asks again while it is seen", PATIENCE_S)
        front = context.new_page()
        front.bring_to_front()
        until(front, lambda: shown.page.evaluate("document.hidden"), "it is hidden", PATIENCE_S)
        front.wait_for_load_state("networkidle")
        asked = len(shown.asked)
        shown.page.clock.fast_forward("10:00:00")
        assert len(shown.asked) == asked
        shown.page.bring_to_front()
        until(shown.page, lambda: len(shown.asked) > asked, "it asks once it is seen again", PATIENCE_S)


def test_it_asks_ever_less_often_while_it_gets_no_answer(
    seen: Ingest, look: Callable[..., Look], away: Callable[[str], None]
) -> None:
    shown = look(seen.url, "entity?type=movie&id=" + ROWS[0].id, clock=True)
    away("mongo")
    asked = len(shown.reads("series"))
    for _ in range(60):
        shown.page.clock.run_for(10_000)
    assert 3 <= len(shown.reads("series")) - asked <= 20
