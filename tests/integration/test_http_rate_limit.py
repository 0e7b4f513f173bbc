"""The rate limit over real sockets, with two workers: exact, per client address, and without a round trip of its own.

Each test comes from an address of its own (127.0.0.0/8 is all loopback), so no test waits for another's window.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from daemon.config import Config
from tests.kit.system import BATCH, EVENTS, Ingest, System, event, wait_until

KEY = "a-shop-s-key-0123"
CALL_EVENTS_MAX = Config().ingest.call_events_max
CONFIG = {
    "HTTP__WORKERS": "2",
    "RATE_LIMIT__PER_MINUTE": "60",
    "PRODUCERS__KEYS": json.dumps({"shop": KEY}),
    "DEDUPE__EVENTS_PER_WINDOW": "10000",
}
_numbers = itertools.count(2)


def client(ingest: Ingest, address: str) -> httpx.Client:
    return httpx.Client(base_url=ingest.url, transport=httpx.HTTPTransport(local_address=address), timeout=10)


@pytest.fixture
def address() -> str:
    return f"127.0.7.{next(_numbers)}"


@pytest.fixture
def visitor(ingest: Ingest, address: str) -> Iterator[httpx.Client]:
    with client(ingest, address) as connected:
        yield connected


def statuses(ingest: Ingest, address: str, requests: int, connections: int = 8) -> Counter[int]:
    """The statuses of that many good events, over several connections at once."""

    def send(count: int) -> list[int]:
        with client(ingest, address) as connected:
            return [connected.post(EVENTS, json=event()).status_code for _ in range(count)]

    shares = [requests // connections + (n < requests % connections) for n in range(connections)]
    with ThreadPoolExecutor(connections) as pool:
        return Counter(itertools.chain.from_iterable(pool.map(send, shares)))


def test_exactly_sixty_pass_whichever_worker_takes_them(ingest: Ingest, shared_system: System, address: str) -> None:
    assert statuses(ingest, address, 200) == {202: 60, 429: 140}
    assert shared_system.ledger() == {"accepted:view": 60}


def test_two_workers_answer(ingest: Ingest) -> None:
    def pid() -> int:
        return int(httpx.get(ingest.url + "/healthz").json()["pid"])

    seen: set[int] = set()
    wait_until(lambda: seen.add(pid()) or len(seen) == 2, "both workers were met")


@pytest.mark.parametrize("fields", [{}, {"event_id": "twice"}], ids=["new events", "duplicates"])
def test_who_is_over_the_limit_is_told_when_to_come_back(visitor: httpx.Client, fields: dict[str, str]) -> None:
    answers = [visitor.post(EVENTS, json=event(**fields)) for _ in range(62)]
    assert [answer.status_code for answer in answers] == [202] * 60 + [429] * 2
    for refused in answers[60:]:
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert set(refused.json()) == {"message"}


def test_addresses_do_not_share_a_limit(ingest: Ingest, address: str) -> None:
    assert statuses(ingest, address, 100)[202] == 60
    other = f"127.0.8.{next(_numbers)}"
    assert statuses(ingest, other, 60) == {202: 60}


@pytest.mark.parametrize("body", [b"{", b"{}", json.dumps(event(value=0)).encode()], ids=["400", "422", "422 value"])
def test_requests_with_wrong_content_count_too(visitor: httpx.Client, body: bytes) -> None:
    wrong = [visitor.post(EVENTS, content=body).status_code for _ in range(60)]
    assert set(wrong) <= {400, 422}
    assert visitor.post(EVENTS, json=event()).status_code == 429
    assert visitor.post(EVENTS, content=body).status_code == 429


def test_a_batch_is_one_request(visitor: httpx.Client, shared_system: System) -> None:
    for _ in range(60):
        assert visitor.post(BATCH, json=[event() for _ in range(20)]).status_code == 202
    assert visitor.post(BATCH, json=[event()]).status_code == 429
    assert visitor.post(EVENTS, json=event()).status_code == 429, "the two paths share the limit"
    assert shared_system.ledger() == {"accepted:view": 1_200}


def test_a_batch_of_several_calls_is_one_request_and_refused_as_a_whole(
    visitor: httpx.Client, shared_system: System
) -> None:
    large = CALL_EVENTS_MAX + 1
    for _ in range(59):
        assert visitor.post(EVENTS, json=event()).status_code == 202
    assert visitor.post(BATCH, json=[event() for _ in range(large)]).json()["accepted"] == large
    assert visitor.post(BATCH, json=[event() for _ in range(large)]).status_code == 429
    assert shared_system.ledger() == {"accepted:view": 59 + large}


def test_a_batch_without_a_good_event_counts(visitor: httpx.Client) -> None:
    answers = [
        visitor.post(BATCH, content=content).status_code for content in (b"[]", b"{", b"[{}]") for _ in range(20)
    ]
    assert answers == [422] * 20 + [400] * 20 + [422] * 20
    assert visitor.post(EVENTS, json=event()).status_code == 429


def test_a_producer_with_a_key_is_exempt(visitor: httpx.Client, shared_system: System) -> None:
    own = {"x-tallyd-key": KEY}
    assert {visitor.post(EVENTS, json=event(), headers=own).status_code for _ in range(100)} == {202}
    assert not list(shared_system.redis.scan_iter("anl:{0}:rate:*"))
    assert visitor.post(EVENTS, json=event()).status_code == 202, "what it sent counts for no one"


def test_a_producer_is_let_in_from_an_address_over_its_limit_and_what_was_refused_is_counted(
    visitor: httpx.Client, shared_system: System
) -> None:
    for _ in range(60):
        visitor.post(EVENTS, json={})
    same = event(entity_id="again")
    assert visitor.post(EVENTS, json=same).status_code == 429
    assert visitor.post(EVENTS, json=same, headers={"x-tallyd-key": KEY}).status_code == 202
    assert shared_system.redis.exists("anl:{0}:counters:jav:movie:again")


def test_after_the_time_named_the_next_window_begins(
    visitor: httpx.Client, shared_system: System, address: str
) -> None:
    for _ in range(60):
        assert visitor.post(EVENTS, json=event()).status_code == 202
    assert shared_system.redis.pexpire(f"anl:{{0}}:rate:{address}", 1_200)  # as if most of the minute had passed
    refused = visitor.post(EVENTS, json=event())
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
    assert visitor.post(EVENTS, json=event()).status_code == 429
    time.sleep(int(refused.headers["retry-after"]))
    assert [visitor.post(EVENTS, json=event()).status_code for _ in range(61)] == [202] * 60 + [429]


def test_asking_for_the_state_is_not_limited(visitor: httpx.Client) -> None:
    for _ in range(61):
        visitor.post(EVENTS, json={})
    for path in ("/healthz", "/readyz"):
        assert visitor.get(path).status_code == 200


def calls(system: System) -> dict[str, int]:
    """Redis commands carried out so far, of those a request could have caused. A script's own commands count too."""
    stats = system.redis.info("commandstats")
    return {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}


def test_a_request_within_its_limit_takes_one_round_trip_at_most(visitor: httpx.Client, shared_system: System) -> None:
    visitor.post(EVENTS, json=event())
    shared_system.redis.config_resetstat()
    for _ in range(40):
        assert visitor.post(EVENTS, json=event()).status_code == 202
    done = calls(shared_system)
    assert done["evalsha"] <= 40
    assert done["incr"] == 40, "counted in the call that carried the event"
    in_scripts = {
        "type", "time", "incr", "hmget", "hset", "hincrby", "sadd", "dbsize", "ttl", "sismember", "expireat", "pexpire",
    }  # fmt: skip
    assert done.keys() - in_scripts <= {"evalsha", "info", "config|resetstat"}


def test_a_flood_is_refused_without_asking_redis(visitor: httpx.Client, shared_system: System) -> None:
    for _ in range(62):
        visitor.post(EVENTS, json=event())  # over one connection, so to one worker
    shared_system.redis.config_resetstat()
    assert {visitor.post(EVENTS, json=event()).status_code for _ in range(50)} == {429}
    assert calls(shared_system).get("evalsha", 0) <= 1, "the other worker asks once, if a connection is made anew"
