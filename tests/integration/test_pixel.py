"""The pixel and the badge: images of the ingest daemon that count, and show a count. Both are off by default."""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import Iterator
from urllib.parse import urlencode
from xml.etree import ElementTree

import httpx
import pytest

from tests.kit.system import EVENTS, Ingest, System, event, wait_until
from tests.kit.wire import assert_unavailable

SHOP, EVIL = "https://shop.example", "https://evil.example"
PERSON = "Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0"
ROBOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
READ_KEY = "a-reader-s-key-0123"
CONFIG = {
    "BROWSER__PIXEL": "/p.gif",
    "BROWSER__BADGE": "/b.svg",
    "BROWSER__ORIGINS": json.dumps([SHOP]),
    "READ__KEY": READ_KEY,
    "READ__CACHE_TTL_MS": "0",
    "ACTIONS": json.dumps(
        {"rating": {"value_max": 5, "counters": {"rating_count": "one", "rating_sum": "value"}}, "favorite": {}}
    ),
    "DOMAINS": json.dumps({"jav": {"entity_types": ["movie"], "entity_id": {"movie": "[a-z0-9-]+"}}}),
}
MOVIE = {"d": "jav", "t": "movie", "id": "m", "a": "view"}


def pixel(ingest: Ingest, method: str = "GET", agent: str = PERSON, /, **parameters: str) -> httpx.Response:
    """The answer to MOVIE with these parameters. Those that begin with `h_` are headers, `_` for `-`."""
    headers = {
        name.removeprefix("h_").replace("_", "-"): parameters.pop(name)
        for name in list(parameters)
        if name.startswith("h_")
    }
    query = urlencode({name: value for name, value in {**MOVIE, **parameters}.items() if value})
    return ingest.client.request(method, f"/p.gif?{query}", headers={"user-agent": agent, **headers})


def test_a_pixel_counts_each_time_and_nobody_keeps_it(ingest: Ingest, shared_system: System) -> None:
    for _ in range(3):
        answer = pixel(ingest)
        assert (answer.status_code, answer.content[:6]) == (200, b"GIF89a")
    assert answer.headers["content-type"] == "image/gif"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert pixel(ingest, a="favorite", id="other").status_code == 200
    assert shared_system.ledger() == {"accepted:view": 3, "accepted:favorite": 1}


@pytest.mark.parametrize("agent", [ROBOT, "curl/8.5.0", ""])
def test_a_robot_gets_the_image_and_does_not_count(ingest: Ingest, shared_system: System, agent: str) -> None:
    assert pixel(ingest, "GET", agent).content[:6] == b"GIF89a"
    assert shared_system.ledger() == {}


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("sec_purpose", "prefetch"),
        ("sec_purpose", "prefetch;prerender"),
        ("purpose", "prefetch"),
        ("x_moz", "prefetch"),
    ],
)
def test_a_prefetch_does_not_count(ingest: Ingest, shared_system: System, header: str, value: str) -> None:
    assert pixel(ingest, **{f"h_{header}": value}).content[:6] == b"GIF89a"
    assert shared_system.ledger() == {}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"d": "shop"}, "domain"),
        ({"t": ""}, "entity_type"),
        ({"id": "A B"}, "entity_id"),
        ({"id": ""}, "entity_id"),
        ({"a": "vote"}, "action"),
        ({"a": "rating"}, "action"),
    ],
)
def test_a_wrong_pixel_is_refused_like_a_wrong_event(
    ingest: Ingest, shared_system: System, wrong: dict[str, str], field: str
) -> None:
    answer = pixel(ingest, **wrong)
    assert answer.status_code == 422
    assert list(answer.json()["errors"]) == [field]
    assert shared_system.ledger() == {}


def test_a_pixel_with_an_unknown_key_is_refused_like_such_an_event(ingest: Ingest, shared_system: System) -> None:
    assert pixel(ingest, h_x_tallyd_key="an-unknown-key-0123").status_code == 401
    assert shared_system.ledger() == {}


def test_other_parameters_mean_nothing(ingest: Ingest, shared_system: System) -> None:
    """Neither an event's own fields, nor what a page adds to be served anew."""
    assert pixel(ingest, _="17", event_id="e", value="7", occurred_at="2020-01-01T00:00:00Z").status_code == 200
    assert pixel(ingest, event_id="e").status_code == 200
    assert shared_system.ledger() == {"accepted:view": 2}
    assert ingest.client.get("/p.gif?d=%ff", headers={"user-agent": PERSON}).status_code == 422


def test_only_a_get_counts(ingest: Ingest, shared_system: System) -> None:
    for method in ("HEAD", "POST", "OPTIONS"):
        assert pixel(ingest, method).status_code == 405
    assert shared_system.ledger() == {}


@pytest.mark.parametrize(
    ("headers", "is_counted"),
    [
        ({}, True),
        ({"h_referer": f"{SHOP}/page?a=b"}, True),
        ({"h_referer": f"{SHOP}/", "h_sec_fetch_site": "cross-site"}, True),
        ({"h_referer": "http://count.example/", "h_host": "count.example"}, True),
        ({"h_sec_fetch_site": "same-origin"}, True),
        ({"h_referer": f"{EVIL}/{SHOP}"}, False),
        ({"h_referer": f"{SHOP}.evil.example/"}, False),
        ({"h_sec_fetch_site": "cross-site"}, False),
        ({"h_sec_fetch_site": "same-site"}, False),
        ({"h_referer": "http://["}, False),
    ],
)
def test_a_pixel_of_a_foreign_page_does_not_count(
    ingest: Ingest, shared_system: System, headers: dict[str, str], is_counted: bool
) -> None:
    assert pixel(ingest, **headers).status_code == (200 if is_counted else 403)
    assert bool(shared_system.ledger()) == is_counted


@pytest.fixture(scope="module", params=["rsgi", "asgi"])
def limited(shared_system: System, request: pytest.FixtureRequest) -> Iterator[Ingest]:
    """A daemon that takes three events a minute from an address."""
    env = {**CONFIG, "RATE_LIMIT__PER_MINUTE": "3", "HTTP__INTERFACE": request.param}
    with shared_system.ingest(**env) as ingest:
        yield ingest


def test_a_pixel_is_one_of_its_senders_events(limited: Ingest, shared_system: System) -> None:
    shared_system.redis.flushall()
    assert limited.post(event()).status_code == 202
    statuses = [pixel(limited).status_code for _ in range(5)]
    assert statuses[:2] == [200, 200]
    assert statuses[-1] == 429
    assert limited.post(event()).status_code == 429
    assert shared_system.ledger() == {"accepted:view": 3}


@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_robots_are_counted_apart_if_others_are(system: System, interface: str) -> None:
    with system.ingest(BROWSER__ROBOTS="apart", HTTP__INTERFACE=interface, **CONFIG) as ingest:
        assert [pixel(ingest, "GET", agent).status_code for agent in (PERSON, ROBOT)] == [200, 200]
        assert ingest.post(event(entity_id="m"), EVENTS, headers={"user-agent": ROBOT}).status_code == 202
    assert system.ledger() == {"accepted:view": 1, "accepted:view_robot": 2}


def test_a_visitors_second_look_is_a_raw_count(system: System) -> None:
    actions = {**CONFIG, "ACTIONS": json.dumps({"view": {"visitor_window_s": 30}})}
    with system.ingest(**actions) as ingest:
        assert [pixel(ingest).status_code for _ in range(3)] == [200] * 3
    assert system.ledger() == {"accepted:view": 1, "accepted:view_raw": 3}


def test_a_pixel_that_cannot_be_counted_says_so(system: System) -> None:
    with system.ingest(**{**CONFIG, "REDIS__URL": "redis://127.0.0.1:1/0", "SPOOL__DIR": ""}) as ingest:
        assert_unavailable(pixel(ingest), 1)


def test_without_the_keys_there_are_no_images_and_a_reload_brings_them(system: System) -> None:
    file = system.scratch / "tallyd.toml"
    file.write_text("")
    with system.ingest(CONFIG=str(file)) as ingest:
        assert [ingest.client.get(path).status_code for path in ("/p.gif", "/b.svg")] == [404, 404]
        file.write_text('[browser]\npixel = "/p.gif"\nbadge = "/b.svg"\n')
        ingest.send(signal.SIGHUP)
        wait_until(lambda: pixel(ingest).status_code == 200, "the pixel is served")
        file.write_text("")
        ingest.send(signal.SIGHUP)
        wait_until(lambda: pixel(ingest).status_code == 404, "the pixel is off")


# The badge -----------------------------------------------------------------------------------------------------------


def badge(ingest: Ingest, **parameters: str) -> httpx.Response:
    query = urlencode({"d": "jav", "t": "movie", "id": "m", **parameters})
    return ingest.client.get(f"/b.svg?{query}")


def texts(answer: httpx.Response) -> list[str | None]:
    assert answer.status_code == 200
    return [each.text for each in ElementTree.fromstring(answer.content).iter("{http://www.w3.org/2000/svg}text")]


def test_a_badge_shows_a_count_to_everybody(ingest: Ingest, shared_system: System) -> None:
    movie = secrets.token_hex(4)
    for _ in range(3):
        pixel(ingest, id=movie)
    shared_system.flush(**CONFIG)
    answer = badge(ingest, id=movie)
    assert texts(answer) == ["view", "3"]
    assert texts(badge(ingest, id=movie, c="favorite", label="<b>&")) == ["<b>&", "0"]
    assert texts(badge(ingest, id="nobody-s")) == ["view", "0"]
    assert answer.headers["content-type"] == "image/svg+xml; charset=utf-8"
    assert answer.headers["cache-control"] == "max-age=60"
    assert answer.headers["content-security-policy"] == "default-src 'none'"
    assert ingest.client.get("/api/v1/analytics/totals/jav/movie/m").status_code == 401, "readers still need the key"


@pytest.mark.parametrize(
    ("parameters", "status"), [({"d": "shop"}, 404), ({"t": "song"}, 404), ({"id": ""}, 422), ({"c": "likes"}, 422)]
)
def test_a_badge_of_nothing_says_why(ingest: Ingest, parameters: dict[str, str], status: int) -> None:
    assert badge(ingest, **parameters).status_code == status


def test_a_badge_is_a_read_that_costs_its_sender(system: System) -> None:
    with system.ingest(**{**CONFIG, "BUDGET__PER_MINUTE": "50"}) as ingest:
        statuses = [badge(ingest).status_code for _ in range(7)]
    assert statuses[:5] == [200] * 5
    assert statuses[-1] == 429


def test_a_badge_without_reads_is_not_there(system: System) -> None:
    with system.ingest(**{**CONFIG, "READ__ENABLED": "false"}) as ingest:
        assert badge(ingest).status_code == 404
