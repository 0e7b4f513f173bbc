"""GET /dashboard: who gets the page and who does not, and how it is served. By either interface."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import signal
from collections.abc import Iterator
from urllib.parse import urljoin

import httpx
import pytest

from daemon.read.endpoint import PREFIX
from daemon.web import dashboard
from tests.kit.daemon import Daemon
from tests.kit.nginx import nginx, nginx_folder
from tests.kit.system import Ingest, System, wait_until
from tests.kit.wire import Wire, talk

OPERATOR, READER = "an-operator-s-key-of-today", "a-reader-s-key-of-today"
CONFIG = {"DASHBOARD__ENABLED": "true"}
KEYED = {**CONFIG, "DASHBOARD__KEY": "sha256:" + hashlib.sha256(OPERATOR.encode()).hexdigest(), "READ__KEY": READER}
TOTALS, STATUS, DEAD = (f"{PREFIX}{path}" for path in ("totals/jav/movie/a", "status", "dead"))


def basic(password: str, user: str = "anyone") -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def asked(url: str, *lines: str | bytes, path: str = dashboard.PATH) -> int:
    """The status of a GET with exactly these lines of a head, and the one that every browser sends."""
    head = (f"GET {path} HTTP/1.1", "Connection: keep-alive", *lines)
    raw = [line if isinstance(line, bytes) else line.encode() for line in head]
    return talk(url, b"\r\n".join(raw) + b"\r\n\r\n").status


@pytest.fixture(scope="module", params=["rsgi", "asgi"])
def keyed(shared_system: System, request: pytest.FixtureRequest) -> Iterator[Ingest]:
    with shared_system.ingest(**KEYED, HTTP__INTERFACE=request.param) as ingest:
        yield ingest


def test_a_browser_on_this_machine_needs_no_key(ingest: Ingest) -> None:
    for host in ("127.0.0.1:8080", "127.0.0.1", "localhost:1", "LOCALHOST", "127.9.8.7", "[::1]:8080"):
        assert asked(ingest.url, f"Host: {host}") == 200, host


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "127.1", "0.0.0.0", "localhost.", "x"]
)
def test_a_foreign_name_for_this_machine_is_refused(ingest: Ingest, host: str) -> None:
    """As a page does whose name was pointed at 127.0.0.1 (DNS rebinding)."""
    assert asked(ingest.url, f"Host: {host}:80") == 403
    assert [asked(ingest.url, f"Host: {host}:80", path=path) for path in (STATUS, DEAD)] == [401, 401]


def test_no_name_and_two_names_are_refused(ingest: Ingest) -> None:
    assert asked(ingest.url, "Host: ") == 403
    with Wire(ingest.url) as wire:
        wire.send(b"GET /dashboard HTTP/1.1\r\nConnection: keep-alive\r\nHost: 127.0.0.1\r\nHost: a.example\r\n\r\n")
        assert wire.answer().status in (400, 403)


@pytest.mark.parametrize("value", [b"127.0.0.1", b"", b"\xff\xfe", b"203.0.113.7, 127.0.0.1"])
@pytest.mark.parametrize("name", ["X-Forwarded-For", "forwarded", "X-Real-IP", "Via", "X-Forwarded-Host"])
def test_what_came_through_a_proxy_needs_a_key(ingest: Ingest, name: str, value: bytes) -> None:
    assert asked(ingest.url, "Host: 127.0.0.1", name.encode() + b": " + value) == 403


def test_the_refusal_says_how_to_get_in_and_asks_for_no_password(ingest: Ingest) -> None:
    """No password would help."""
    answer = ingest.client.get(dashboard.PATH, headers={"host": "shop.example", **basic(OPERATOR)})
    assert answer.status_code == 403
    assert "tallyd key new --operator" in answer.json()["message"]
    assert "www-authenticate" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"


def test_a_daemon_with_proxies_wants_a_key_from_this_machine_too(system: System) -> None:
    with system.ingest(**CONFIG, HTTP__TRUSTED_PROXIES='["127.0.0.1"]') as ingest:
        assert ingest.client.get(dashboard.PATH).status_code == 403


def test_a_unix_socket_is_not_loopback(system: System) -> None:
    with nginx_folder() as folder:
        path = folder / "s"
        with Daemon(system, "ingest", HTTP__UNIX_SOCKET=str(path), **CONFIG) as daemon:
            daemon.says("Ready: ")
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
                assert client.get("http://127.0.0.1/dashboard").status_code == 403


def test_an_operator_s_key_opens_it_in_three_spellings(keyed: Ingest) -> None:
    for headers in (
        {"x-tallyd-key": OPERATOR},
        {"authorization": f"bearer {OPERATOR}"},
        basic(OPERATOR),
        basic(OPERATOR, ""),
    ):
        for path in (dashboard.PATH, TOTALS, "/openapi.json"):
            assert keyed.client.get(path, headers=headers).status_code == 200, (headers, path)
    assert keyed.client.get(dashboard.PATH, headers={"host": "shop.example", **basic(OPERATOR)}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic(""),
        basic(READER),
        basic(OPERATOR + " "),
        basic(OPERATOR[:-1]),
        {"x-tallyd-key": READER},
        {"x-tallyd-key": hashlib.sha256(OPERATOR.encode()).hexdigest()},
        {"x-tallyd-key": KEYED["DASHBOARD__KEY"]},
        {"authorization": f"Basic {OPERATOR}"},
        {"authorization": "Basic"},
        {"authorization": "Basic ===="},
        {"authorization": "Basic " + "A" * 20_000},
        {"authorization": "Digest " + OPERATOR},
    ],
)
def test_nothing_else_opens_it(keyed: Ingest, headers: dict[str, str]) -> None:
    answer = keyed.client.get(dashboard.PATH, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith('Basic realm="tallyd"')


FOREIGN = (
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
)
"""What a browser says of a page of another origin that asks."""


@pytest.mark.parametrize("foreign", FOREIGN)
def test_another_page_does_not_ask_in_the_operator_s_name(keyed: Ingest, foreign: dict[str, str]) -> None:
    """A browser sends a password by itself. A page that has the key may use it, as any program."""
    for path in (dashboard.PATH, STATUS, TOTALS):
        assert keyed.client.get(path, headers={**basic(OPERATOR), **foreign}).status_code == 401
        assert keyed.client.get(path, headers={"x-tallyd-key": OPERATOR, **foreign}).status_code == 200
    assert keyed.client.get(TOTALS, headers={**basic(READER), **foreign}).status_code == 200


def test_a_link_from_another_page_leads_to_it(keyed: Ingest) -> None:
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert keyed.client.get(dashboard.PATH, headers={**basic(OPERATOR), **followed}).status_code == 200


def test_another_page_in_a_browser_on_this_machine_reads_nothing_that_needs_a_key(system: System) -> None:
    """Although `read.cors_origins` lets every page read with a key."""
    with system.ingest(**CONFIG, READ__KEY=READER, READ__CORS_ORIGINS='["*"]') as ingest:
        for path in (TOTALS, STATUS, "/openapi.json"):
            assert ingest.client.get(path).status_code == 200
            for foreign in FOREIGN:
                assert ingest.client.get(path, headers=foreign).status_code == 401
        own = {"origin": ingest.url, "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
        assert ingest.client.get(TOTALS, headers=own).status_code == 200


def test_a_reader_reads_with_basic_and_is_never_asked_for_a_password(keyed: Ingest) -> None:
    """A page that reads with a wrong key would make the browser ask its visitor."""
    assert keyed.client.get(TOTALS, headers=basic(READER)).status_code == 200
    refused = keyed.client.get(TOTALS, headers=basic("a-key-of-nobody-at-all"))
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer realm="tallyd"')


def test_what_an_operator_reads_is_compressed(keyed: Ingest) -> None:
    for key, wish, coding in (
        (OPERATOR, "gzip, br", "gzip"),
        (OPERATOR, "identity", None),
        (READER, "gzip, br", None),  # a reader cannot make a worker compress
    ):
        answer = keyed.client.get("/openapi.json", headers={**basic(key), "accept-encoding": wish})
        assert (answer.status_code, answer.headers.get("content-encoding")) == (200, coding)
        assert answer.json()["openapi"].startswith("3.")
        assert ("accept-encoding" in answer.headers.get("vary", "")) == (coding is not None)
    short = keyed.client.get(f"{PREFIX}summary/jav?days=90&top=0", headers=basic(OPERATOR))
    assert (short.headers["content-encoding"], len(short.json()["labels"])) == ("gzip", 90)


def test_an_operator_sees_it_while_others_of_his_address_are_refused(system: System) -> None:
    """As behind one proxy, or in one house."""
    with system.ingest(**KEYED, BUDGET__PER_MINUTE="20") as ingest:
        for _ in range(10):
            refused = ingest.client.get(TOTALS)
        assert refused.status_code == 429
        named = re.findall(r'src="(dashboard/[^"]+)"', ingest.client.get(dashboard.PATH, headers=basic(OPERATOR)).text)
        for path in (f"/{named[0]}", STATUS, TOTALS):
            assert ingest.client.get(path, headers=basic(OPERATOR)).status_code == 200
            assert ingest.client.get(path, headers=basic(READER)).status_code == 429


def test_no_other_page_may_frame_open_or_load_it(keyed: Ingest) -> None:
    answer = keyed.client.get(dashboard.PATH, headers=basic(OPERATOR))
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert "unsafe" not in answer.headers["content-security-policy"]
    told = {name: answer.headers[name] for name in answer.headers if name.startswith(("x-", "cross-", "referrer"))}
    assert told == {
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }
    assert answer.headers["cache-control"] == "private, no-cache"
    assert "access-control-allow-origin" not in answer.headers
    assert keyed.client.post(dashboard.PATH, headers=basic(OPERATOR)).status_code == 405


def test_its_files_are_kept_for_ever_and_the_page_is_asked_for_again(ingest: Ingest) -> None:
    page = ingest.client.get(dashboard.PATH)
    named = re.findall(r'(?:src|href)="(dashboard/[^"]+)"', page.text)
    assert len(named) >= 2, "the page names its files relatively"
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    again = ingest.client.get(dashboard.PATH, headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == page.headers["content-security-policy"]
    kinds = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    for name in named:
        file = ingest.client.get(f"/{name}")
        assert file.status_code == 200, name
        assert file.headers["content-type"] == f"{kinds[name.rpartition('.')[2]]}; charset=utf-8"
        assert file.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert file.headers["content-encoding"] == "gzip"
        assert file.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in file.headers
    for path in ("/dashboard/", "/dashboard/../dashboard.html", f"/{named[0]}/..", "/dashboard/app.js"):
        assert ingest.client.get(path).status_code == 404


def test_a_proxy_on_this_machine_that_nobody_declared_is_refused(system: System) -> None:
    """nginx as ops/proxy sets it up; and with a bare `proxy_pass`, which sends no header of a proxy, and asks for
    127.0.0.1 whatever name its client asked for."""
    with system.ingest(**CONFIG) as ingest:
        upstream = ingest.url.removeprefix("http://")
        with nginx_folder() as folder, nginx(folder, upstream, also="/dashboard") as url:
            for headers in ({}, {"host": "localhost"}, {"x-forwarded-for": "127.0.0.1"}):
                assert httpx.get(f"{url}/dashboard", headers=headers).status_code == 403
            assert asked(url, "Host: localhost", b"X-Forwarded-For: \xff") == 403
        # nginx 1.29.7 and newer do so by themselves.
        modern = 'proxy_http_version 1.1; proxy_set_header Connection "";'
        for bare in ("", modern):
            with nginx_folder() as folder, nginx(folder, upstream, bare=bare) as url:
                for path in (dashboard.PATH, STATUS, DEAD):
                    assert httpx.get(f"{url}{path}").status_code in (401, 403)
                    assert ingest.client.get(path).status_code == 200


def test_it_works_below_another_path_of_nginx(system: System) -> None:
    with (
        system.ingest(**KEYED, HTTP__TRUSTED_PROXIES='["127.0.0.1"]') as ingest,
        nginx_folder() as folder,
        nginx(folder, ingest.url.removeprefix("http://"), under="/stats/") as url,
        httpx.Client(auth=("me", OPERATOR)) as client,
    ):
        at = f"{url}/stats{dashboard.PATH}"
        assert httpx.get(at).status_code == 401
        page = client.get(at)
        named = re.findall(r'(?:src|href)="([^":]+)"', page.text)
        assert named
        for name in (*named, "api/v1/analytics/status", "api/v1/analytics/domains"):
            assert client.get(urljoin(at, name)).status_code == 200, name


def test_a_reload_switches_it_on_and_off_and_takes_another_key(system: System) -> None:
    file = system.scratch / "tallyd.toml"
    file.write_text("")
    with system.ingest(CONFIG=str(file)) as ingest:

        def becomes(status: int, text: str) -> None:
            file.write_text(text)
            ingest.send(signal.SIGHUP)
            wait_until(lambda: ingest.client.get(dashboard.PATH).status_code == status, f"it is answered {status}")

        assert ingest.client.get(dashboard.PATH).status_code == 404
        assert "/dashboard" not in ingest.client.get("/").text
        becomes(200, "[dashboard]\nenabled = true\n")
        assert "/dashboard, /openapi.json and /healthz" in ingest.client.get("/").json()["message"]
        becomes(401, f'[dashboard]\nenabled = true\nkey = "{OPERATOR}"\n')
        becomes(404, f'[dashboard]\nkey = "{OPERATOR}"\n')
        assert ingest.client.get(f"{dashboard.PATH}/app.js").status_code == 404


def test_the_root_of_a_demo_leads_to_it(system: System) -> None:
    with system.ingest(**CONFIG, DASHBOARD__DEMO="true") as ingest:
        answer = ingest.client.get("/")
        assert (answer.status_code, answer.headers["location"]) == (303, "dashboard")
        assert "<html data-demo " in ingest.client.get(dashboard.PATH).text


def test_another_root_leads_nowhere(ingest: Ingest) -> None:
    assert ingest.client.get("/").status_code == 404
    assert "data-demo" not in ingest.client.get(dashboard.PATH).text


def test_an_operator_s_key_is_made_listed_expires_and_is_revoked(system: System) -> None:
    file = system.scratch / "keys.json"
    env = {**CONFIG, "KEYS__FILE": str(file)}

    def tallyd(*args: str) -> str:
        code, said = system.tallyd_here("key", *args, **env)
        assert code == 0
        return said.splitlines()[0] if args[0] == "new" else said

    key, old = tallyd("new", "boss", "--operator"), tallyd("new", "past", "--operator", "--expires", "2026-01-01")
    assert {each["kind"] for each in json.loads(tallyd("list", "--json"))} == {"operator"}
    for more in (("--domain", "jav"), ("--read",)):
        assert system.tallyd_here("key", "new", "x", "--operator", *more, **env)[0] == 2
    with system.ingest(**env) as ingest:
        assert [ingest.client.get(dashboard.PATH, headers=basic(each)).status_code for each in (key, old)] == [200, 401]
        assert ingest.client.get(TOTALS).status_code == 200, "reads are still open to all"
        tallyd("revoke", key.partition(".")[0])
        before = ingest.text().count("Reloaded; ")
        ingest.send(signal.SIGHUP)
        wait_until(lambda: ingest.text().count("Reloaded; ") > before, "it is reloaded")
        assert ingest.client.get(dashboard.PATH, headers=basic(key)).status_code == 401, (
            "with its last key it does not become public"
        )
