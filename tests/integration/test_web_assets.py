"""The tracker's files, as the ingest daemon serves them to browsers of any page, by either interface."""

from __future__ import annotations

import gzip
import hashlib
import signal
from pathlib import Path

import httpx
import pytest

import daemon
from tests.kit.system import Ingest, System, event, wait_until

CONFIG = {"BROWSER__SCRIPT": "/js/s.js", "BROWSER__ALIAS": "/t", "BROWSER__ORIGINS": '["https://shop.example"]'}
WEB = Path(daemon.__file__ or "").parent / "web"
SOURCE, BUILT, COUNTS = (
    WEB / name for name in ("tracker/analytics.js", "static/analytics.min.js", "tracker/counts.js")
)
HASH = hashlib.sha256(BUILT.read_bytes()).hexdigest()[:12]
LATEST, FOR_EVER = "public, max-age=3600, stale-while-revalidate=86400", "public, max-age=31536000, immutable"
NAMES = {
    "/analytics.js": (SOURCE, LATEST),
    "/analytics.min.js": (BUILT, LATEST),
    "/analytics.v1.js": (BUILT, LATEST),
    f"/analytics.{HASH}.js": (BUILT, FOR_EVER),
    "/js/s.js": (BUILT, LATEST),
    f"/js/s.{HASH}.js": (BUILT, FOR_EVER),
    "/counts.js": (COUNTS, LATEST),
    "/js/counts.js": (COUNTS, LATEST),
}
each_name = pytest.mark.parametrize("path", NAMES)


def raw(ingest: Ingest, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """The answer, to a client that accepts no compression unless `headers` say so. `_` for `-`."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return ingest.client.request(method, path, headers={"accept-encoding": "identity", **given})


@each_name
def test_a_file_is_served_with_what_each_browser_needs(ingest: Ingest, path: str) -> None:
    file, keep = NAMES[path]
    answer = raw(ingest, path)
    assert (answer.status_code, answer.content) == (200, file.read_bytes())
    told = {name: value for name, value in answer.headers.items() if name not in ("date", "server", "etag")}
    assert told == {
        "content-type": "text/javascript; charset=utf-8",
        "content-length": str(len(answer.content)),
        "cache-control": keep,
        "vary": "accept-encoding",
        "access-control-allow-origin": "*",
        "cross-origin-resource-policy": "cross-origin",
        "x-content-type-options": "nosniff",
    }


@each_name
def test_it_is_compressed_for_a_client_that_takes_it(ingest: Ingest, path: str) -> None:
    with ingest.client.stream("GET", path, headers={"accept-encoding": "gzip, deflate, br, zstd"}) as answer:
        body = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert int(answer.headers["content-length"]) == len(body)
    assert gzip.decompress(body) == NAMES[path][0].read_bytes()
    assert answer.headers["etag"] != raw(ingest, path).headers["etag"]


@each_name
@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_a_file_that_is_known_is_not_sent_again(ingest: Ingest, path: str, coding: str) -> None:
    found = raw(ingest, path, accept_encoding=coding)
    tag = found.headers["etag"]
    assert not tag.startswith("W/")
    for known in (tag, f'W/{tag}, "x"'):
        again = raw(ingest, path, accept_encoding=coding, if_none_match=known)
        assert (again.status_code, again.content) == (304, b"")
        for name in ("etag", "cache-control", "vary", "access-control-allow-origin", "cross-origin-resource-policy"):
            assert again.headers[name] == found.headers[name]
    assert raw(ingest, path, accept_encoding=coding, if_none_match='"x"').status_code == 200


def test_a_head_is_answered_like_a_get_without_the_file(ingest: Ingest) -> None:
    get, head = (raw(ingest, "/analytics.min.js", method) for method in ("GET", "HEAD"))
    assert (head.status_code, head.content) == (200, b"")
    assert {**head.headers, "date": ""} == {**get.headers, "date": ""}


def test_a_file_cannot_be_posted_to_and_no_other_is_served(ingest: Ingest) -> None:
    answer = raw(ingest, "/analytics.min.js", "POST")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    for path in ("/analytics.000000000000.js", "/analytics.v2.js", "/analytics.min.js/", "/js/../analytics.py", "/js/"):
        assert raw(ingest, path).status_code == 404


def test_a_file_does_not_depend_on_the_page(ingest: Ingest) -> None:
    """So that one copy in a cache serves all."""
    for origin in ("https://shop.example", "https://evil.example"):
        answer = raw(ingest, "/analytics.min.js", origin=origin)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["vary"] == "accept-encoding"


def test_a_reload_takes_the_names_away_and_events_stay(system: System) -> None:
    file = system.scratch / "tallyd.toml"
    file.write_text('[browser]\nscript = "/s.js"\nalias = "/t"\n')
    with system.ingest(CONFIG=str(file)) as ingest:
        assert [raw(ingest, path).status_code for path in ("/analytics.js", "/s.js")] == [200, 200]
        file.write_text('[browser]\nscript = "/other.js"\nalias = "/t"\n')
        ingest.send(signal.SIGHUP)
        wait_until(lambda: raw(ingest, "/other.js").status_code == 200, "the new name is served")
        assert raw(ingest, "/s.js").status_code == 404
        file.write_text('[browser]\ntracker = false\nscript = "/other.js"\nalias = "/t"\n')
        ingest.send(signal.SIGHUP)
        wait_until(lambda: raw(ingest, "/other.js").status_code == 404, "the tracker is off")
        assert {raw(ingest, path).status_code for path in NAMES} == {404}
        assert ingest.post(event(), "/t").status_code == 202


def test_a_file_costs_its_sender_something(system: System) -> None:
    with system.ingest(BUDGET__PER_MINUTE="10") as ingest:
        answers = [raw(ingest, "/analytics.min.js") for _ in range(12)]
    assert [answer.status_code for answer in answers[:10]] == [200] * 10
    assert answers[-1].status_code == 429
    assert "retry-after" in answers[-1].headers


def test_a_file_is_not_served_under_a_foreign_host_name(system: System) -> None:
    with system.ingest(HTTP__HOSTS='["127.0.0.1"]') as ingest:
        assert raw(ingest, "/analytics.js").status_code == 200
        assert raw(ingest, "/analytics.js", host="evil.example").status_code == 421


def test_a_daemon_without_stores_serves_them(system: System) -> None:
    env = {"REDIS__URL": "redis://127.0.0.1:1/0", "MONGO__URL": "", "SPOOL__DIR": ""}
    with system.ingest(**env) as ingest:
        assert raw(ingest, "/analytics.js").status_code == 200
