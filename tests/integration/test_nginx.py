"""tallyd behind a real nginx, with the file of ops/proxy: each client has its own limit, and no answer is nginx'."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.kit.daemon import Daemon
from tests.kit.nginx import IDLE_S, nginx, nginx_folder
from tests.kit.system import EVENTS, Ingest, System, event
from tests.kit.wire import Wire, request


@pytest.fixture
def folder() -> Iterator[Path]:
    with nginx_folder() as made:
        yield made


def sent(url: str, address: str, **headers: str) -> int:
    """The status of an event of a client with this address."""
    with httpx.Client(base_url=url, transport=httpx.HTTPTransport(local_address=address), timeout=30) as client:
        return client.post(EVENTS, json=event(), headers=headers).status_code


@pytest.fixture(params=["unix", "tcp"])
def behind(system: System, folder: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, Daemon]]:
    """The URL of nginx, and the daemon behind it, which takes one event a minute from an address."""
    env = {"RATE_LIMIT__PER_MINUTE": "1", "HTTP__TRUSTED_PROXIES": '["unix", "127.0.0.1"]'}
    if request.param == "tcp":
        with system.ingest(**env) as ingest, nginx(folder, ingest.url.removeprefix("http://")) as url:
            yield url, ingest
        return
    path = folder / "ingest.sock"
    with Daemon(system, "ingest", HTTP__UNIX_SOCKET=str(path), **env) as daemon:
        daemon.says("Ready: ")
        path.chmod(0o666)  # nginx' workers are nobody's
        with nginx(folder, f"unix:{path}") as url:
            yield url, daemon


def test_a_hundred_clients_behind_nginx_have_a_limit_each(behind: tuple[str, Daemon], system: System) -> None:
    url, daemon = behind
    clients = [f"127.0.9.{number}" for number in range(1, 101)]
    assert [sent(url, client) for client in clients] == [202] * 100
    assert system.ledger() == {"accepted:view": 100}
    forged = {"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7"}
    assert [sent(url, client, **forged) for client in clients[:5]] == [429] * 5, (
        "what a client writes counts for nothing"
    )
    if isinstance(daemon, Ingest):
        statuses = [sent(daemon.url, "127.0.10.1", **{"X-Forwarded-For": f"203.0.113.{number}"}) for number in range(2)]
        assert statuses == [202, 429], "nor what one writes that is no proxy"


def test_no_request_meets_a_connection_that_is_closing(system: System, folder: Path) -> None:
    bursts, each = 5, 400
    with (
        system.ingest(HTTP__TRUSTED_PROXIES='["127.0.0.1"]') as ingest,
        nginx(folder, ingest.url.removeprefix("http://")) as url,
    ):
        for _ in range(bursts):
            with Wire(url) as wire:
                for _ in range(each):
                    wire.send(request(json.dumps(event()).encode()))
                    assert wire.answer().status == 202
            time.sleep(IDLE_S + 0.1)  # nginx closes what is idle
        assert "upstream" not in (folder / "error.log").read_text()
    assert system.views() == bursts * each
