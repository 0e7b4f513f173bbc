"""Browsers: pages of named origins may send events, and read every answer to them; the alias takes the same bodies."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import httpx
import pytest

from tests.kit.system import BATCH, EVENTS, Ingest, System, event
from tests.kit.wire import Wire, request

SHOP, PRESS, EVIL = "https://shop.example", "http://press.example:8080", "https://evil.example"
KEY = "a-shop-s-key-0123"
CONFIG = {
    "BROWSER__ORIGINS": json.dumps([SHOP, PRESS]),
    "BROWSER__ALIAS": "/t",
    "PRODUCERS__KEYS": json.dumps({"shop": KEY}),
    "HTTP__EVENT_BYTES_MAX": "400",
}
PATHS = (EVENTS, "/t", BATCH, "/t/batch")
CORS = ("access-control-", "vary")
EXPOSED = "retry-after, x-tallyd-duplicate, x-ratelimit-limit, x-ratelimit-remaining"


def cors(answer: httpx.Response) -> dict[str, str]:
    """All of them but what is exposed, which is checked here: an answer exposes what it has."""
    found = {name: value for name, value in answer.headers.items() if name.startswith(CORS)}
    exposes = "access-control-allow-origin" in found and any(name in answer.headers for name in EXPOSED.split(", "))
    assert found.pop("access-control-expose-headers", None) == (EXPOSED if exposes else None)
    return found


def allowed(origin: str) -> dict[str, str]:
    return {"access-control-allow-origin": origin, "vary": "origin"}


def post(ingest: Ingest, path: str = EVENTS, origin: str = "", **headers: str) -> httpx.Response:
    body = json.dumps([event()] if path.endswith("batch") else event()).encode()
    return ingest.post(body, path, headers={"origin": origin, **headers} if origin else headers)


@pytest.mark.parametrize("path", PATHS)
def test_a_page_of_a_named_origin_sends_events_and_reads_the_answer(ingest: Ingest, path: str) -> None:
    for origin in (SHOP, PRESS):
        answer = post(ingest, path, origin, **{"content-type": "text/plain;charset=UTF-8"})
        assert (answer.status_code, cors(answer)) == (202, allowed(origin))


def test_a_page_is_told_of_a_duplicate(ingest: Ingest) -> None:
    same = json.dumps(event()).encode()
    for duplicate in (None, "1", "1"):
        answer = ingest.post(same, headers={"origin": SHOP})
        assert (answer.status_code, cors(answer)) == (202, allowed(SHOP))
        assert answer.headers.get("x-tallyd-duplicate") == duplicate


@pytest.mark.parametrize("path", PATHS)
def test_events_of_another_page_are_refused_and_not_counted(ingest: Ingest, shared_system: System, path: str) -> None:
    for origin in (EVIL, "null", SHOP + ".evil.example", "http://shop.example"):
        answer = post(ingest, path, origin)
        assert (answer.status_code, cors(answer)) == (403, {"vary": "origin"})
    assert shared_system.ledger() == {}


@pytest.mark.parametrize("path", PATHS)
def test_a_program_and_a_page_of_our_own_are_not_asked(ingest: Ingest, path: str) -> None:
    own = f"https://{ingest.url.removeprefix('http://')}"
    for origin in ("", own):
        answer = post(ingest, path, origin)
        assert (answer.status_code, cors(answer)) == (202, {"vary": "origin"})


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (400, b"{", {}),
        (422, b"{}", {}),
        (413, b" " * 401, {}),
        (415, b"{}", {"content-type": "image/png"}),
        (401, b"{}", {"x-tallyd-key": "nobody-s-key-0123"}),
    ],
)
def test_a_refusal_can_be_read_too(ingest: Ingest, status: int, body: bytes, headers: dict[str, str]) -> None:
    for path in (EVENTS, "/t"):
        answer = ingest.post(body, path, headers={"origin": SHOP, **headers})
        assert (answer.status_code, cors(answer)) == (status, allowed(SHOP))
    answer = ingest.client.get(EVENTS, headers={"origin": SHOP})
    assert (answer.status_code, cors(answer)) == (405, allowed(SHOP))


@pytest.mark.parametrize("path", PATHS)
def test_a_preflight_is_answered(ingest: Ingest, path: str) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    answer = ingest.client.options(path, headers={"origin": SHOP, **asked})
    assert (answer.status_code, answer.content) == (204, b"")
    assert cors(answer) == {
        **allowed(SHOP),
        "access-control-allow-methods": "POST",
        "access-control-allow-headers": "content-type, x-tallyd-key",
        "access-control-max-age": "7200",
    }
    answer = ingest.client.options(path, headers={"origin": EVIL, **asked})
    assert (answer.status_code, cors(answer)) == (204, {"vary": "origin"})


def test_other_paths_say_nothing_of_origins(ingest: Ingest) -> None:
    for path in ("/healthz", "/nothing", "/api/v1/analytics/totals/jav/movie/a"):
        answer = ingest.client.get(path, headers={"origin": SHOP})
        assert not cors(answer), path
    assert ingest.client.options("/healthz", headers={"origin": SHOP}).status_code == 405


def test_the_alias_takes_what_the_path_takes(ingest: Ingest, shared_system: System) -> None:
    assert ingest.post(event(event_id="one"), "/t").status_code == 202
    assert ingest.post(event(event_id="one")).status_code == 202
    assert ingest.post([event(event_id="one"), event()], "/t/batch").json()["duplicates"] == 1
    lines = b"\n".join(json.dumps(event()).encode() for _ in range(3))
    answer = ingest.post(lines, "/t/batch", headers={"content-type": "application/x-ndjson"})
    assert answer.json()["accepted"] == 3
    assert ingest.post(event(), "/t", headers={"x-tallyd-key": KEY}).status_code == 202
    assert [ingest.client.get(path).status_code for path in ("/t", "/t/", "/tt", "/t/batch")] == [405, 404, 404, 405]
    assert shared_system.ledger()["accepted:view"] == 6


@pytest.fixture(scope="module", params=["rsgi", "asgi"])
def open_to_all(shared_system: System, request: pytest.FixtureRequest) -> Iterator[Ingest]:
    """A daemon for pages of any origin, under two names, that takes two events a minute from an address."""
    env = {
        "BROWSER__ORIGINS": '["*"]',
        "RATE_LIMIT__PER_MINUTE": "2",
        "HTTP__HOSTS": '["127.0.0.1", "[::1]", "a.example"]',
    }
    with shared_system.ingest(HTTP__INTERFACE=request.param, **env) as ingest:
        yield ingest


def test_a_page_of_any_origin_reads_the_answer_and_when_to_come_again(open_to_all: Ingest) -> None:
    answers = [post(open_to_all, EVENTS, EVIL) for _ in range(4)]
    assert answers[-1].status_code == 429
    everybody = {"access-control-allow-origin": "*"}
    assert [cors(each) for each in answers] == [everybody] * 4
    assert {"retry-after", "x-ratelimit-limit", "x-ratelimit-reset"} <= answers[-1].headers.keys()
    assert answers[-1].headers["x-ratelimit-remaining"] == "0"
    preflight = open_to_all.client.options(EVENTS, headers={"origin": EVIL})
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, "*")


def test_a_foreign_host_name_is_not_answered(open_to_all: Ingest) -> None:
    body = json.dumps(event()).encode()
    with Wire(open_to_all.url) as wire:
        for host, known in (
            ("a.example", True),
            ("A.Example:8080", True),
            ("[::1]:99", True),
            ("evil.example", False),
            ("evil.example:127.0.0.1", False),
        ):
            wire.send(request(body).replace(b"host: t", b"host: " + host.encode()))
            assert (wire.answer().status != 421) == known, host
    assert open_to_all.client.get("/openapi.json", headers={"host": "evil.example"}).status_code == 421
    assert open_to_all.client.get("/healthz", headers={"host": "evil.example"}).status_code == 200


def test_without_origins_a_browser_is_told_nothing(system: System) -> None:
    with system.ingest() as ingest:
        answer = post(ingest, EVENTS, EVIL)
        assert (answer.status_code, cors(answer)) == (202, {})
        assert ingest.client.options(EVENTS, headers={"origin": EVIL}).status_code == 405


def test_an_answer_of_a_daemon_without_redis_can_be_read(system: System) -> None:
    env = {"BROWSER__ORIGINS": json.dumps([SHOP]), "REDIS__URL": "redis://127.0.0.1:1/0", "SPOOL__DIR": ""}
    with system.ingest(**env) as ingest:
        answer = post(ingest, EVENTS, SHOP)
        assert (answer.status_code, cors(answer)) == (503, allowed(SHOP))


@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_an_event_that_is_on_its_way_while_a_reload_names_origins_is_answered(system: System, interface: str) -> None:
    file = system.scratch / "tallyd.toml"
    file.write_text("")
    body = json.dumps(event()).encode()
    whole = request(body, origin=SHOP)
    with system.ingest(CONFIG=str(file), HTTP__INTERFACE=interface) as ingest, Wire(ingest.url) as wire:
        wire.send(whole[:-1])
        # Its head has been taken once a later request on another connection is answered.
        assert ingest.post(event()).status_code == 202
        file.write_text(f'[browser]\norigins = ["{SHOP}"]\n')
        ingest.send(signal.SIGHUP)
        ingest.says("Reloaded")
        wire.send(whole[-1:])
        answer = wire.answer()
    assert answer.status == 202
    assert answer.headers["access-control-allow-origin"] == SHOP
