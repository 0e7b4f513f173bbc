"""The harness itself: a page in Chromium sends an event, and what the proxy does to it is seen by page and daemon."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Page

from tests.kit.system import event
from tests.web.conftest import Finish, Stores
from tests.web.faults import Fate, FaultProxy
from tests.web.site import Shop

MOVIE = "6f1c0a52-3c61-4d09-9a39-0d1e5a3d3f11"
SEND = """async ([endpoint, body]) => {
    try {
        const answer = await fetch(endpoint, {method: "POST", body});
        return [answer.status, answer.headers.get("retry-after")];
    } catch {
        return [0, null];
    }
}"""


def send(page: Page, shop: Shop) -> tuple[int, str | None]:
    """An event by hand; 0 if there is no answer."""
    status, retry_after = page.evaluate(SEND, [shop.endpoint, json.dumps(event(entity_id=MOVIE))])
    return status, retry_after


def test_a_page_sends_an_event_from_either_place(each_shop: Shop, page: Page, finish: Finish) -> None:
    page.goto(each_shop.page("/", "<h1>A movie</h1>", tag=False))
    assert page.inner_text("h1") == "A movie"
    assert send(page, each_shop)[0] == 202
    finish.stores_hold({MOVIE: (1, 0)})


@pytest.mark.parametrize(
    ("fate", "answer", "views"),
    [
        (Fate.CUT, (0, None), 0),
        (Fate.LOSE_REPLY, (0, None), 1),
        (Fate.BUSY, (503, "1"), 0),
        (Fate.LIMITED, (429, "1"), 0),
    ],
)
def test_a_fault_comes_to_one_request(
    fate: Fate, answer: tuple[int, str | None], views: int, shop: Shop, page: Page, faults: FaultProxy, system: Stores
) -> None:
    page.goto(shop.page("/", tag=False))
    faults.script(fate)
    assert send(page, shop) == answer
    assert system.views() == views
    assert send(page, shop)[0] == 202
    assert [each.fate for each in faults.posts()] == [fate, Fate.PASS]


@pytest.mark.parametrize(("fate", "views"), [(Fate.HOLD_REQUEST, 0), (Fate.HOLD_REPLY, 1)])
def test_what_is_held_waits_for_its_release(
    fate: Fate, views: int, shop: Shop, page: Page, faults: FaultProxy, system: Stores
) -> None:
    page.goto(shop.page("/", tag=False))
    faults.script(fate)
    page.evaluate(f"(parts) => {{ window.sent = ({SEND})(parts) }}", [shop.endpoint, json.dumps(event())])
    faults.wait_for(fate)
    assert system.views() == views
    faults.release()
    assert page.evaluate("window.sent") == [202, None]
    assert system.views() == 1


def test_a_daemon_that_is_away_comes_back_at_its_address(shop: Shop, page: Page, faults: FaultProxy) -> None:
    page.goto(shop.page("/", tag=False))
    faults.refuse()
    assert send(page, shop)[0] == 0
    faults.restore()
    assert send(page, shop)[0] == 202


def test_the_same_seed_brings_the_same_faults(faults: FaultProxy) -> None:
    def fates(seed: int) -> list[Fate]:
        faults.at_random(seed, {Fate.LOSE_REPLY: 0.3, Fate.CUT: 0.2})
        return [next(faults._plan) for _ in range(50)]

    assert fates(7) == fates(7)
    assert set(fates(7)) == {Fate.LOSE_REPLY, Fate.CUT, Fate.PASS}
