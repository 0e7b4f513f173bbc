"""Behind a trusted proxy each client has a limit of its own, and nobody else can speak for a client."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import httpx
import pytest

from tests.kit.system import EVENTS, Ingest, System, event

CONFIG = {
    "HTTP__TRUSTED_PROXIES": '["127.0.0.1", "127.0.1.0/24"]',
    "RATE_LIMIT__PER_MINUTE": "5",
}
_numbers = itertools.count(1)


@pytest.fixture
def client() -> str:
    """The address of a client nobody has met."""
    return f"198.51.{next(_numbers)}.7"


def sent(
    ingest: Ingest, count: int, *lines: str, peer: str = "127.0.0.1", header: str = "x-forwarded-for"
) -> list[int]:
    """The statuses of that many events, sent from `peer` with these lines of the header."""
    with httpx.Client(base_url=ingest.url, transport=httpx.HTTPTransport(local_address=peer)) as connected:
        headers = [(header.encode(), line.encode()) for line in lines]
        return [connected.post(EVENTS, json=event(), headers=headers).status_code for _ in range(count)]


def test_a_hundred_clients_behind_a_proxy_have_a_limit_each(ingest: Ingest) -> None:
    assert {status for number in range(100) for status in sent(ingest, 1, f"203.0.113.{number}")} == {202}


def test_a_client_behind_a_proxy_has_one_limit(ingest: Ingest, client: str, shared_system: System) -> None:
    assert sent(ingest, 6, client) == [202] * 5 + [429]
    assert sent(ingest, 1, f"{client}, 127.0.1.9") == [429], "also by way of two proxies"
    assert sent(ingest, 1, "6.6.6.6", client) == [429], "and with a line of its own"
    assert sent(ingest, 1, client, "127.0.1.9") == [429]
    assert list(shared_system.redis.scan_iter("anl:{0}:rate:*")) == [f"anl:{{0}}:rate:{client}".encode()]


def test_a_forged_header_of_an_untrusted_peer_is_ignored(ingest: Ingest) -> None:
    peer = f"127.0.2.{next(_numbers)}"
    assert [sent(ingest, 1, f"203.0.114.{number}", peer=peer)[0] for number in range(6)] == [202] * 5 + [429]


def test_an_ipv6_client_behind_a_proxy_counts_by_its_network(ingest: Ingest) -> None:
    network = f"2001:db8:{next(_numbers)}:1"
    assert [sent(ingest, 1, f"[{network}::{number}]:99")[0] for number in range(6)] == [202] * 5 + [429]


def test_a_hop_that_says_nothing_makes_its_proxy_pay(ingest: Ingest, client: str) -> None:
    proxy = f"127.0.1.{next(_numbers)}"
    assert sent(ingest, 5, f"{client}, unknown", peer=proxy) == [202] * 5
    assert sent(ingest, 1, f"{client}, é", peer=proxy) == [429]
    assert sent(ingest, 1, client, peer=proxy) == [202]


def test_a_header_that_is_not_configured_counts_for_nothing(ingest: Ingest, client: str) -> None:
    proxy = f"127.0.1.{next(_numbers)}"
    assert sent(ingest, 5, f"for={client}", peer=proxy, header="forwarded") == [202] * 5
    assert sent(ingest, 1, "for=203.0.115.1", peer=proxy, header="forwarded") == [429]


@pytest.fixture(scope="module", params=["rsgi", "asgi"])
def untrusting(shared_system: System, request: pytest.FixtureRequest) -> Iterator[Ingest]:
    """A daemon that trusts no proxy."""
    with shared_system.ingest(HTTP__INTERFACE=request.param, RATE_LIMIT__PER_MINUTE="5") as ingest:
        yield ingest


def test_a_proxy_that_nobody_trusts_shares_one_limit_and_the_log_says_so_once(untrusting: Ingest) -> None:
    visitor, proxy = (f"127.0.3.{next(_numbers)}" for _ in range(2))
    assert sent(untrusting, 7, peer=visitor) == [202] * 5 + [429] * 2
    assert "trusted_proxies" not in untrusting.text(), "nobody named a client"
    statuses = [sent(untrusting, 1, f"203.0.113.{number}", peer=proxy)[0] for number in range(8)]
    assert statuses == [202] * 5 + [429] * 3
    untrusting.says(f"http.trusted_proxies is empty, and {proxy} sends X-Forwarded-For")
    assert untrusting.text().count("trusted_proxies") == 1


def test_the_standard_header_is_read_where_it_is_configured(shared_system: System, client: str) -> None:
    with shared_system.ingest(**{**CONFIG, "HTTP__FORWARDED_HEADER": "forwarded"}) as ingest:
        proxy = f"127.0.1.{next(_numbers)}"
        assert sent(ingest, 5, f'for=6.6.6.6, for="{client}:99"', peer=proxy, header="Forwarded") == [202] * 5
        assert sent(ingest, 1, f"for={client}", peer=proxy, header="Forwarded") == [429]
        assert sent(ingest, 1, client, peer=proxy) == [202], (
            "X-Forwarded-For is passed on by such a proxy as a client wrote it"
        )
